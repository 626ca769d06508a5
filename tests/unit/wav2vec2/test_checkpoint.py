"""Tests reading of models to fine-tune or export: sizes, weights, symbols of folders and runs."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

import wav2vec2
from tests.support.errors import refused
from tools.training.checkpoint import CheckpointStore
from wav2vec2.checkpoint import Origin, load_weights, read_origin
from wav2vec2.config import ModelConfig, PreprocessingConfig, Wav2Vec2Config

ARCHITECTURE = {
    "feature_norm": "layer",
    "feature_bias": True,
    "feature_filters": (8, 12),
    "feature_kernel_sizes": (10, 4),
    "feature_strides": (5, 3),
    "num_layers": 2,
    "hidden_dim": 24,
    "num_heads": 4,
    "feedforward_dim": 40,
    "pre_norm": True,
    "position_kernel_size": 6,
    "position_groups": 3,
    "layer_norm_epsilon": 0.01,
}


def test_a_recipe_adopts_sizes_and_sound_and_keeps_its_rates(tmp_path):
    rates = {
        **{field.name: 0.3 for field in dataclasses.fields(ModelConfig) if "_rate" in field.name},
        **{"time_mask_frames": 3, "feature_mask_channels": 4, "min_time_masks": 5},
        **{"min_feature_masks": 6, "mask_padding": False, "vocabulary_size": 50},
    }
    assert ARCHITECTURE.keys() | rates.keys() == {x.name for x in dataclasses.fields(ModelConfig)}
    preprocessing = PreprocessingConfig(8000, normalize=False, trained_with_mask=True)
    origin = Origin(tmp_path, ModelConfig(**ARCHITECTURE), preprocessing, None)
    recipe = Wav2Vec2Config(model=ModelConfig(**rates))
    assert origin.adopted_by(recipe) == dataclasses.replace(
        recipe, model=ModelConfig(**ARCHITECTURE, **rates), preprocessing=preprocessing
    )


def without_head(folder, place):
    """Returns a folder of a pre-trained model, without head and vocabulary."""
    place.mkdir()
    for path in folder.glob("*config.json"):
        (place / path.name).write_bytes(path.read_bytes())
    (place / "tokenizer_config.json").unlink()
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors = {name: x for name, x in tensors.items() if not name.startswith("lm_head.")}
    tensors["quantizer.codevectors"] = np.zeros((1, 2, 3), "float32")
    safetensors.numpy.save_file(tensors, place / "model.safetensors")
    return place


def test_weights_of_pretraining_leave_the_head_as_it_was(folders, build_small, tmp_path, kind):
    origin = read_origin(without_head(folders / kind, tmp_path / "pretrained"))
    assert origin.vocabulary is None
    model, wanted = build_small(kind, seed=2), wav2vec2.from_pretrained(folders / kind)
    head = np.array(model.head.kernel)
    assert load_weights(model, origin) is True
    np.testing.assert_array_equal(model.head.kernel, head)
    for part in ("feature_encoder", "feature_projection", "masking", "encoder"):
        pairs = zip(getattr(model, part).weights, getattr(wanted, part).weights, strict=True)
        for ours, theirs in pairs:
            np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


def test_a_head_is_loaded_unless_a_new_one_is_asked_for(folders, build_small):
    origin, wanted = read_origin(folders / "group"), wav2vec2.from_pretrained(folders / "group")
    assert origin.model == wanted.config and origin.vocabulary == wanted.vocabulary
    model = build_small(seed=2)
    head = np.array(model.head.kernel)
    assert load_weights(model, origin, new_head=True) is True
    np.testing.assert_array_equal(model.head.kernel, head)
    np.testing.assert_array_equal(model.masking.embedding, wanted.masking.embedding)
    assert load_weights(model, origin) is False
    np.testing.assert_array_equal(model.head.kernel, wanted.head.kernel)


def test_a_run_gives_its_averaged_weights(build_small, vocabulary, tmp_path):
    trained, model = build_small(seed=2), build_small(seed=3)
    values = {x.path: np.array(x) for x in trained.weights}
    averages = {path: x + 1.0 for path, x in values.items() if "kernel" in path}
    groups = {"model": values, "average": averages}
    run = CheckpointStore(tmp_path).save({"step": 1, "metric": None}, groups, {}).path
    origin = Origin(run, trained.config, PreprocessingConfig(), vocabulary)
    assert load_weights(model, origin) is False
    for variable in model.weights:
        wanted = {**values, **averages}[variable.path]
        np.testing.assert_array_equal(variable, wanted, err_msg=variable.path)


def test_what_is_neither_a_folder_nor_a_run_is_refused(tmp_path):
    with refused("which does not exist"):
        read_origin(tmp_path / "nowhere")
    (tmp_path / "some.txt").touch()
    with refused("or the --output_dir of a training run"):
        read_origin(tmp_path)


@pytest.mark.parametrize("size", [11, 13])
def test_a_vocabulary_of_another_size_follows_the_head(folders, build_small, tmp_path, size):
    copy = tmp_path / "copy"
    shutil.copytree(folders / "group", copy)
    ids = json.loads((copy / "vocab.json").read_text())
    ids = {name: place for name, place in (ids | {"H": 12}).items() if place < size}
    (copy / "vocab.json").write_text(json.dumps(ids))
    origin = read_origin(copy)
    symbols = read_origin(folders / "group").vocabulary.tokens
    assert origin.vocabulary.tokens == ((*symbols[:11], None) if size == 11 else symbols)
    assert load_weights(build_small(), origin) is False


@pytest.mark.parametrize("with_head", [True, False])
def test_names_may_lack_the_prefix_and_weights_the_head(folders, build_small, tmp_path, with_head):
    """Hugging Face saves a model without a head like this."""
    shutil.copytree(folders / "group", tmp_path / "copy")
    tensors = wav2vec2.pytorch_state_dict(wav2vec2.from_pretrained(folders / "group"))
    bare = {
        name.removeprefix("wav2vec2."): x
        for name, x in tensors.items()
        if with_head or not name.startswith("lm_head.")
    }
    bare = {name: np.ascontiguousarray(x) for name, x in bare.items()}
    safetensors.numpy.save_file(bare, tmp_path / "copy" / "model.safetensors")
    model = build_small(seed=3)
    before = np.array(model.head.kernel)
    assert load_weights(model, read_origin(tmp_path / "copy")) is not with_head
    found = wav2vec2.pytorch_state_dict(model)
    for name, value in tensors.items():
        if with_head or not name.startswith("lm_head."):
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    if not with_head:
        np.testing.assert_array_equal(model.head.kernel, before)
