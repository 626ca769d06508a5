"""quickstart.sh with programs that tell of their calls, and one that leaves records of a run."""

import sys

import pytest

# Only the script that sums up the run is the real one.
PYTHON = """#!/bin/bash
[[ $1 != - ]] || exec "{python}" "$@"
printf '[%s]' python "$@"
echo
"""
HOROVODRUN = """#!/bin/bash
printf '[%s]' horovodrun "$@"
echo
mkdir runs/quickstart/run
cd runs/quickstart/run
printf '%s\\n' '{"step": 0, "eval/wer": 0.9}' '{"step": 1, "train/loss": 2.0}' \\
  '{"step": 1, "eval/wer": 0.5}' '{"step": 2, "eval/wer": 0.255}' > metrics.jsonl
"""


@pytest.fixture
def clone(make_clone):
    root = make_clone(
        "quickstart.sh", python=PYTHON.format(python=sys.executable), horovodrun=HOROVODRUN
    )
    (root / "run_scripts" / "setup.sh").write_text("echo '[setup]'\n")
    for name in ("run", "corpus"):
        (root / "runs" / "quickstart" / name).mkdir(parents=True)
        (root / "runs" / "quickstart" / name / "before").touch()
    return root


def test_it_sets_up_transcribes_twice_and_trains_anew(clone, run_script, told):
    found = run_script(clone, "quickstart.sh", [])
    assert found.returncode == 0, found.stderr
    *calls, summary = (x for x in found.stdout.splitlines() if x and not x.startswith("=="))
    sample = "conformer/pretrained/digits/sample.flac"
    data, output = "runs/quickstart/corpus", "runs/quickstart/run"
    infer = ("python", "-m", "conformer.infer")
    made = "--train_utterances 300 --dev_utterances 40 --num_speakers 4".split()
    trained = f"--config configs/conformer/quickstart.yml --data_dir {data} --output_dir {output}"
    train = ("horovodrun", "-np", "2", "python", "conformer/train.py", *trained.split())
    assert "".join(f"{x}\n" for x in calls) == (
        told("setup")
        + told(*infer, "--run_eagerly=1", sample)
        + told(*infer, "--run_eagerly=0", sample)
        + told("python", "-m", "tools.cli.synthesize_corpus", "--output_dir", data, *made)
        + told(*train, "--eval_at_start")
    )
    assert "90.0% before, 25.5% after" in summary
    assert not (clone / output / "before").exists()
    assert (clone / data / "before").exists()


def test_the_files_that_it_names_are_there(project):
    assert (project / "conformer/pretrained/digits/sample.flac").is_file()
    assert (project / "configs/conformer/quickstart.yml").is_file()


def test_it_ends_with_the_first_step_that_fails(clone, run_script):
    (clone / "run_scripts" / "setup.sh").write_text("exit 2\n")
    found = run_script(clone, "quickstart.sh", [])
    assert found.returncode == 2
    assert "[python]" not in found.stdout
    assert (clone / "runs/quickstart/run/before").exists()
