"""Vision training as users run it: several processes, the launch forms, the smoke recipe."""

import json

import numpy as np
import pytest

from tools.cli.synthesize_images import main as synthesize
from vision.train import main

# What makes ranks differ by design is each rank's own batch norm. Sums in another order differ in
# the last digits, and an untrained network with batch norm over few images multiplies differences
# of its weights several times with every step: small steps, of nearly linear Adam.
SAME_ON_ANY_RANKS = [
    "--set=training.synchronize_batch_norm=true",
    "--set=training.optimizer.epsilon=1e-2",
    "--base_lr=2e-5",
    "--min_lr=0",
    "--summary_loss_collect_freq=1",
]
STEPS = 5  # one more than an epoch has
ROOTS = ("summary_root_dir", "ckpt_root_dir", "best_ckpt_root_dir")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "shapes"
    synthesize([f"--output_dir={folder}", "--train_images=16", "--val_images=5"])
    return folder


@pytest.fixture
def train(project, shapes, launch, capsys):
    """Runs the program, several processes as a user does; gives the folder of records and stdout.

    A single one runs in here: TensorFlow need not start for it.
    """

    def run(place, *arguments, num_processes=None):
        command = [f"--config={project / 'configs/vision/smoke.yml'}", f"--data_url={shapes}"]
        command += [*(f"--{root}={place / root}" for root in ROOTS), *arguments]
        if num_processes:
            printed = launch(command, num_processes, program="vision/train.py").stdout
        else:
            assert main(command) == 0
            printed = capsys.readouterr().out
        return next((place / ROOTS[0]).iterdir()), printed

    return run


def values(summaries, name):
    lines = [json.loads(line) for line in (summaries / "metrics.jsonl").read_text().splitlines()]
    return [line[f"train/{name}"] for line in lines if "train/loss" in line]


def test_two_ranks_train_and_evaluate_as_one_process(train, tmp_path):
    """With mixing, whose pairs both ranks must agree on; erasing and cropping are on."""
    common = [*SAME_ON_ANY_RANKS, "--mixup=0.8", "--cutmix=1.0", f"--steps={STEPS}"]
    together, output = train(tmp_path / "two", *common, "--batch_size=8", num_processes=2)
    alone, whole = train(tmp_path / "one", *common, "--batch_size=16")
    ours, expected = values(together, "loss"), values(alone, "loss")
    assert len(expected) == STEPS
    np.testing.assert_allclose(ours, expected, rtol=1e-4)
    # At the same weights the gradients are the same, through the moments of both ranks' images.
    norms = [values(x, "gradient_norm")[0] for x in (together, alone)]
    assert norms[0] == pytest.approx(norms[1], rel=5e-5)
    # Each rank scores its share of the images; the first one tells the sums of both.
    found, expected = (
        json.loads(x.splitlines()[-1].split("<stdout>:")[-1]) for x in (output, whole)
    )
    assert found["eval/num_images"] == expected["eval/num_images"] == 20
    assert found["eval/loss"] == pytest.approx(expected["eval/loss"], rel=1e-3)
    for name in ("acc_head1", "acc_head2", "acc_heads", "acc_heads_top5"):
        assert found[f"eval/{name}"] == pytest.approx(expected[f"eval/{name}"], abs=0.051), name
