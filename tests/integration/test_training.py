"""Training as users run it: ranks, interruptions, other world sizes, errors."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from conformer.train import main
from tools.errors import UserError

# What makes ranks differ by design: dropout, masks and each rank's own batch norm.
SAME_ON_ANY_RANKS = [
    "--set=model.dropout_rate=0",
    "--set=spec_augment.num_time_masks=0",
    "--set=spec_augment.num_frequency_masks=0",
    "--set=training.synchronize_batch_norm=true",
    "--set=training.optimizer.epsilon=1e-4",
    "--skip_eval",
]
RANDOM_EVERYWHERE = [
    "--set=waveform_augment.max_speed_change=0.1",
    "--set=waveform_augment.noise_probability=0.5",
    "--set=training.checkpoint.every_steps=1",
    "--set=training.deterministic=true",
    "--skip_eval",
]


def metrics(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def last_arrays(directory):
    newest = max((directory / "checkpoints").glob("step-*"))
    with np.load(newest / "arrays.npz") as file:
        return dict(file)


def losses(directory):
    return [line["train/loss"] for line in metrics(directory) if "train/loss" in line]


def test_two_ranks_equal_one_process(train_arguments, launch, tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone"
    common = [*train_arguments, *SAME_ON_ANY_RANKS, "--steps=6"]
    launch([*common, "--batch_size=2", f"--output_dir={together}"], num_processes=2)
    main([*common, "--batch_size=4", f"--output_dir={alone}"])
    np.testing.assert_allclose(losses(together), losses(alone), rtol=1e-5)
    ours, expected = last_arrays(together), last_arrays(alone)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def uninterrupted(train_arguments, launch, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "uninterrupted"
    launch([*train_arguments, *RANDOM_EVERYWHERE, f"--output_dir={directory}"])
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


def test_resumes_with_another_world_size_batch_size_and_precision(
    train_arguments, launch, tmp_path
):
    directory = tmp_path / "run"
    common = [*train_arguments, f"--output_dir={directory}", "--skip_eval"]
    common += ["--set=training.checkpoint.every_steps=1"]
    main([*common, "--epochs=8", "--steps=60"])
    before = np.mean(losses(directory)[-8:])
    launch([*common, "--epochs=8", "--steps=64", "--resume", "--batch_size=1"], num_processes=2)
    main([*common, "--epochs=8", "--steps=68", "--resume", "--batch_size=3"])
    main([*common, "--epochs=8", "--steps=70", "--resume", "--mxp=true"])
    after = losses(directory)[60:]
    assert len(after) == 10
    assert np.all(np.isfinite(after))
    # A restart from random weights would cost several times as much.
    assert np.mean(after) < 1.3 * before
    assert metrics(directory)[-1]["train/loss_scale"] > 1


def test_eight_processes_on_any_machine(train_arguments, launch, tmp_path):
    result = launch(
        [*train_arguments, "--steps=2", f"--output_dir={tmp_path / 'run'}", "--skip_eval"],
        num_processes=8,
    )
    assert '"step": 2' in result.stdout


def test_runs_from_its_own_folder_and_finds_the_corpus_in_the_environment(
    project, corpus, launch, monkeypatch, tmp_path
):
    monkeypatch.setenv("DATA_DIR", str(corpus))
    launch(
        [
            "--config=../configs/conformer/smoke.yml",
            "--steps=1",
            "--skip_eval",
            f"--output_dir={tmp_path / 'run'}",
        ],
        program="train.py",
        cwd=project / "conformer",
    )


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
        (["--set=model.subsampling_filters=-3"], "model section"),
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
    with pytest.raises(UserError) as caught:
        main([*train_arguments, f"--output_dir={tmp_path / 'run'}", *change])
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert not (tmp_path / "run").exists()


def test_a_used_output_dir_is_not_overwritten(uninterrupted, train_arguments):
    with pytest.raises(UserError, match="resume"):
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
    with pytest.raises(UserError, match="variables of this model"):
        main([*train_arguments, f"--pretrained={uninterrupted}", "--set=model.joint_dim=8"])
