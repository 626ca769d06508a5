"""Sizes by name, by field, and from Hugging Face's files."""

import json

import pytest

import wav2vec2
from tools.errors import UserError
from tools.speech.audio import DEFAULT_LIMITS
from wav2vec2.config import (
    ARCHITECTURES,
    RATES_HZ,
    ModelConfig,
    PreprocessingConfig,
    hugging_face_model,
    hugging_face_preprocessing,
    model_config,
    read_model_config,
    read_preprocessing_config,
)


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content), "utf-8")


def test_frames_of_the_published_models():
    for config in ARCHITECTURES.values():
        assert config.receptive_field_samples == 400
        assert config.hop_samples == 320
        frames = [config.num_frames(x) for x in (0, 399, 400, 719, 720, 100000)]
        assert frames == [0, 0, 1, 1, 2, 312]


def test_rates_are_those_of_sound_files():
    assert (DEFAULT_LIMITS.min_rate_hz, DEFAULT_LIMITS.max_rate_hz) == RATES_HZ


def test_architectures_and_changes():
    assert model_config() == ModelConfig()
    large = model_config("large-lv60", vocabulary_size=40)
    assert (large.num_layers, large.feature_norm, large.vocabulary_size) == (24, "layer", 40)
    assert model_config(large) == large
    assert model_config({"num_layers": 3}, num_heads=6) == ModelConfig(num_layers=3, num_heads=6)


def test_yaml(tmp_path):
    path = tmp_path / "small.yml"
    path.write_text("model: {num_layers: 3}\npreprocessing: {normalize: false}\n", "utf-8")
    config = wav2vec2.load_config(path, {"model.num_heads": "6"})
    assert config.model == ModelConfig(num_layers=3, num_heads=6)
    assert not config.preprocessing.normalize


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hugging_face_round_trip(name, tmp_path):
    config = model_config(name, vocabulary_size=40, layer_drop_rate=0.25)
    preprocessing = PreprocessingConfig(8000, False, trained_with_mask=True)
    write(tmp_path, "config.json", hugging_face_model(config, 7))
    write(tmp_path, "preprocessor_config.json", hugging_face_preprocessing(preprocessing))
    assert read_model_config(tmp_path) == config
    assert read_preprocessing_config(tmp_path) == preprocessing


def test_other_keys_mean_nothing_and_missing_ones_are_those_of_base(tmp_path):
    write(tmp_path, "config.json", {"model_type": "wav2vec2", "tdnn_dim": [1], "hidden_size": 384})
    assert read_model_config(tmp_path) == ModelConfig(hidden_dim=384)


def test_masks_that_are_switched_off(tmp_path):
    write(tmp_path, "config.json", {"apply_spec_augment": False, "mask_time_prob": 0.3})
    assert read_model_config(tmp_path) == ModelConfig(time_mask_rate=0.0)


def test_preprocessing_inside_the_file_of_the_processor(tmp_path):
    content = {"do_normalize": False, "return_attention_mask": True}
    write(tmp_path, "processor_config.json", {"feature_extractor": content})
    wanted = PreprocessingConfig(normalize=False, trained_with_mask=True)
    assert read_preprocessing_config(tmp_path) == wanted
    write(tmp_path, "preprocessor_config.json", {})
    assert read_preprocessing_config(tmp_path) == PreprocessingConfig()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_type": "hubert"}, "Expected model_type 'wav2vec2'"),
        ({"hidden_act": "relu"}, "Expected hidden_act 'gelu'"),
        ({"add_adapter": True}, "Expected add_adapter False"),
        ({"adapter_attn_dim": 16}, "Expected adapter_attn_dim null"),
        ({"hidden_size": "768"}, "Expected an integer for hidden_size"),
        ({"feat_extract_norm": "batch"}, "Expected one of group, layer for feat_extract_norm"),
        ({"conv_kernel": [10, 3]}, "of one length"),
        ({"conv_bias": True}, "no feature_bias with group norm"),
        ({"num_attention_heads": 7}, "hidden_dim a multiple of num_heads"),
        ({"num_conv_pos_embedding_groups": 0}, "sizes of 1 to 65536"),
        ({"hidden_size": 10**9}, "sizes of 1 to 65536"),
        ({"conv_dim": [512] * 6 + [0]}, "sizes of 1 to 65536"),
        ({"layer_norm_eps": 0}, "layer_norm_epsilon > 0"),
        ({"mask_time_min_masks": -1}, "min_time_masks"),
        ({"mask_feature_prob": 0.1, "mask_feature_length": 769}, "up to hidden_dim, 768"),
        ({"layerdrop": 1.0}, "layer_drop_rate=1.0"),
        ([], "Expected keys and values"),
    ],
)
def test_refused_files(content, message, tmp_path):
    write(tmp_path, "config.json", content)
    with pytest.raises(UserError) as error:
        read_model_config(tmp_path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_processor_that_is_none(tmp_path):
    write(tmp_path, "processor_config.json", {"feature_extractor": 3})
    with pytest.raises(UserError, match="Expected keys and values"):
        read_preprocessing_config(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("sample_rate_hz", "0"), ("variance_epsilon", "0"), ("max_seconds", "-1")],
)
def test_refused_preprocessing(key, value):
    with pytest.raises(UserError, match=f"{key}.* {value}"):
        wav2vec2.load_config(None, {f"preprocessing.{key}": value})


def test_refused_input(tmp_path):
    with pytest.raises(UserError, match="base, large, large-lv60"):
        model_config("huge")
    with pytest.raises(UserError, match="Use vocabulary_size"):
        model_config("base", vocabulary_sise=3)
    with pytest.raises(UserError, match=r"config\.json of a Hugging Face folder"):
        read_model_config(tmp_path)
    (tmp_path / "config.json").write_text("{", "utf-8")
    with pytest.raises(UserError, match="no JSON"):
        read_model_config(tmp_path)
    write(tmp_path, "preprocessor_config.json", {"padding_side": "left"})
    with pytest.raises(UserError, match="Expected padding_side 'right'"):
        read_preprocessing_config(tmp_path)
