"""Training as users run it: ranks, interruptions, other world sizes, errors."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from conformer.train import main
from tests.support.errors import refused

# What makes ranks differ by design: dropout, masks and each rank's own batch norm.
SAME_ON_ANY_RANKS = [
    "--set=model.dropout_rate=0",
    "--set=spec_augment.num_time_masks=0",
    "--set=spec_augment.num_frequency_masks=0",
    "--set=training.synchronize_batch_norm=true",
    "--set=training.optimizer.epsilon=1e-4",
    "--set=loss.kind=fused",
]
RANDOM_EVERYWHERE = [
    "--set=waveform_augment.max_speed_change=0.1",
    "--set=waveform_augment.noise_probability=0.5",
    "--set=waveform_augment.silence_probability=0.5",
    "--set=waveform_augment.max_silence_seconds=0.5",
    "--set=training.checkpoint.every_steps=1",
    "--set=training.deterministic=true",
    "--skip_eval",
]
STEPS_PER_EPOCH = 3  # seventeen utterances, six at once: the last batch lacks one


def metrics(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def last_arrays(directory):
    newest = max((directory / "checkpoints").glob("step-*"))
    with np.load(newest / "arrays.npz") as file:
        return dict(file)


def losses(directory):
    return [line["train/loss"] for line in metrics(directory) if "train/loss" in line]


def evaluations(directory):
    """Error rates and losses by step."""
    return {
        line["step"]: {name: x for name, x in line.items() if name.startswith("eval/")}
        for line in metrics(directory)
        if any(name.startswith("eval/") for name in line)
    }


@pytest.fixture(scope="module")
def alone(train_arguments, tmp_path_factory):
    """One process with batches of six: two epochs, each evaluated, a checkpoint at every step."""
    directory = tmp_path_factory.mktemp("runs") / "alone"
    every = ["--set=training.checkpoint.every_steps=1", "--set=training.checkpoint.keep_last=20"]
    arguments = [*train_arguments, *SAME_ON_ANY_RANKS, *every, f"--output_dir={directory}"]
    main([*arguments, "--batch_size=6"])
    return directory


def test_any_number_of_ranks_equals_one_process(alone, train_arguments, launch, tmp_path):
    """Three ranks begin an epoch, two end it and evaluate together, and one goes on from there."""
    directory = tmp_path / "run"
    common = [*train_arguments, *SAME_ON_ANY_RANKS, f"--output_dir={directory}"]
    result = launch(
        [*common, "--batch_size=2", "--steps=2", "--skip_eval"],
        num_processes=3,  # more than the machine has cores
    )
    assert '"step": 2' in result.stdout
    launch([*common, "--batch_size=3", f"--steps={STEPS_PER_EPOCH}", "--resume"], num_processes=2)
    main([*common, "--batch_size=6", "--resume"])
    assert len(losses(alone)) == 2 * STEPS_PER_EPOCH
    np.testing.assert_allclose(losses(directory), losses(alone), rtol=1e-5)
    ours, expected = evaluations(directory), evaluations(alone)
    assert ours.keys() == expected.keys() == {STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH}
    for step, values in expected.items():
        assert ours[step] == pytest.approx(values, rel=1e-4)
    ours, expected = last_arrays(directory), last_arrays(alone)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-5, err_msg=name)


def test_resumes_with_another_precision_and_batch_size(alone, train_arguments, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(alone, directory)
    for path in directory.glob("checkpoints/step-*"):
        if int(path.name.removeprefix("step-")) > 4:
            shutil.rmtree(path)
    common = [*train_arguments, *SAME_ON_ANY_RANKS, f"--output_dir={directory}", "--resume"]
    common += ["--skip_eval", "--mxp=true", "--set=training.loss_scale.initial=8"]
    main([*common, "--batch_size=6", "--steps=5"])
    assert metrics(directory)[-1]["train/loss_scale"] > 1
    # The next batch under weights that were trained in float32; others cost much more.
    np.testing.assert_allclose(losses(directory), losses(alone)[:5], rtol=0.01)
    main([*common, "--batch_size=3", "--steps=6"])
    assert np.all(np.isfinite(losses(directory)))
    assert len(losses(directory)) == 6


@pytest.fixture(scope="module")
def uninterrupted(train_arguments, launch, project, corpus, tmp_path_factory):
    """A whole run, started in the program's folder, the corpus named by the environment."""
    directory = tmp_path_factory.mktemp("runs") / "uninterrupted"
    config = ["--config=../configs/conformer/smoke.yml", "--set=data.synthesize=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_DIR", str(corpus))
        launch(
            [*config, *RANDOM_EVERYWHERE, f"--output_dir={directory}"],
            program="train.py",
            cwd=project / "conformer",
        )
    return directory


def test_killed_and_resumed_equals_never_killed(
    train_arguments, launch, uninterrupted, project, tmp_path
):
    directory = tmp_path / "killed"
    arguments = [*train_arguments, *RANDOM_EVERYWHERE, f"--output_dir={directory}"]
    process = subprocess.Popen(
        [sys.executable, "conformer/train.py", *arguments],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # Nine steps an epoch: anywhere in the second one.
    wanted = int(np.random.default_rng(os.getpid()).integers(10, 16))
    deadline = time.monotonic() + 600
    while not any(directory.glob(f"checkpoints/step-{wanted:08d}")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    seen = len(losses(directory))
    launch([*arguments, "--resume"])
    assert losses(directory) == losses(uninterrupted), f"killed after step {seen}"
    expected = last_arrays(uninterrupted)
    for name, value in last_arrays(directory).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_dry_run_prints_what_would_happen(train_arguments, capsys, tmp_path):
    main([*train_arguments, "--dry_run", f"--output_dir={tmp_path / 'run'}"])
    printed = capsys.readouterr().out
    for expected in ("waveforms: float32", "parameters:", "steps per epoch: 9", "batch_size: 2"):
        assert expected in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--steps=-1"], "--steps"),
        (["--set=data.train_splits=[]"], "train_splits"),
        (["--set=data.num_buckets=0"], "num_buckets"),
        (["--set=model.subsampling_filters=-3"], "model.subsampling_filters at least 1"),
        (["--set=training.optimizer.average_decay=2"], "average_decay"),
        (["--set=training.optimizer.clip_norm=-1"], "clip_norm"),
        (["--set=model.num_layer=3"], "num_layers"),
        (["--set=model.num_layers=many"], "num_layers"),
        (["--data_dir=/nowhere/at/all"], "/nowhere/at/all"),
        (["--pretrained=/nowhere"], "/nowhere"),
        (["--resume"], "checkpoints"),
        (["--config=/nowhere.yml"], "/nowhere.yml"),
        (["stray"], "stray"),
        (["--bach_size=3"], "batch_size"),
    ],
)
def test_bad_input_is_one_line(train_arguments, tmp_path, change, message):
    with refused(message):
        main([*train_arguments, f"--output_dir={tmp_path / 'run'}", *change])
    assert not (tmp_path / "run").exists()


def test_a_used_output_dir_is_not_overwritten(uninterrupted, train_arguments):
    with refused("resume"):
        main([*train_arguments, f"--output_dir={uninterrupted}"])


def test_the_pretrained_vocabulary_comes_along_and_must_fit(
    uninterrupted, train_arguments, tmp_path
):
    directory = tmp_path / "run"
    common = [*train_arguments, "--steps=1", "--skip_eval", f"--output_dir={directory}"]
    main([*common, f"--pretrained={uninterrupted}"])
    assert (directory / "vocabulary.json").read_text() == (
        uninterrupted / "vocabulary.json"
    ).read_text()
    with refused("tensors of this model"):
        main([*train_arguments, f"--pretrained={uninterrupted}", "--set=model.joint_dim=8"])


def test_a_refused_resume_leaves_the_run_as_it_was(uninterrupted, train_arguments, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(uninterrupted, directory)
    before = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    changed = ["--resume", f"--output_dir={directory}", "--set=model.ctc_weight=0.3"]
    with refused("missing: conformer/ctc_head/"):
        main([*train_arguments, *RANDOM_EVERYWHERE, *changed])
    after = {p: p.read_bytes() for p in directory.rglob("*") if p.is_file() and p in before}
    assert after == before
