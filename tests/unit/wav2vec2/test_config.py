"""Tests model sizes by name, by field, and from files of Hugging Face."""

import json

import pytest

import wav2vec2
from tests.support.errors import refused
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
    rates = {"mask_time_prob": 0.3, "mask_feature_prob": 0.2}
    write(tmp_path, "config.json", {"apply_spec_augment": False, **rates})
    assert read_model_config(tmp_path) == ModelConfig(time_mask_rate=0.0)
    write(tmp_path, "config.json", {"apply_spec_augment": True, **rates})
    assert read_model_config(tmp_path) == ModelConfig(time_mask_rate=0.3, feature_mask_rate=0.2)


def test_the_names_are_those_of_hugging_face(tmp_path):
    """Keys of transformers' Wav2Vec2Config, as its documentation describes them."""
    content = {
        "feat_extract_norm": "layer",
        "conv_bias": True,
        "conv_dim": [32, 48],
        "conv_kernel": [9, 4],
        "conv_stride": [6, 3],
        "num_hidden_layers": 3,
        "hidden_size": 40,
        "num_attention_heads": 5,
        "intermediate_size": 70,
        "do_stable_layer_norm": True,
        "num_conv_pos_embeddings": 12,
        "num_conv_pos_embedding_groups": 10,
        "layer_norm_eps": 1e-6,
        "vocab_size": 45,
        "feat_proj_dropout": 0.01,
        "hidden_dropout": 0.02,
        "attention_dropout": 0.03,
        "activation_dropout": 0.04,
        "final_dropout": 0.05,
        "layerdrop": 0.06,
        "mask_time_prob": 0.07,
        "mask_time_length": 11,
        "mask_time_min_masks": 4,
        "mask_feature_prob": 0.08,
        "mask_feature_length": 13,
        "mask_feature_min_masks": 3,
    }
    config = ModelConfig(
        feature_norm="layer",
        feature_bias=True,
        feature_filters=(32, 48),
        feature_kernel_sizes=(9, 4),
        feature_strides=(6, 3),
        num_layers=3,
        hidden_dim=40,
        num_heads=5,
        feedforward_dim=70,
        pre_norm=True,
        position_kernel_size=12,
        position_groups=10,
        layer_norm_epsilon=1e-6,
        vocabulary_size=45,
        feature_dropout_rate=0.01,
        dropout_rate=0.02,
        attention_dropout_rate=0.03,
        activation_dropout_rate=0.04,
        head_dropout_rate=0.05,
        layer_drop_rate=0.06,
        time_mask_rate=0.07,
        time_mask_frames=11,
        min_time_masks=4,
        feature_mask_rate=0.08,
        feature_mask_channels=13,
        min_feature_masks=3,
    )
    write(tmp_path, "config.json", content)
    assert read_model_config(tmp_path) == config
    written = hugging_face_model(config, 7)
    assert {key: written[key] for key in content} == content
    assert (written["pad_token_id"], written["num_feat_extract_layers"]) == (7, 2)
    sound = {"sampling_rate": 8000, "do_normalize": False, "return_attention_mask": True}
    write(tmp_path, "preprocessor_config.json", sound)
    assert read_preprocessing_config(tmp_path) == PreprocessingConfig(
        sample_rate_hz=8000, normalize=False, trained_with_mask=True
    )


def test_frames_by_counting_where_kernels_fit():
    """With other strides and kernels, a frame requires all samples that it covers."""
    config = ModelConfig(
        feature_filters=(8, 8, 8), feature_kernel_sizes=(7, 4, 2), feature_strides=(3, 5, 2)
    )
    for samples in range(0, 200):
        frames = samples
        for kernel_size, stride in zip((7, 4, 2), (3, 5, 2), strict=True):
            frames = len(range(0, frames - kernel_size + 1, stride))
        assert config.num_frames(samples) == frames
    assert config.hop_samples == 30
    assert config.receptive_field_samples == 7 + 3 * (3 + 5 * 1)


def test_the_largest_and_the_smallest_that_make_a_model():
    for fields in (
        {"hidden_dim": 65536, "num_heads": 65536},
        {"vocabulary_size": 2},
        {"feature_mask_rate": 0.1, "feature_mask_channels": 768},
        {"feature_mask_channels": 769},
        {"layer_drop_rate": 0.0, "min_time_masks": 0},
    ):
        model_config(fields)
    for rate_hz in RATES_HZ:
        wav2vec2.load_config(None, {"preprocessing.sample_rate_hz": str(rate_hz)})


def test_preprocessing_inside_the_file_of_the_processor(tmp_path):
    content = {"do_normalize": False, "return_attention_mask": True}
    write(tmp_path, "processor_config.json", {"feature_extractor": content})
    wanted = PreprocessingConfig(normalize=False, trained_with_mask=True)
    assert read_preprocessing_config(tmp_path) == wanted
    write(tmp_path, "preprocessor_config.json", {})
    assert read_preprocessing_config(tmp_path) == PreprocessingConfig()


def test_null_is_false_in_preprocessing(tmp_path):
    content = {"return_attention_mask": None, "do_normalize": None}
    write(tmp_path, "preprocessor_config.json", content)
    found = read_preprocessing_config(tmp_path)
    assert (found.trained_with_mask, found.normalize) == (False, False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_type": "hubert"}, "Expected model_type 'wav2vec2'"),
        ({"hidden_act": "relu"}, "Expected hidden_act 'gelu'"),
        ({"add_adapter": True}, "Expected add_adapter False"),
        ({"adapter_attn_dim": 16}, "Expected adapter_attn_dim null"),
        ({"hidden_size": "768"}, "Expected an integer for hidden_size"),
        ({"feat_extract_norm": "batch"}, "Expected one of group, layer for feat_extract_norm"),
        ({"conv_kernel": [10, 3]}, "of the same length"),
        ({"num_attention_heads": 7}, "hidden_dim that is a multiple of num_heads"),
        ({"num_conv_pos_embedding_groups": 0}, "position_groups at least 1 and at most 65536"),
        ({"hidden_size": 10**9}, "hidden_dim at least 1 and at most 65536"),
        ({"conv_dim": [512] * 6 + [0]}, "feature_filters at least 1"),
        ({"layer_norm_eps": 0}, "layer_norm_epsilon above 0"),
        ({"mask_time_min_masks": -1}, "min_time_masks"),
        ({"mask_feature_prob": 0.1, "mask_feature_length": 769}, "up to hidden_dim, 768"),
        ({"layerdrop": 1.0}, "layer_drop_rate at least 0 and below 1"),
        ({"feat_proj_dropout": -0.1}, "feature_dropout_rate at least 0 and below 1"),
        ({"mask_feature_min_masks": -1}, "min_feature_masks"),
        ({"num_conv_pos_embedding_groups": 5}, "hidden_dim that is a multiple of num_heads"),
        ({"vocab_size": 1}, "vocabulary_size at least 2"),
        ({"mask_time_length": 0}, "time_mask_frames at least 1"),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 0]}, "feature_strides at least 1"),
        ({"feat_extract_activation": "relu"}, "Expected feat_extract_activation 'gelu'"),
        ([], "Expected keys and values"),
    ],
)
def test_refused_files(content, message, tmp_path):
    write(tmp_path, "config.json", content)
    with refused(message):
        read_model_config(tmp_path)


def test_a_processor_that_is_none(tmp_path):
    write(tmp_path, "processor_config.json", {"feature_extractor": 3})
    with refused(match="Expected keys and values"):
        read_preprocessing_config(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sample_rate_hz", "3999"),
        ("sample_rate_hz", "384001"),
        ("variance_epsilon", "0"),
        ("max_seconds", "-1"),
        ("max_seconds", "0"),
        ("max_seconds", "inf"),
    ],
)
def test_refused_preprocessing(key, value):
    with refused(match=f"{key}.* {value}"):
        wav2vec2.load_config(None, {f"preprocessing.{key}": value})


def test_refused_input(tmp_path):
    with refused(match="base, large, large-lv60"):
        model_config("huge")
    with refused(match="Use vocabulary_size"):
        model_config("base", vocabulary_sise=3)
    with refused(match=r"config\.json of a Hugging Face folder"):
        read_model_config(tmp_path)
    (tmp_path / "config.json").write_text("{", "utf-8")
    with refused(match="not a JSON file"):
        read_model_config(tmp_path)
    write(tmp_path, "preprocessor_config.json", {"padding_side": "left"})
    with refused(match="Expected padding_side 'right'"):
        read_preprocessing_config(tmp_path)


def test_keys_that_are_absent_mean_what_hugging_face_takes_for_them(tmp_path):
    """transformers 4 does not write keys with the default values of Wav2Vec2Config."""
    config = hugging_face_model(ModelConfig(), 0)
    defaults = {
        "feat_extract_norm": "group",
        "conv_bias": False,
        "conv_dim": [512] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "num_hidden_layers": 12,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "do_stable_layer_norm": False,
        "num_conv_pos_embeddings": 128,
        "num_conv_pos_embedding_groups": 16,
        "layer_norm_eps": 1e-5,
        "vocab_size": 32,
        "feat_proj_dropout": 0.0,
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.1,
        "final_dropout": 0.1,
        "layerdrop": 0.1,
        "mask_time_prob": 0.05,
        "mask_time_length": 10,
        "mask_time_min_masks": 2,
        "mask_feature_prob": 0.0,
        "mask_feature_length": 10,
        "mask_feature_min_masks": 0,
    }
    assert {key: config[key] for key in defaults} == defaults
    write(tmp_path, "config.json", {"model_type": "wav2vec2"})
    assert read_model_config(tmp_path) == ModelConfig()
    write(tmp_path, "preprocessor_config.json", {"feature_size": 1})
    found = read_preprocessing_config(tmp_path)
    assert (found.sample_rate_hz, found.normalize, found.variance_epsilon) == (16000, True, 1e-7)


def test_defaults_of_fine_tuning():
    config = wav2vec2.load_config()
    assert config.training.freeze == ("feature_encoder",)
    assert config.vocabulary.source == "pretrained"
    assert config.preprocessing.max_seconds == 35.0
    assert config.model.mask_padding and not config.preprocessing.trained_with_mask


def test_rematerialized_blocks_exclude_layer_drop():
    changes = {"training.rematerialize": "blocks"}
    with refused("model.layer_drop_rate: 0 with training.rematerialize: blocks"):
        wav2vec2.load_config(None, {**changes, "model.layer_drop_rate": 0.1})
    config = wav2vec2.load_config(None, {**changes, "model.layer_drop_rate": 0.0})
    assert config.training.rematerialize == "blocks"
