"""Tests the training program in process: folders, resuming, fine-tuning, errors."""

import dataclasses
import json
import logging
import os
import shlex

import numpy as np
import pytest
import tensorflow as tf

import vision.train as program
from tests.support.arguments import joined
from tests.support.errors import refused
from tools.training import distributed
from tools.training import program as training_program
from tools.training.checkpoint import CheckpointStore, RunFolders, open_checkpoint
from tools.training.distributed import SingleProcess
from tools.training.loop import LoopOptions
from tools.training.program import log_to_file
from vision.checkpoint import load_model
from vision.classes import Classes
from vision.config import ConfigOptions, load_config
from vision.eval import main as evaluate
from vision.flags import run_config_options
from vision.infer import main as infer
from vision.model import ARCHITECTURES
from vision.opening import open_classifier
from vision.options import ClassifierOptions
from vision.recipe import own_classes, with_recipe
from vision.task import VisionTask
from vision.train import VisionRun, main

EPOCHS, STEPS = 2, 3  # 10 images in batches of 4; the last batch is filled up
ROOTS = ("summary_root_dir", "ckpt_root_dir", "best_ckpt_root_dir")
# Run eagerly, because building a graph takes longer than a few steps.
EAGERLY = "--pynative_mode"
ignore_eager_input = pytest.mark.filterwarnings(
    "ignore:Even though the `tf.config.experimental_run"
)


@pytest.fixture(scope="module")
def data_url(image_folder):
    return image_folder(("blue", "red"), 5)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, small_architecture):
    """Writes a flat recipe with all random augmentation enabled."""
    path = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    path.write_text(
        f"arch: {small_architecture}\n"
        "num_classes: 2\nimage_size: 32\nbatch_size: 4\nepochs: 2\nwarmup_length: 1\n"
        "auto_augment: none\nmin_crop: 0.5\nmixup: 0.5\ncutmix: 0.5\ndrop: 0.1\n"
        "drop_path: 0.1\nwith_ema: True\nema_decay: 0.5\neps: 1.0e-3\nmodel_postfix: 0\n"
        "summary_loss_collect_freq: 1\nprint_loss_every: 2\nckpt_save_every_seconds: 0\n"
    )
    return path


@pytest.fixture(scope="module")
def train(recipe, data_url):
    """Runs the program and returns the run's three folders: summaries, checkpoints, best."""

    def run(place, *arguments, url=data_url):
        flags = [f"--{root}={place / root}" for root in ROOTS]
        defaults = [f"--config={recipe}", f"--data_url={url}", *flags]
        main(joined(defaults, arguments))
        return [max((place / root).iterdir(), default=None) for root in ROOTS]

    return run


@pytest.fixture(scope="module")
def finished(train, tmp_path_factory):
    """Returns a complete run with a checkpoint after every step."""
    return train(tmp_path_factory.mktemp("run"), "--ckpt_save_every_step=1", "--ckpt_keep_num=100")


def metrics(summaries):
    return [json.loads(line) for line in (summaries / "metrics.jsonl").read_text().splitlines()]


def losses(summaries):
    return {x["step"]: x["train/loss"] for x in metrics(summaries) if "train/loss" in x}


def rates(summaries):
    return {x["step"]: x["train/learning_rate"] for x in metrics(summaries) if "train/loss" in x}


def arrays(directory):
    with np.load(CheckpointStore(directory).latest().path / "arrays.npz") as file:
        return dict(file)


def test_the_folders_of_a_run(finished, recipe):
    summaries, checkpoints, best = finished
    assert summaries.name == checkpoints.name == best.name
    assert best.name.endswith("_conformer_test_0"), "a postfix of 0 is none"
    assert (best / recipe.name).read_text() == recipe.read_text()
    assert load_config(best / "all_args.json") == load_config(
        checkpoints / "step-00000006" / "config.yml"
    )
    words = shlex.split((best / "cmd.txt").read_text())
    assert words[:2] == ["python", "vision/train.py"] and f"--config={recipe}" in words
    log = (best / "train_log.log").read_text()
    assert "Number of parameters: " in log and "step 2: loss " in log and "epoch 2" in log
    assert sorted(x.name for x in best.glob("train_log*")) == ["train_log.log"]
    steps = [checkpoint.step for checkpoint in CheckpointStore(checkpoints).all()]
    assert steps == list(range(1, EPOCHS * STEPS + 1))
    assert list(summaries.glob("tensorboard/*"))
    assert (checkpoints / "step-00000001" / "classes.txt").read_text() == "0 blue\n1 red\n"


def test_the_records_of_a_run(finished):
    summaries, _, best = finished
    steps = [x for x in metrics(summaries) if "train/loss" in x]
    assert len(steps) == EPOCHS * STEPS
    assert {f"train/{x}" for x in ("acc_head1", "acc_head2", "acc_heads")} <= steps[0].keys()
    ends = [x for x in metrics(summaries) if "eval/acc_heads" in x]
    assert [x["step"] for x in ends] == [3, 6]
    for name in ("acc_head1", "acc_head2", "acc_heads", "loss"):
        assert {f"eval/{name}", f"eval_unaveraged/{name}"} <= ends[0].keys()
    kept = CheckpointStore(best).all()
    assert {c.step: c.state["metric"] for c in kept} == {
        x["step"]: x["eval/acc_heads"] for x in ends
    }
    top = max(ends, key=lambda x: (x["eval/acc_heads"], x["step"]))
    assert CheckpointStore(best).best().step == top["step"]


def test_a_config_may_ask_for_drawn_images(monkeypatch, tmp_path):
    """Only a data set on the command line replaces them."""
    monkeypatch.setattr(program, "cached_images", lambda cache: cache / "shapes")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("IMAGENET_DIR", "/nowhere")

    def data_url(*arguments):
        values = program.command_line().parse(["--synthesize=true", *arguments])[0]
        return program.resolve_config(run_config_options(values)).data.data_url

    assert data_url() == str(tmp_path / "conformer-zoo" / "shapes")
    assert data_url("--data_url=own") == data_url("--set=data.data_url=own") == "own"


def test_a_run_that_is_resumed_without_a_config_keeps_its_own(finished, recipe, data_url):
    def resolved(*arguments):
        flags = [f"--checkpoint={finished[1]}", *arguments]
        return program.resolve_config(run_config_options(program.command_line().parse(flags)[0]))

    own = load_config(finished[1] / "step-00000006" / "config.yml")
    resuming = dataclasses.replace(own.run, pretrained=str(finished[1]), exclude_epoch_state=False)
    assert resolved() == dataclasses.replace(own, run=resuming)
    longer = dataclasses.replace(own.training, num_epochs=7)
    assert resolved("--epochs=7") == dataclasses.replace(own, run=resuming, training=longer)
    # A file of weights starts a new run.
    weights = program.command_line().parse([f"--pretrained={finished[1]}", "--data_url=d"])[0]
    assert program.resolve_config(run_config_options(weights)).model == load_config().model
    # A given config file is used, with the data set of the run if it has none.
    named = resolved(f"--config={recipe}", "--epochs=3")
    assert named.training == dataclasses.replace(load_config(recipe).training, num_epochs=3)
    assert named.data.data_url == str(data_url)


@ignore_eager_input
def test_a_continued_run_equals_one_that_never_stopped(finished, train, tmp_path):
    """Weights, moments, averages, order of images and random numbers, dropout's too.

    From between two epochs, and from within one where it was stopped; with a graph and without.
    """
    between = finished[1] / f"step-{STEPS:08d}"
    half = train(tmp_path / "a", f"--checkpoint={between}", f"--steps={STEPS + 2}", "--skip_eval")
    rest = train(tmp_path / "b", f"--checkpoint={half[1]}", "--skip_eval", EAGERLY)
    whole = losses(finished[0])
    together = losses(half[0]) | losses(rest[0])
    assert ([*losses(half[0])], [*losses(rest[0])]) == ([4, 5], [6])
    np.testing.assert_allclose(
        [*together.values()], [whole[step] for step in together], rtol=1e-4, atol=1e-5
    )
    assert (rates(half[0]) | rates(rest[0])).items() <= rates(finished[0]).items()
    ours, expected = arrays(rest[1]), arrays(finished[1])
    assert ours.keys() == expected.keys()
    assert {name.partition("/")[0] for name in ours} == {"model", "optimizer", "average"}
    for name, value in expected.items():
        # Relative to each array, because second moments are smaller than a tolerance for weights.
        difference = np.abs(ours[name] - value).max()
        assert difference <= 1e-3 * np.abs(value).max(), name


def test_the_score_is_that_of_the_evaluation_program(finished, data_url, capsys):
    summaries, checkpoints, _ = finished
    evaluate([f"--checkpoint={checkpoints / 'step-00000006'}", f"--data_dir={data_url / 'val'}"])
    printed = capsys.readouterr().out
    assert printed.startswith("eval results: ")
    results = json.loads(printed.removeprefix("eval results: ").replace("'", '"'))
    last = metrics(summaries)[-1]
    assert results["Top1-Acc"] == pytest.approx(last["eval/acc_heads"], abs=1e-6)
    # The program sums the losses of the heads, training uses their mean.
    assert results["Loss"] == pytest.approx(2 * last["eval/loss"], rel=1e-4)


def test_a_label_file_wins_over_the_classes_of_a_checkpoint(finished, tmp_path):
    """A label file also has precedence over the classes of a config; files of weights have none."""
    path, words = open_checkpoint(finished[1]).path, {"image_size": "64"}
    found = with_recipe(str(finished[1]), ConfigOptions(words=words))
    assert found == ConfigOptions(str(path / "config.yml"), {}, words)
    named = ConfigOptions("recipe.yml", {}, words)
    assert with_recipe(str(finished[1]), named) == named
    assert with_recipe("weights.pth", ConfigOptions()) == ConfigOptions()
    assert own_classes(finished[1]).names == ["blue", "red"]
    assert own_classes("weights.pth") == Classes()
    options = ClassifierOptions(str(finished[1]), precision="float32")
    with open_classifier(options) as classifier:
        assert classifier.classes.names == ["blue", "red"]
    (labels := tmp_path / "labels.txt").write_text("a sea\na rose\n")
    options = dataclasses.replace(options, imagenet_label_file=str(labels))
    with open_classifier(options) as classifier:
        assert classifier.classes.names == ["a sea", "a rose"]


@ignore_eager_input
def test_folders_called_by_numbers_of_wordnet_are_those_that_were_trained_on(
    image_folder, train, tmp_path, capsys
):
    """Folder names can be a number, a number and a name, or a name."""
    names = ("0: x", "n00000002 red", "n00000003")
    url = image_folder(names, 2)
    flags = ["--num_classes=3", "--steps=1", "--skip_eval", EAGERLY]
    _, checkpoints, _ = train(tmp_path, *flags, url=url)
    assert own_classes(checkpoints).names == [*names]
    capsys.readouterr()
    evaluate(
        [
            f"--checkpoint={checkpoints}",
            f"--data_dir={url / 'val'}",
            f"--result_path={tmp_path / 'r'}",
        ]
    )
    rows = (tmp_path / "r.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[3] for row in rows] == [x for x in names for _ in range(2)]
    infer(
        [str(url / "val" / names[1]), f"--checkpoint={checkpoints}", f"--output={tmp_path / 'o'}"]
    )
    printed = [x for x in capsys.readouterr().out.splitlines() if "(class: " in x]
    assert len(printed) == 2
    assert all(
        line.endswith(tuple(f"{n} {name})" for n, name in enumerate(names))) for line in printed
    )


def test_a_finished_run_is_not_begun_anew(finished, train, tmp_path, monkeypatch, capsys):
    """The position in the checkpoint is used instead of that of the flag, with a message."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a program of its own
    flags = [f"--checkpoint={finished[1]}", "--start_epoch=1", "--skip_eval"]
    summaries, _, _ = train(tmp_path, *flags)
    assert losses(summaries) == {}
    told = capsys.readouterr().err.splitlines()
    assert told.count(f"start_epoch 1 is ignored: {finished[1]} is in epoch 2") == 1
    assert told.count(f"{finished[1]}/step-00000006: all 2 epochs are completed") == 1


@ignore_eager_input
def test_other_classes_get_new_heads_and_the_old_body(
    finished, train, image_folder, tmp_path, capsys
):
    other = image_folder(("x", "y", "z"), 3)
    flags = ["--num_classes=3", "--epochs=1", "--base_lr=1e-9", "--min_lr=0", "--warmup_lr=0"]
    flags += ["--freeze=stem,coupled_*", f"--pretrained={finished[1]}", "--skip_eval", EAGERLY]
    _, checkpoints, best = train(tmp_path, *flags, url=other)
    log = (best / "train_log.log").read_text()
    assert "not loaded" in log and "convolution_head/kernel" in log
    before, now = arrays(finished[1]), arrays(checkpoints)
    source = CheckpointStore(finished[2]).best()
    name = "vision_conformer/coupled_2/fusion/spatial/convolution/kernel"
    expected = CheckpointStore(finished[1]).best().arrays("average")[name]
    np.testing.assert_array_equal(now[f"model/{name}"], expected)
    assert source.step == CheckpointStore(finished[1]).best().step
    head = "model/vision_conformer/transformer_head/bias"
    assert (before[head].shape, now[head].shape) == ((2,), (3,))
    assert not any("/coupled_" in x for x in now if x.startswith("optimizer"))


def test_a_checkpoint_of_a_run_gives_its_averages_or_the_weights_beside_them(finished):
    checkpoint = CheckpointStore(finished[1]).best()
    config = load_config(checkpoint.path / "config.yml").model
    name = "vision_conformer/class_token"
    plain, average = (checkpoint.arrays(x)[name] for x in ("model", "average"))
    assert np.any(plain != average)
    for use_ema, wanted in ((None, average), (True, average), (False, plain)):
        model = load_model(config, finished[1], use_ema=use_ema)
        np.testing.assert_array_equal(model.class_token, wanted)


def test_a_run_goes_on_with_the_class_folders_it_began_with(
    finished, train, image_folder, tmp_path
):
    """One folder is renamed, which would change the numbers of the others."""
    other = image_folder(("red", "zinnober"), 2)
    flags = [f"--checkpoint={finished[1]}", "--epochs=3", "--skip_eval"]
    with refused("0: red instead of blue, 1: zinnober instead of red"):
        train(tmp_path, *flags, url=other)


@ignore_eager_input
@pytest.mark.parametrize(
    ("classes", "same"), [(("red", "zinnober"), False), (("blue", "red"), True)]
)
def test_as_many_classes_keep_the_heads_by_their_names(
    classes, same, finished, train, image_folder, tmp_path
):
    other = image_folder(classes, 2)
    flags = [f"--pretrained={finished[1]}", "--epochs=1", "--base_lr=1e-9", "--warmup_lr=0"]
    flags += ["--min_lr=0", "--skip_eval", "--seed=5", EAGERLY]
    _, checkpoints, best = train(tmp_path, *flags, url=other)
    now, before = arrays(checkpoints), CheckpointStore(finished[1]).best().weights()
    for name in ("convolution_head/kernel", "transformer_head/kernel", "class_token"):
        path = f"vision_conformer/{name}"
        kept = np.allclose(now[f"model/{path}"], before[path], atol=1e-6)
        assert kept == (same or "head" not in name), name
    log = (best / "train_log.log").read_text()
    assert ("not loaded" in log) == (not same)
    assert same or "0: red instead of blue" in log


@ignore_eager_input
def test_weights_alone_begin_a_run_of_their_own(finished, train, tmp_path):
    flags = [f"--pretrained={finished[1]}", "--start_epoch=1", "--skip_eval", EAGERLY]
    summaries, _, _ = train(tmp_path, *flags)
    assert [*losses(summaries)] == [4, 5, 6]
    whole = rates(finished[0])
    assert rates(summaries) == pytest.approx({step: whole[step] for step in (4, 5, 6)})


@ignore_eager_input
def test_a_rate_that_makes_no_numbers_ends_the_run(train, tmp_path):
    flags = [
        "--base_lr=1e30",
        "--warmup_length=0",
        "--nouse_clip_grad_norm",
        "--skip_eval",
        EAGERLY,
    ]
    with refused(match=r"finite loss.*loss nan.* at step \d, from /.*\.png"):
        train(tmp_path, *flags)


def test_a_dry_run_tells_and_writes_nothing(train, tmp_path, capsys):
    with pytest.raises(FileNotFoundError):
        train(tmp_path, "--dry_run", "--freeze=stem")
    printed = capsys.readouterr().out
    for expected in ("images: float32 (4, 32, 32, 3)", "targets: float32 (4, 2)"):
        assert expected in printed
    assert "frozen variables: 3\n" in printed, "kernel, gamma and beta"
    for expected in ("steps per epoch: 3", "Number of parameters: ", "average_decay: 0.5"):
        assert expected in printed
    assert not any(tmp_path.iterdir())


class Ended(Exception):
    """Ends the program at the point that a test checks."""


def test_flags_of_a_run_reach_the_loop(train, tmp_path, monkeypatch, capsys):
    found = []
    monkeypatch.setattr(
        training_program,
        "train",
        lambda task, config, _, folders, options: found.append(options) or {"x": 1},
    )
    monkeypatch.setattr(program, "VisionTask", lambda *_, **__: None)
    flags = ["--start_epoch=1", "--steps=7", "--skip_eval", "--eval_at_start", "--use_profiler"]
    for number, flag in enumerate(flags):
        train(tmp_path / str(number), flag)
        assert capsys.readouterr().out == '{"x": 1}\n'
    assert found == [
        LoopOptions(start_epoch=1),
        LoopOptions(max_steps=7),
        LoopOptions(skip_eval=True),
        LoopOptions(eval_at_start=True),
        LoopOptions(use_profiler=True),
    ]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], (None, None, False)),
        (["--device_target=CPU"], (None, False, False)),
        (["--use_horovod=false"], (False, None, False)),
        (["--set=training.deterministic=true"], (None, None, True)),
    ],
    ids=str,
)
def test_flags_of_processes_and_devices(train, tmp_path, monkeypatch, flags, expected):
    found = {"deterministic": False}

    def start(use_horovod):
        found["use_horovod"] = use_horovod
        return SingleProcess()

    def claim(processes, use_gpu):
        found["use_gpu"] = use_gpu
        return "devices"

    def end(*_, **__):
        raise Ended

    monkeypatch.setattr(distributed, "start", start)
    monkeypatch.setattr(distributed, "claim_devices", claim)
    monkeypatch.setattr(
        tf.config.experimental,
        "enable_op_determinism",
        lambda: found.update(deterministic=True),
    )
    monkeypatch.setattr(program, "VisionTask", end)
    with pytest.raises(Ended):
        train(tmp_path, *flags)
    assert (found["use_horovod"], found["use_gpu"], found["deterministic"]) == expected


def test_a_checkpoint_to_continue_is_the_newest_and_weights_are_the_best(tmp_path):
    store = CheckpointStore(tmp_path, keep_last=5)
    for step, score in ((1, 0.2), (2, 0.9), (3, 0.5)):
        position = {"epoch": step, "step": 0}
        state = {"step": step, "metric": score, "larger_is_better": True, "position": position}
        store.save(state, {"model": {"x": np.zeros(1)}}, {})
    config = load_config(None, {"run.pretrained": str(tmp_path)})
    assert program.resumed_checkpoint(config) is None, "weights alone"
    run = dataclasses.replace(config.run, exclude_epoch_state=False)
    assert program.resumed_checkpoint(dataclasses.replace(config, run=run)).step == 3
    assert open_checkpoint(tmp_path).step == 2


class OneOfTwo(SingleProcess):
    """One of two processes on the same host."""

    rank, size, local_rank, local_size = 1, 2, 1, 2


@pytest.mark.parametrize(
    ("device_id", "processes", "before", "expected"),
    [
        (3, SingleProcess(), None, "3"),
        (0, SingleProcess(), None, None),
        (3, SingleProcess(), "5", "5"),
        (3, OneOfTwo(), None, None),
    ],
)
def test_device_id_chooses_the_device_of_a_single_process(
    device_id, processes, before, expected, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before or "")  # gives it back after the test
    if before is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    config = load_config(None, {"run.device_id": device_id})
    VisionRun(config, None, []).check(processes)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == expected


@ignore_eager_input
@pytest.mark.parametrize(("name", "flags"), [("conformer_tiny", [EAGERLY]), ("photos", [])])
def test_every_config_takes_a_step(
    name, flags, project, data_url, small_architecture, tmp_path, monkeypatch
):
    """At a tiny size, and by pynative_mode without a graph; smoke.yml trains in integration."""
    eagerly, loss = [], VisionTask.loss

    def note(task, batch, training):
        eagerly.append(tf.executing_eagerly())
        return loss(task, batch, training)

    monkeypatch.setattr(VisionTask, "loss", note)
    arguments = [f"--config={project}/configs/vision/{name}.yml", f"--data_url={data_url}"]
    arguments += [f"--{root}={tmp_path / root}" for root in ROOTS]
    arguments += [f"--arch={small_architecture}", "--num_classes=2", "--image_size=32"]
    arguments += ["--batch_size=2", "--summary_loss_collect_freq=1", "--steps=1", "--skip_eval"]
    main([*arguments, *flags])
    (summaries,) = (tmp_path / ROOTS[0]).iterdir()
    assert len(losses(summaries)) == 1 and np.isfinite(losses(summaries)[1])
    assert set(eagerly) == {bool(flags)}
    assert not tf.config.functions_run_eagerly()


def test_configs_differ_by_the_model_alone(project):
    """So that testing a step of one config is enough; other recipes are exceptions."""
    configs = {x.stem: load_config(x) for x in (project / "configs/vision").glob("*.yml")}
    assert configs.keys() >= {"photos", "smoke", "conformer_tiny"}
    tiny = configs["conformer_tiny"]
    for name, config in configs.items():
        if name not in ("photos", "smoke", "conformer_mindspore"):
            model = dataclasses.replace(config.model, arch=tiny.model.arch)
            assert dataclasses.replace(config, model=model) == tiny, name
            assert config.model.arch in ARCHITECTURES


def test_the_data_set_of_the_environment_fills_in(recipe, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/of")
    monkeypatch.setenv("IMAGENET_DIR", "~/the/environment")
    flags = program.command_line()
    for arguments, expected in (([], "/of/the/environment"), (["--data_url=/named"], "/named")):
        values, _ = flags.parse([f"--config={recipe}", *arguments])
        assert program.resolve_config(run_config_options(values)).data.data_url == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--steps=-1"], "--steps"),
        (["stray"], "stray"),
        (["--base_lrr=1"], "--base_lr"),
        (["--num_classes=3"], "3 class folders"),
        (["--data_url=/nowhere"], "/nowhere"),
        (["--val_dir=nothing"], "nothing"),
        (["--start_epoch=2"], "start_epoch"),
        (["--device_num=4"], "horovodrun -np 4"),
        (["--pretrained=/nowhere.pth"], "/nowhere.pth"),
        (["--checkpoint=/nowhere"], "/nowhere"),
        (["--checkpoint=/a", "--pretrained=/b"], "both"),
        (["--freeze=stam"], "stem"),
        (["--arch=conformer_huge"], "conformer_tiny"),
        (["--image_size=40"], "multiple of 16"),
        (["--best_ckpt_root_dir=/proc/x", "--skip_eval"], "/proc/x"),
        (["--config=/nowhere.yml"], "/nowhere.yml"),
    ],
)
def test_bad_input_is_one_line(train, tmp_path, change, message):
    with refused(message):
        train(tmp_path, *change)


def test_a_folder_that_cannot_be_made_leaves_no_others(train, tmp_path):
    (tmp_path / "file").touch()
    with refused("room and permission for a folder"):
        train(tmp_path, f"--best_ckpt_root_dir={tmp_path / 'file'}")
    assert not any(any((tmp_path / root).iterdir()) for root in ROOTS[:2])


def test_folders_must_differ_and_are_new(train, tmp_path, monkeypatch):
    same = [f"--{root}={tmp_path}" for root in ROOTS]
    with refused("three different folders"):
        train(tmp_path, *same)
    monkeypatch.setattr("time.strftime", lambda *_: "26-01-31_235959")
    monkeypatch.setattr(training_program, "train", lambda *_, **__: {})
    name = "26-01-31_235959_conformer_test_0_second"
    (tmp_path / ROOTS[1] / name).mkdir(parents=True)
    train(tmp_path, "--model_postfix=second")
    assert (tmp_path / ROOTS[2] / f"{name}-2" / "cmd.txt").exists()
    assert [path.name for path in (tmp_path / ROOTS[1]).iterdir()] == [name], "left empty: removed"


def test_a_late_rank_takes_the_folders_that_rank_0_made(train, tmp_path, monkeypatch):
    """The folders exist before the other ranks receive their names."""
    made = []

    class Rank1(OneOfTwo):
        def broadcast_object(self, value):
            if made:
                raise _Heard
            made.append(tmp_path / "summaries")
            made[0].mkdir()
            return RunFolders(*made * 3), None

    monkeypatch.setattr(distributed, "start", lambda _: Rank1())
    monkeypatch.setattr(distributed, "claim_devices", lambda *_: "")
    with pytest.raises(_Heard):
        train(tmp_path)


class _Heard(Exception):
    """Ends a run after its folders are created."""


def log_of(processes, folder):
    folders = RunFolders(folder, folder, folder)
    return log_to_file(VisionRun(load_config(), None, []).log_file(folders, processes), processes)


def test_other_ranks_log_where_they_see_the_folder_and_have_something_to_tell(tmp_path):
    with log_of(OneOfTwo(), tmp_path / "elsewhere"):
        logging.getLogger("tools").warning("seen on the terminal alone")
    with log_of(OneOfTwo(), tmp_path):
        assert not any(tmp_path.iterdir())
        logging.getLogger("tools").warning("dropped")
    assert [x.name for x in tmp_path.iterdir()] == ["train_log_1.log"]


def test_a_log_has_names_of_any_bytes(tmp_path, monkeypatch):
    # Captured output must be UTF-8, which cannot represent such names.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with log_of(SingleProcess(), tmp_path):
        logging.getLogger("tools").warning(os.fsdecode(b"dropped caf\xe9.png"))
    assert (tmp_path / "train_log.log").read_bytes().endswith(b"dropped caf\xe9.png\n")
