"""Tests recipes with sections and with flat keys, and the flags for their keys."""

import fnmatch
import json
from dataclasses import asdict

import pytest
import yaml

from tests.support.errors import refused
from tools.config.command_line import CommandLine
from tools.config.loader import leaf_keys, leaf_values
from vision.config import VisionConfig, all_arguments, load_config, preprocessing_of
from vision.eval import command_line
from vision.flags import add_training_flags, training_config_options
from vision.recipe_keys import PLAIN_SECTIONS, flat_keys

# All keys of MindSpore's recipe: value there, dotted key and value in this project.
FLAT = {
    "dataset": ("ImageNet", "data.dataset", "ImageNet"),
    "data_url": ("/data/imagenet", "data.data_url", "/data/imagenet"),
    "train_dir": ("train", "data.train_dir", "train"),
    "val_dir": ("validation_preprocess", "data.val_dir", "validation_preprocess"),
    "train_num_samples": (-1, "data.train_num_samples", -1),
    "val_num_samples": (500, "data.val_num_samples", 500),
    "auto_augment": ("rand-m7-mstd0.5-inc1", "augmentation.auto_augment", "rand-m7-mstd0.5-inc1"),
    "aa_interpolation": ("bicubic", "augmentation.aa_interpolation", "bicubic"),
    "re_mode": ("pixel", "augmentation.re_mode", "pixel"),
    "re_prob": (0.2, "augmentation.re_prob", 0.2),
    "re_count": (2, "augmentation.re_count", 2),
    "cutmix": (0.9, "augmentation.cutmix", 0.9),
    "mixup": (0.7, "augmentation.mixup", 0.7),
    "mixup_prob": (0.6, "augmentation.mixup_prob", 0.6),
    "mixup_mode": ("batch", "augmentation.mixup_mode", "batch"),
    "mixup_off_epoch": (0.0, "augmentation.mixup_off_epoch", 0),
    "switch_prob": (0.4, "augmentation.switch_prob", 0.4),
    "label_smoothing": (0.2, "augmentation.label_smoothing", 0.2),
    "min_crop": (0.1, "augmentation.min_crop", 0.1),
    "crop_pct": (0.96, "preprocessing.crop_pct", 0.96),
    "optimizer": ("sgd", "training.optimizer.name", "momentum"),
    "beta": ([0.8, 0.99], "training.optimizer.beta_2", 0.99),
    "eps": ("1e-7", "training.optimizer.epsilon", 1e-7),
    "base_lr": (0.002, "training.schedule.peak", 0.002),
    "min_lr": (1.0e-6, "training.schedule.final", 1e-6),
    "lr_scheduler": ("onecycle", "training.schedule.name", "one_cycle"),
    "lr_adjust": (20, "training.schedule.decay_epochs", 20.0),
    "lr_gamma": (0.9, "training.schedule.decay_rate", 0.9),
    "momentum": (0.8, "training.optimizer.momentum", 0.8),
    "weight_decay": (0.04, "training.optimizer.weight_decay", 0.04),
    "epochs": (200, "training.num_epochs", 200),
    "batch_size": (50, "training.batch_size", 50),
    "is_dynamic_loss_scale": (False, "training.loss_scale.mode", "fixed"),
    "loss_scale": (1024, "training.loss_scale.initial", 1024.0),
    "num_parallel_workers": (8, "data.num_parallel_workers", 8),
    "start_epoch": (3, "run.start_epoch", 3),
    "warmup_length": (5, "training.schedule.warmup_epochs", 5.0),
    "warmup_lr": (0.000007, "training.schedule.warmup_initial", 7e-6),
    "use_clip_grad_norm": (True, "training.optimizer.clip_norm", 2.0),
    "clip_grad_norm": (2.0, "training.optimizer.clip_norm", 2.0),
    "exclude_epoch_state": (False, "run.exclude_epoch_state", False),
    "seed": (7, "training.seed", 7),
    "with_ema": (True, "training.optimizer.average_decay", 0.999),
    "ema_decay": (0.999, "training.optimizer.average_decay", 0.999),
    "pynative_mode": (False, "run.pynative_mode", False),
    "arch": ("conformer_small", "model.arch", "conformer_small"),
    "amp_level": ("O3", "training.precision", "mixed_float16"),
    "file_format": ("ONNX", "run.file_format", "ONNX"),
    "pretrained": ("", "run.pretrained", ""),
    "image_size": (192, "preprocessing.image_size", 192),
    "num_classes": (196, "model.num_classes", 196),
    "drop": (0.1, "model.drop", 0.1),
    "drop_block": (0.05, "model.drop_block", 0.05),
    "drop_path": (0.2, "model.drop_path", 0.2),
    "disable_approximate_gelu": (False, "model.disable_approximate_gelu", False),
    "use_pytorch_maxpool": (False, "model.use_pytorch_maxpool", False),
    "device_id": (0, "run.device_id", 0),
    "device_num": (4, "run.device_num", 4),
    "device_target": ("GPU", "run.device_target", "GPU"),
    "summary_root_dir": ("/m/summary_dir/", "run.summary_root_dir", "/m/summary_dir/"),
    "ckpt_root_dir": ("/m/checkpoints/", "run.ckpt_root_dir", "/m/checkpoints/"),
    "best_ckpt_root_dir": ("/m/best/", "run.best_ckpt_root_dir", "/m/best/"),
    "ckpt_keep_num": (10, "training.checkpoint.keep_last", 10),
    "best_ckpt_num": (4, "training.checkpoint.keep_best", 4),
    "ckpt_save_every_step": (0, "training.checkpoint.every_steps", 0),
    "ckpt_save_every_seconds": (900, "training.checkpoint.every_seconds", 900.0),
    "print_loss_every": (50, "training.print_every_steps", 50),
    "summary_loss_collect_freq": (10, "training.log_every_steps", 10),
    "model_postfix": (3, "run.model_postfix", "3"),
    "collect_input_data": (False, None, None),
    "dump_graph": (False, None, None),
}


def values_of(config):
    return leaf_values(config)


@pytest.fixture
def flat_file(tmp_path):
    def write(changes=None, suffix=".yaml"):
        content = {name: value for name, (value, _, _) in FLAT.items()} | (changes or {})
        path = tmp_path / f"recipe{suffix}"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.mark.parametrize("suffix", [".yml", ".yaml"])
def test_a_flat_recipe_loads_as_it_is(flat_file, suffix):
    values = values_of(load_config(flat_file(suffix=suffix)))
    for name, (_, dotted, expected) in FLAT.items():
        if dotted is not None:
            assert values[dotted] == expected, name
            assert type(values[dotted]) is type(expected), name
    assert values["training.optimizer.beta_1"] == 0.8


@pytest.mark.parametrize("name", [n for n in FLAT if n not in ("collect_input_data", "dump_graph")])
def test_every_key_is_a_flag_that_wins_over_the_file(flat_file, name):
    words = {"optimizer": "adam", "lr_scheduler": "exp_lr", "aa_interpolation": "nearest"}
    words |= {"re_mode": "const", "mixup_mode": "elem", "amp_level": "O0", "device_target": "CPU"}
    words |= {"file_format": "KERAS", "auto_augment": "none", "eps": "1e-6", "beta": "0.5, 0.6"}
    words |= {"mixup_off_epoch": "5", "min_lr": "1e-4", "warmup_lr": "1e-4"}
    value, dotted, expected = FLAT[name]
    others = {str: "other", bool: str(not value), int: "1" if value != 1 else "2", float: "0.25"}
    other = words.get(name) or others[type(value)]
    flags = CommandLine("train.py", "")
    add_training_flags(flags)
    parsed, _ = flags.parse([f"--config={flat_file()}", f"--{name}", other])
    before = values_of(load_config(flat_file()))
    now = values_of(training_config_options(parsed).load())
    changed = {key for key in now if now[key] != before[key]}
    wanted = {dotted}
    if name == "beta":
        wanted = {"training.optimizer.beta_1", "training.optimizer.beta_2"}
    assert changed == wanted
    assert now[dotted] != expected


@pytest.mark.parametrize(
    ("flags", "decay", "norm"),
    [
        ([], None, 3.0),
        (["--with_ema"], 0.99, 3.0),
        (["--with_ema", "true", "--ema_decay=0.9"], 0.9, 3.0),
        (["--ema_decay=0.9"], None, 3.0),
        (["--nouse_clip_grad_norm"], None, None),
        (["--with_ema=True", "--clip_grad_norm=1"], 0.99, 1.0),
    ],
)
def test_switches_and_their_numbers(flat_file, flags, decay, norm):
    """EMA and clipping are independent of each other."""
    changes = {"with_ema": False, "ema_decay": 0.99, "clip_grad_norm": 3.0}
    line = CommandLine("train.py", "")
    add_training_flags(line)
    parsed, _ = line.parse([f"--config={flat_file(changes)}", *flags])
    optimizer = training_config_options(parsed).load().training.optimizer
    assert (optimizer.average_decay, optimizer.clip_norm) == (decay, norm)


def test_a_switch_alone_stands_for_its_usual_number():
    off = load_config(flags={"use_clip_grad_norm": "false"}).training.optimizer
    assert (off.average_decay, off.clip_norm) == (None, None)
    on = load_config(flags={"with_ema": "true", "use_clip_grad_norm": "true"}).training.optimizer
    assert (on.average_decay, on.clip_norm) == (0.9999, 1.0)


def test_flags_win_over_the_preprocessing_of_an_exported_model():
    known = {"image_size": 64, "crop_pct": 0.9, "interpolation": "nearest"}
    known |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    assert asdict(preprocessing_of(known, {})) == {
        **known,
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "exif_orientation": False,
    }
    assert preprocessing_of({**known, "exif_orientation": True}, {}).exif_orientation
    words = {"crop_pct": "1.0", "mean": "0.5,0.6,0.7", "arch": "conformer_small"}
    found = preprocessing_of(known, words)
    assert (found.crop_pct, found.mean, found.std) == (1.0, (0.5, 0.6, 0.7), (0.4, 0.5, 0.6))
    assert (found.interpolation, found.image_size) == ("nearest", 64)


def test_flags_over_a_file_in_sections(tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("training: {num_epochs: 4, optimizer: {clip_norm: null}}\nmodel: {drop: 0.5}\n")
    flags = {"clip_grad_norm": "5", "amp_level": "bfloat16", "freeze": "stem,coupled_2"}
    config = load_config(path, {"training.optimizer.name": "adam"}, flags)
    assert config.model.drop == 0.5
    assert (config.training.num_epochs, config.training.batch_size) == (4, 100)
    assert (config.training.optimizer.clip_norm, config.training.optimizer.name) == (5.0, "adam")
    assert (config.training.precision, config.training.freeze) == (
        "mixed_bfloat16",
        ("stem", "coupled_2"),
    )


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_amp_levels(level):
    precision = load_config(flags={"amp_level": level}).training.precision
    assert precision == ("float32" if level == "O0" else "mixed_float16")


@pytest.mark.parametrize(
    ("flags", "overrides"),
    [
        ({}, {}),
        ({"with_ema": "true", "lr_scheduler": "multistep_lr", "mean": "0.4,0.5,0.6"}, {}),
        (
            {"amp_level": "O1", "is_dynamic_loss_scale": "false", "beta": "0.1,0.2"},
            {"training.deterministic": True, "training.schedule.by_epoch": "true"},
        ),
        ({"use_clip_grad_norm": "0", "model_postfix": "x", "layer_decay": "0.7"}, {}),
    ],
)
def test_all_arguments_read_back_as_a_flat_file(tmp_path, flags, overrides):
    config = load_config(None, overrides, flags)
    path = tmp_path / "all_args.json"
    path.write_text(json.dumps(all_arguments(config), indent=2))
    assert load_config(path) == config
    assert FLAT.keys() - all_arguments(config).keys() == {"collect_input_data", "dump_graph"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_lrr": 1}, r"known key in .*base_lrr.*Use base_lr"),
        ({"base_lr": "fast"}, r"a number for base_lr in .*recipe\.yaml"),
        ({"lr_scheduler": "linear"}, "cosine_lr, multistep_lr, exp_lr, onecycle, constant_lr"),
        ({"amp_level": "O4"}, "O0"),
        ({"beta": [0.9]}, "a list of 2.*beta"),
        ({"mixup_off_epoch": 0.5}, "an integer for mixup_off_epoch"),
        ({"collect_input_data": True}, "collect_input_data"),
        ({"dump_graph": True}, "use_profiler"),
        ({"min_lr": 0.1}, "schedule"),
        ({"device_num": 0}, "device_num"),
        ({"train_num_samples": 0}, "train_num_samples"),
        ({"drop_path": None}, "drop_path"),
        ({"model_postfix": "a/b"}, "model_postfix without /"),
        ({"preprocessing.mean": [0.5, 0.5, float("inf")]}, "preprocessing.mean at least -1000"),
    ],
)
def test_a_flat_recipe_that_is_wrong_is_refused_in_a_line(flat_file, changes, message):
    with refused(match=message):
        load_config(flat_file(changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": [2, 0.9]}, r"Expected beta\[0\] at least 0 and below 1\. Received: 2"),
        ({"eps": 0}, r"Expected eps above 0\. Received: 0"),
        ({"epochs": 0}, r"Expected epochs at least 1\. Received: 0\. Correct epochs"),
        ({"min_lr": 1}, r"Expected warmup_lr and min_lr from 0 to the peak"),
        ({"warmup_length": -1}, "Expected warmup_length at least 0"),
        ({"lr_gamma": 0}, "Expected lr_gamma above 0 and at most 1"),
        ({"ema_decay": 1}, "Expected ema_decay at least 0 and below 1"),
        ({"clip_grad_norm": 0}, "Expected clip_grad_norm above 0"),
        ({"loss_scale": 0}, "Expected loss_scale above 0"),
        ({"ckpt_keep_num": 0}, "Expected ckpt_keep_num at least 1"),
        ({"summary_loss_collect_freq": 0}, "Expected summary_loss_collect_freq at least 1"),
        ({"print_loss_every": -1}, "Expected print_loss_every at least 0"),
    ],
)
@pytest.mark.parametrize("by", ["file", "flags"])
def test_the_engine_speaks_of_flat_keys_to_whom_wrote_them(flat_file, changes, message, by):
    words = {key: str(value).strip("[]") for key, value in changes.items()}
    with refused(match=message):
        if by == "file":
            load_config(flat_file(changes))
        else:
            load_config(flat_file(), None, words)


def test_the_engine_speaks_of_sections_to_whom_wrote_them(flat_file, tmp_path):
    path = tmp_path / "sections.yml"
    path.write_text("training: {schedule: {final: 1.0}}\n")
    for given in ((path, {}, {"epochs": "5"}), (flat_file(), {"training.schedule.final": 1}, {})):
        with refused(match=r"schedule\.final from 0"):
            load_config(*given)
    with refused(match=r"Expected training\.num_epochs at least 1"):
        load_config(path, {"training.num_epochs": 0}, {"min_lr": "0"})


def test_defaults_are_the_recipe_of_the_originals():
    training = load_config().training
    assert (training.num_epochs, training.optimizer.name) == (300, "adamw")
    assert (training.optimizer.weight_decay, training.optimizer.clip_norm) == (0.05, 1.0)
    assert (training.schedule.name, training.schedule.peak, training.schedule.final) == (
        "cosine",
        1e-3,
        1e-5,
    )
    assert (training.schedule.warmup_epochs, training.schedule.warmup_initial) == (2.0, 7e-6)
    assert (training.optimizer.beta_1, training.optimizer.beta_2) == (0.9, 0.999)
    assert (training.optimizer.epsilon, training.batch_size) == (1e-8, 100)
    assert (training.log_every_steps, training.print_every_steps) == (20, 100)
    kept = training.checkpoint
    assert (kept.every_seconds, kept.keep_last, kept.keep_best) == (1800.0, 10, 5)
    assert training.evaluate_unaveraged
    assert training.optimizer.average_decay is None
    assert training.best_metric == "eval/acc_heads" and training.larger_is_better


def test_both_recipes_are_there(project):
    """The values in which MindSpore's recipe differs from that of the paper."""
    folder = project / "configs" / "vision"
    theirs, ours = (
        values_of(load_config(folder / f"conformer_{name}.yml")) for name in ("mindspore", "tiny")
    )
    differences = {key: theirs[key] for key in theirs if theirs[key] != ours[key]}
    assert differences == {
        "data.num_parallel_workers": 8,
        "preprocessing.crop_pct": 0.96,
        "model.disable_approximate_gelu": False,
        "model.use_pytorch_maxpool": False,
        "run.file_format": "ONNX",
        "training.batch_size": 100,
        "training.loss_scale.initial": 1024.0,
        "training.optimizer.clip_norm": 1.0,
        "training.schedule.warmup_epochs": 2.0,
        "training.schedule.warmup_initial": 7e-6,
    }
    given = yaml.safe_load((folder / "conformer_mindspore.yml").read_text())
    paths = {"data_url", "device_id", "device_num", "model_postfix"}
    paths |= {"summary_root_dir", "ckpt_root_dir", "best_ckpt_root_dir"}
    assert FLAT.keys() - given.keys() - paths == {"collect_input_data", "dump_graph"}


def test_no_two_keys_have_one_flat_name():
    leaves = leaf_keys(VisionConfig)
    plain = [key.split(".")[1] for key in leaves if key.split(".")[0] in PLAIN_SECTIONS]
    assert len(plain) == len(set(plain))
    training = flat_keys({key: kind for key, kind in leaves.items() if key.startswith("training")})
    assert not set(plain) & training.keys()


def test_the_docs_answer_every_key(project):
    text = (project / "docs" / "train.md").read_text().partition("| flat key | here |")[2]
    rows = [line.split("|")[1:3] for line in text.split("\n\n")[0].splitlines() if line]
    patterns = " ".join(key for key, _ in rows).replace("`", " ").split()
    keys = flat_keys(leaf_keys(VisionConfig))
    assert [k for k in keys if not any(fnmatch.fnmatchcase(k, x) for x in patterns)] == []


@pytest.mark.parametrize("name", FLAT)
def test_help_names_the_key_behind_a_flag(name):
    line = CommandLine("train.py", "")
    add_training_flags(line)
    lines = line.help_text().splitlines()
    heads = (f"  --{name}=", f"  --[no]{name}")
    (place,) = (i for i, x in enumerate(lines) if x.startswith(heads[0]) or x == heads[1])
    assert (FLAT[name][1] or "Only false is supported") in lines[place + 1]


def test_every_key_of_the_recipe_is_a_flag_of_evaluation():
    line = command_line("vision.eval", "[FLAGS]")
    flags = [f"--{name}={value}" for name, (value, *_) in FLAT.items() if name != "val_num_samples"]
    flags = [flag.replace("=[0.8, 0.99]", "=0.8,0.99") for flag in flags]
    values, rest = line.parse([*flags, "--val_num_samples=-1", "data"])
    assert rest == ["data"] and values.val_dir == "validation_preprocess"
