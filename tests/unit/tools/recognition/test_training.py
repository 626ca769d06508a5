"""The training program of recognizers: what its flags become, and what it writes before a step."""

import contextlib
import dataclasses
import json
import logging
import re
import shutil
import threading

import keras
import pytest
import tensorflow as tf

from tests.support.errors import refused
from tests.support.processes import run_ranks
from tests.support.speech import write_librispeech
from tools.config.loader import load, to_yaml
from tools.config.making_options import from_flags
from tools.errors import UserError
from tools.recognition import training
from tools.recognition.training import RunOptions, SpeechRun, TrainingProgram
from tools.speech.config import DataConfig
from tools.speech.corpus import read_corpus
from tools.training import distributed
from tools.training import program as program_module
from tools.training.config import TrainingConfig
from tools.training.distributed import SingleProcess


@dataclasses.dataclass(frozen=True)
class Config:
    data: DataConfig
    training: TrainingConfig


@pytest.fixture
def corpus(tmp_path, rng):
    """Three utterances, one of them without words."""
    sounds = [0.1 * rng.normal(size=size) for size in (8000, 4000, 6000)]
    utterances = zip(["ONE", "TWO", ""], sounds, strict=True)
    write_librispeech(tmp_path / "corpus" / "train", utterances)
    return tmp_path / "corpus"


@pytest.fixture
def program(corpus, toy_task, monkeypatch):
    """A program whose parts tell what they are called with, in `calls`."""
    calls = {}
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)

    def load_config(path, overrides):
        calls["config"], calls["overrides"] = path, dict(overrides)
        data = DataConfig(str(overrides.get("data.data_dir", "")), ("train",), num_buckets=1)
        data = dataclasses.replace(data, synthesize="data.synthesize" in overrides)
        repeatable = "training.deterministic" in overrides
        return Config(
            data, TrainingConfig(batch_size=2, num_epochs=3, seed=4, deterministic=repeatable)
        )

    def make_task(config, processes, pretrained, resumed, needs_evaluation):
        calls["task"] = (config, processes, pretrained, resumed, needs_evaluation)
        task = toy_task(config.data, processes)
        task.config = config
        return task

    def train(task, config, processes, folders, options):
        calls["train"] = (task, config, processes, folders, options)
        return {"eval/wer": 0.5}

    monkeypatch.setattr(program_module, "train", train)
    made = TrainingProgram(
        "p/train.py", "Trains.", "family/own.yml", "A run.", load_config, make_task
    )
    return made, calls


def test_flags_are_short_names_of_config_keys(program, corpus, tmp_path):
    program, calls = program
    output = f"--output_dir={tmp_path / 'run'}"
    program.main([f"--data_dir={corpus}", output])
    assert calls["overrides"] == {"data.data_dir": str(corpus)}
    assert calls["config"] == training.PROJECT / "configs" / "family" / "own.yml"
    arguments = ["--config=other.yml", f"--data_dir={corpus}", "--batch_size=7", "--epochs=9"]
    arguments += ["--seed=0", "--set=model.dropout_rate=0.5", "--set=training.seed=8", output]
    program.main(arguments)
    assert calls["config"] == "other.yml"
    assert calls["overrides"] == {
        "model.dropout_rate": "0.5",
        "data.data_dir": str(corpus),
        "training.batch_size": 7,
        "training.num_epochs": 9,
        "training.seed": 0,  # the flag by its own name has the last word
    }


@pytest.mark.parametrize(
    ("flag", "precision"), [("--mxp", "mixed_float16"), ("--nomxp", "float32"), (None, None)]
)
def test_mixed_precision_has_a_switch(program, corpus, tmp_path, flag, precision):
    program, calls = program
    arguments = [f"--data_dir={corpus}", f"--output_dir={tmp_path / 'run'}"]
    program.main(arguments + ([flag] if flag else []))
    assert calls["overrides"].get("training.precision") == precision


def test_the_environment_names_a_corpus_where_nothing_else_does(
    program, corpus, tmp_path, monkeypatch
):
    program, calls = program
    output = f"--output_dir={tmp_path / 'run'}"
    with refused("Expected a corpus. Received: none.") as caught:
        program.main([output])
    assert "--data_dir" in str(caught.value) and "smoke.yml" in str(caught.value)
    monkeypatch.setenv("DATA_DIR", str(corpus))
    program.main([output])
    assert calls["task"][0].data.data_dir == str(corpus)
    monkeypatch.setenv("HOME", str(corpus.parent))
    monkeypatch.setenv("DATA_DIR", f"~/{corpus.name}")
    program.main([output])
    assert calls["task"][0].data.data_dir == str(corpus)
    monkeypatch.setenv("DATA_DIR", "/nowhere")
    program.main([output, f"--data_dir={corpus}"])
    assert calls["task"][0].data.data_dir == str(corpus)


def test_a_config_may_ask_for_a_synthesized_corpus(program, corpus, tmp_path, monkeypatch):
    """Only a corpus on the command line replaces it."""
    program, calls = program
    places = []

    def cached_corpus(cache):
        places.append(cache)
        return corpus

    monkeypatch.setattr("tools.speech.synthetic_corpus.cached_corpus", cached_corpus)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DATA_DIR", "/nowhere")
    arguments = [f"--output_dir={tmp_path / 'run'}", "--set=data.synthesize=true"]
    program.main(arguments)
    assert calls["task"][0].data.data_dir == str(corpus)
    assert places == [tmp_path / "cache" / "conformer-zoo"]
    other = other_corpus(corpus)
    program.main([*arguments, f"--data_dir={other}"])
    data = calls["task"][0].data
    assert (data.data_dir, data.synthesize) == (str(other), False)  # also when it is resumed
    assert len(places) == 1


def test_options_of_the_loop_are_those_of_the_flags(program, corpus, tmp_path, capsys):
    program, calls = program
    arguments = [f"--data_dir={corpus}", f"--output_dir={tmp_path / 'run'}"]
    assert program.main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == {"eval/wer": 0.5}
    _, config, processes, folders, options = calls["train"]
    assert options == program_module.LoopOptions()
    assert (config, processes) == (calls["task"][0].training, calls["task"][1])
    assert folders == training.RunFolders.inside((tmp_path / "run").resolve())
    assert calls["task"][2:] == ("", None, True)
    assert (processes.rank, processes.size) == (0, 1)
    program.main([*arguments, "--steps=5", "--skip_eval", "--pretrained=before"])
    assert calls["train"][4] == program_module.LoopOptions(max_steps=5, skip_eval=True)
    assert calls["task"][2:] == ("before", None, False)
    program.main([*arguments, "--eval_at_start", "--use_profiler"])
    assert calls["train"][4] == program_module.LoopOptions(eval_at_start=True, use_profiler=True)


def test_a_deterministic_run_asks_tensorflow_for_it(program, corpus, tmp_path, monkeypatch):
    program, _ = program
    asked = []
    monkeypatch.setattr(
        tf.config.experimental, "enable_op_determinism", lambda: asked.append("operations")
    )
    monkeypatch.setattr(keras.utils, "set_random_seed", asked.append)
    arguments = [f"--data_dir={corpus}", f"--output_dir={tmp_path / 'run'}"]
    program.main(arguments)
    assert asked == []
    program.main([*arguments, "--set=training.deterministic=true"])
    assert asked == [4, "operations"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps=-1"], "--steps >= 0"),
        (["extra"], "flags only"),
        (["--epochs=many"], "--epochs"),
    ],
)
def test_command_lines_that_cannot_be_run_are_refused(
    program, corpus, tmp_path, arguments, message
):
    program, calls = program
    with refused(message):
        program.main([f"--data_dir={corpus}", f"--output_dir={tmp_path / 'run'}", *arguments])
    assert "train" not in calls and not (tmp_path / "run").exists()


def test_a_run_tells_what_it_is_made_with_before_its_first_step(program, corpus, tmp_path):
    program, _ = program
    program.main([f"--data_dir={corpus}", f"--output_dir={tmp_path / 'run'}"])
    assert (tmp_path / "run" / "vocabulary.json").read_text() == "[]"
    skipped = (tmp_path / "run" / "skipped.tsv").read_text()
    assert re.fullmatch(r"REASON\tDETAIL\nempty_transcript\t.*:3: 7-1-0002\n", skipped)
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert "tensorflow" in json.dumps(versions)


@contextlib.contextmanager
def directory_of(program, *given):
    """The run directory that a command line takes."""
    options = from_flags(RunOptions, program.command_line().parse(given)[0])
    config = Config(DataConfig("", ("train",)), TrainingConfig())
    with SpeechRun(program, config, options).folders() as folders:
        yield folders.records


def test_run_directories_with_and_without_checkpoints(program, tmp_path):
    program, _ = program
    output = f"--output_dir={tmp_path}"
    with directory_of(program, output) as found:
        assert found == tmp_path.resolve()
    with refused("with checkpoints to --resume"), directory_of(program, output, "--resume"):
        pass
    (tmp_path / "checkpoints" / "step-00000010").mkdir(parents=True)
    with refused("without checkpoints"), directory_of(program, output):
        pass
    with directory_of(program, output, "--resume") as found:
        assert found == tmp_path.resolve()


def test_runs_of_one_second_have_directories_of_their_own(program, tmp_path, monkeypatch):
    program, _ = program
    monkeypatch.setattr(training, "PROJECT", tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "20260131-235959")
    config = "--config=configs/digits.yml"
    with directory_of(program, config) as first, directory_of(program, config) as second:
        assert first == tmp_path / "runs" / "digits-20260131-235959"
        assert second == tmp_path / "runs" / "digits-20260131-235959-2"
        (first / "config.yml").touch()
    assert list((tmp_path / "runs").iterdir()) == [first], "what was left empty is removed"
    with refused("an --output_dir to --resume"), directory_of(program, "--resume"):
        pass


def test_a_run_directory_in_use_is_refused_whatever_is_in_it(program, tmp_path):
    program, _ = program
    output = f"--output_dir={tmp_path}"
    with directory_of(program, output):
        with refused("in use"), directory_of(program, output):
            pass
        (tmp_path / "checkpoints" / "step-00000010").mkdir(parents=True)
        for more in ([], ["--resume"]):
            with refused("in use"), directory_of(program, output, *more):
                pass


@dataclasses.dataclass(frozen=True)
class Whole:
    """A config that can be read from YAML."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)


@pytest.fixture
def resumable(program, corpus, toy_task, tmp_path):
    """A program with a run that has ended, in `run`; its last step is 10."""
    program, calls = program

    def load_config(path, overrides):
        return load(Whole, path, overrides)

    def make_task(config, *_, needs_evaluation):
        calls["config"] = config
        task = toy_task(config.data, SingleProcess())
        task.config = config
        return task

    data = DataConfig(str(corpus), ("train",), num_buckets=1)
    config = Whole(data, TrainingConfig(batch_size=2, num_epochs=3))
    run = tmp_path / "run"
    task = toy_task(data, SingleProcess())
    store = training.RunFolders.inside(run).store()
    assets = {"config.yml": to_yaml(config)}
    groups = {"model": {v.path: v for v in task.model.weights}}
    store.save({"step": 10, "metric": None, "data": task.data_digest}, groups, assets)
    keys = ("training.seed", "data.train_splits")
    resumable = dataclasses.replace(
        program, load_config=load_config, make_task=make_task, defines_a_run=keys
    )
    return lambda *more: resumable.main([f"--output_dir={run}", "--resume", *more]), calls, config


def other_corpus(corpus, words="TWO ONE"):
    """A corpus of the same files with other words."""
    other = corpus.parent / "other"
    shutil.copytree(corpus, other)
    for path in other.rglob("*.trans.txt"):
        path.write_text(path.read_text().replace("ONE", words))
    return other


def test_a_resumed_run_continues_from_its_last_checkpoint(resumable):
    main, calls, _ = resumable
    main()
    assert calls["train"][4].resumed.step == 10
    assert calls["train"][4].resumed.path.name == "step-00000010"


def test_a_resumed_run_keeps_its_corpus_and_its_config(resumable, corpus, monkeypatch):
    main, calls, config = resumable
    monkeypatch.setenv("DATA_DIR", str(other_corpus(corpus)))
    main("--epochs=5")
    now = dataclasses.replace(config.training, num_epochs=5)
    assert calls["config"] == dataclasses.replace(config, training=now)


def test_a_config_that_names_no_corpus_leaves_that_of_the_run(resumable, corpus, tmp_path):
    main, calls, _ = resumable
    (tmp_path / "own.yml").write_text("data: {train_splits: [train], num_buckets: 1}")
    main(f"--config={tmp_path / 'own.yml'}")
    assert calls["config"].data.data_dir == str(corpus)
    assert calls["config"].training.batch_size == TrainingConfig().batch_size


def test_a_corpus_may_be_moved_and_not_changed(resumable, corpus, tmp_path):
    main, calls, _ = resumable
    shutil.copytree(corpus, tmp_path / "moved")
    main(f"--data_dir={tmp_path / 'moved'}")
    assert calls["train"][0].data.data_dir == str(tmp_path / "moved")
    del calls["train"]
    before = (tmp_path / "run" / "config.yml").exists()
    with refused("the training data of"):
        main(f"--data_dir={other_corpus(corpus)}")
    assert "train" not in calls and (tmp_path / "run" / "config.yml").exists() == before


def test_what_defines_a_run_cannot_change(resumable):
    main, calls, _ = resumable
    with refused(match=r"training\.seed 0.*Received: 7"):
        main("--seed=7")
    assert "train" not in calls


@pytest.fixture
def adopting(resumable, monkeypatch):
    """The same, of a task that takes all of the checkpoint's config."""
    main, calls, _ = resumable
    check = training.SpeechRun.check_resumed

    def check_adopted(run, resumed, task):
        task.config = load(Whole, resumed.path / "config.yml", {})
        check(run, resumed, task)

    monkeypatch.setattr(training.SpeechRun, "check_resumed", check_adopted)
    return main, calls


def test_what_a_task_takes_from_its_checkpoint_cannot_be_set_to_something_else(adopting, tmp_path):
    main, calls = adopting
    with refused(match=r"training\.seed 0.*Received: 7"):
        main("--set=training.seed=7")
    path = tmp_path / "own.yml"
    path.write_text("{data: {train_splits: [train], num_buckets: 1}, training: {seed: 7}}")
    with refused(match=r"training\.seed 0.*Received: 7"):
        main(f"--config={path}")
    with refused(match=r"training\.seed 0.*Received: 7"):
        main(f"--config={path}", "--pretrained=weights", "--set=training.seed=7")
    assert "train" not in calls
    main(f"--config={path}", "--pretrained=weights")
    assert calls["train"][4].resumed.step == 10


def test_a_default_asks_for_nothing(adopting, tmp_path):
    main, calls = adopting
    saved = next(tmp_path.rglob("config.yml"))
    saved.write_text(saved.read_text().replace("seed: 0", "seed: 5"))
    path = tmp_path / "own.yml"
    path.write_text("data: {train_splits: [train], num_buckets: 1}")
    main(f"--config={path}")
    assert calls["train"][4].resumed.step == 10
    with refused(match=r"training\.seed 5.*Received: 0"):
        main(f"--config={path}", "--set=training.seed=0")


def test_a_dry_run_tells_shapes_and_writes_nothing(program, corpus, tmp_path, capsys):
    program, calls = program
    arguments = [f"--data_dir={corpus}", f"--output_dir={tmp_path / 'run'}", "--dry_run"]
    assert program.main(arguments) == 0
    assert "train" not in calls and not (tmp_path / "run").exists()
    lines = capsys.readouterr().out.splitlines()
    for line in (
        "waveforms: float32 (2, 8000)",
        "labels: int32 (2, 3)",
        "logits: (2, 3, 5)",
        "parameters: 16",
        "vocabulary: 5",
        "steps per epoch: 1",
        "global batch: 2",
        "train: 2 utterances (0.8 s); skipped 1: empty_transcript 1",
        "  num_epochs: 3",
    ):
        assert line in lines
    (skipped,) = (line for line in lines if line.startswith("skipped: "))
    assert skipped.startswith(f"skipped: empty_transcript {corpus}") and "\t" not in skipped


def test_a_dry_run_names_twenty_of_what_it_would_skip(program, corpus, toy_task, capsys):
    program, _ = program

    def make_task(config, processes, *_, needs_evaluation):
        task = toy_task(config.data, processes)
        task.config, task.skipped = config, [f"too_long\tsound {n}" for n in range(23)]
        return task

    program = dataclasses.replace(program, make_task=make_task)
    assert program.main([f"--data_dir={corpus}", "--dry_run"]) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("skipped: ")]
    assert lines[:20] == [f"skipped: too_long sound {n}" for n in range(20)]
    assert lines[20:] == ["skipped: 3 more, in skipped.tsv of a run"]


def test_only_rank_0_prints_and_writes(program, corpus, tmp_path, capsys, monkeypatch):
    program, calls = program
    manifest = read_corpus(corpus, ("train",))
    folders = training.RunFolders.inside(tmp_path / "run")
    told = iter([(folders, None), (None, None), (manifest, None), (None, None)])

    class Rank1(SingleProcess):
        rank, size = 1, 2

        def broadcast_object(self, value):
            return next(told)

    monkeypatch.setattr(distributed, "start", lambda _: Rank1())
    monkeypatch.setattr(distributed, "claim_devices", lambda *_: "")
    assert program.main([f"--data_dir={corpus}", f"--output_dir={tmp_path / 'own'}"]) == 0
    assert capsys.readouterr().out == ""
    assert calls["train"][3] == folders
    assert not (tmp_path / "run").exists() and not (tmp_path / "own").exists()


def test_without_a_corpus_one_rank_answers(program, monkeypatch):
    program, _ = program
    place = threading.local()
    monkeypatch.setattr(distributed, "start", lambda _: place.processes)

    def work(processes):
        place.processes = processes
        return program.main([])

    first, *others = run_ranks(3, work)
    assert isinstance(first, UserError)
    assert "--data_dir" in str(first) and "smoke.yml" in str(first)
    assert [error.code for error in others] == [2, 2]
