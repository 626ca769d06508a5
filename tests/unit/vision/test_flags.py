"""Tests the options made from flags: defaults, and which of several sources is used."""

import copy
import dataclasses

import pytest

import vision.eval
import vision.infer
import vision.train
from tests.support.errors import refused
from vision.config import ConfigOptions
from vision.flags import (
    checkpoint_of,
    evaluation_options,
    inference_options,
    run_config_options,
)
from vision.options import (
    ClassifierOptions,
    EvaluationOptions,
    ImageDataOptions,
    InferenceOptions,
)


def inference(*arguments):
    return inference_options(*vision.infer.command_line("infer").parse(arguments))


def evaluation(*arguments):
    return evaluation_options(*vision.eval.command_line("eval", "").parse(arguments))


@pytest.fixture
def recipe(tmp_path):
    """Returns a recipe with values for everything that flags can leave out."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "amp_level: O2\ndevice_target: CPU\ndata_url: /of/the/recipe\nval_dir: held_out\n"
        "val_num_samples: 7\nseed: 5\nnum_parallel_workers: 3\n"
    )
    return f"--config={path}"


def test_flags_that_are_not_given_are_the_defaults_of_the_options(monkeypatch):
    monkeypatch.setenv("HOME", "/of")
    monkeypatch.setenv("IMAGENET_DIR", "~/the/environment")
    data = ImageDataOptions(paths=("a.png",))
    assert inference("a.png") == InferenceOptions(ClassifierOptions(), data)
    data = ImageDataOptions(paths=("/of/the/environment/val",))
    assert evaluation() == EvaluationOptions(ClassifierOptions(), data)


def test_a_recipe_tells_evaluation_what_flags_leave_open(recipe, monkeypatch):
    monkeypatch.setenv("IMAGENET_DIR", "/of/the/environment")
    found = evaluation(recipe)
    assert found.classifier.precision == "mixed_float16"
    assert found.classifier.runner.visible_devices == "-1"
    assert found.data.paths == ("/of/the/recipe/held_out",)
    assert (found.num_samples, found.seed) == (7, 5)
    assert found.data.num_parallel_workers == 3
    given = ["--amp_level=O0", "--device_target=GPU", "--data_url=/flag", "--val_dir=v"]
    found = evaluation(recipe, *given, "--num_parallel_workers=2", "--visible_devices=1")
    assert found.classifier.precision == "float32"
    assert found.classifier.runner.visible_devices == "1"
    assert found.data.paths == ("/flag/v",)
    assert found.data.num_parallel_workers == 2
    assert evaluation(recipe, "/of/an/argument").data.paths == ("/of/an/argument",)
    assert evaluation(recipe, "--data_dir=/d").data.paths == ("/d",)


def test_a_recipe_tells_inference_of_the_model_alone(recipe):
    found = inference(recipe, "a.png")
    assert found.classifier.precision == "float32"
    assert found.classifier.runner.visible_devices is None
    assert found.data.num_parallel_workers == 0


def test_flags_of_the_model_are_words_of_its_config(recipe):
    found = inference(recipe, "--arch=small", "--crop_pct=1.0", "--set=model.drop=0.5", "a.png")
    path = recipe.partition("=")[2]
    expected = ConfigOptions(path, {"model.drop": "0.5"}, {"arch": "small", "crop_pct": "1.0"})
    assert found.classifier.config == expected
    assert (expected.load().model.arch, expected.load().training.seed) == ("small", 5)


def test_which_weights_count_is_a_word_of_the_config():
    for flags, expected in (([], None), (["--use_ema"], True), (["--nouse_ema"], False)):
        assert inference(*flags, "a.png").classifier.config.load().run.use_ema is expected
        values, _ = vision.train.command_line().parse(flags)
        assert run_config_options(values).load().run.use_ema is expected


def test_a_checkpoint_to_continue_is_one_of_the_config(recipe):
    flags = vision.train.command_line()
    values, _ = flags.parse([recipe, "--epochs=9"])
    assert run_config_options(values).words == {"epochs": "9"}
    values, _ = flags.parse([recipe, "--epochs=9", "--checkpoint=/run"])
    run = run_config_options(values).load()
    assert (run.run.pretrained, run.run.exclude_epoch_state) == ("/run", False)
    assert (run.training.num_epochs, run.training.seed) == (9, 5)


def test_two_names_of_a_checkpoint():
    flags = vision.infer.command_line("infer")
    for given, expected in ((["-c=a"], "a"), (["--pretrained=b"], "b"), ([], None)):
        assert checkpoint_of(flags.parse(given)[0]) == expected
    with refused("--checkpoint or --pretrained"):
        inference("-c=a", "--pretrained=b", "a.png")


@pytest.mark.parametrize("make", [inference, evaluation])
def test_options_are_frozen(make):
    found = make("a")
    for options in (found, found.classifier, found.classifier.runner, found.data):
        name = dataclasses.fields(options)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(options, name, None)


def test_making_options_leaves_the_flags_as_they_are(recipe, monkeypatch):
    monkeypatch.setenv("IMAGENET_DIR", "/of/the/environment")
    values, _ = vision.eval.command_line("eval", "").parse([recipe])
    before = copy.deepcopy(values)
    evaluation_options(values, [])
    assert values == before
    values, _ = vision.train.command_line().parse([recipe, "--checkpoint=/run"])
    before = copy.deepcopy(values)
    run_config_options(values)
    assert values == before


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (inference, [], "Expected one image or folder. Received: none"),
        (inference, ["a", "b"], "Received: a b"),
        (inference, ["a", "--data_dir=b"], "Received: a b"),
        (inference, [""], "Expected one image or folder. Received: none"),
        (inference, ["a", "--top_k=0"], "--top_k >= 1"),
        (inference, ["a", "--batch_size=0"], "--batch_size >= 1"),
        (inference, ["a", "--warmup_count=-1"], "Received: 1 and -1"),
        (evaluation, ["a", "--prefetch=-1"], "--prefetch >= 0"),
        (evaluation, ["a", "--num_parallel_workers=-1"], "Received: -1 and 0"),
        (evaluation, [], "Expected one ImageFolder, by --data_dir or --data_url. Received: none"),
        (evaluation, ["a", "--data_dir=b"], "Received: a b"),
        (evaluation, ["a", "--data_url=b"], "Received: a b/val"),
    ],
)
def test_bad_flags_are_one_line(make, arguments, message, monkeypatch):
    monkeypatch.delenv("IMAGENET_DIR", raising=False)
    with refused(message):
        make(*arguments)
