"""Configs of TensorFlowASR: what every key becomes, and what is named or refused."""

import logging
import re

import numpy as np
import pytest
import soundfile
import yaml

import conformer
from conformer.export import main as export
from conformer.infer import main as infer
from conformer.tensorflow_asr import translate
from conformer.train import main
from tests.support.errors import refused
from tools.errors import UserError

# The values of examples/conformer/config.yml, version 1.0.4.
EXAMPLE = """
speech_config: {sample_rate: 16000, frame_ms: 25, stride_ms: 10, num_feature_bins: 80,
  feature_type: log_mel_spectrogram, preemphasis: 0.97, normalize_signal: true,
  normalize_feature: true, normalize_per_frame: false}
decoder_config: {vocabulary: /v/librispeech.subwords, target_vocab_size: 1000,
  max_subword_length: 10, blank_at_zero: true, beam_width: 0, norm_score: true,
  corpus_files: [/d/train.tsv]}
model_config: {name: conformer,
  encoder_subsampling: {type: conv2d, filters: 144, kernel_size: 3, strides: 2},
  encoder_positional_encoding: sinusoid_concat, encoder_dmodel: 144, encoder_num_blocks: 16,
  encoder_head_size: 36, encoder_num_heads: 4, encoder_mha_type: relmha, encoder_kernel_size: 32,
  encoder_fc_factor: 0.5, encoder_dropout: 0.1, prediction_embed_dim: 320,
  prediction_embed_dropout: 0, prediction_num_rnns: 1, prediction_rnn_units: 320,
  prediction_rnn_type: lstm, prediction_rnn_implementation: 2, prediction_layer_norm: true,
  prediction_projection_units: 0, joint_dim: 320, prejoint_linear: true, joint_activation: tanh,
  joint_mode: add}
learning_config:
  train_dataset_config: {use_tf: true, data_paths: [/d/train/transcripts.tsv], shuffle: true,
    cache: true, buffer_size: 100, drop_remainder: true, stage: train, tfrecords_dir: null,
    augmentation_config: {feature_augment: {
      time_masking: {num_masks: 10, mask_factor: 100, p_upperbound: 0.05},
      freq_masking: {num_masks: 1, mask_factor: 27}}}}
  eval_dataset_config: {use_tf: true, data_paths: [/d/dev/transcripts.tsv], shuffle: false}
  test_dataset_config: {data_paths: [/d/test/transcripts.tsv]}
  optimizer_config: {warmup_steps: 40000, beta_1: 0.9, beta_2: 0.98, epsilon: 1e-9}
  running_config: {batch_size: 2, num_epochs: 50, checkpoint: {filepath: /x},
    states_dir: /s, tensorboard: {log_dir: /t}}
"""


TRAIN = "learning_config: {train_dataset_config: {data_paths: [/d/t.tsv]"


def translated(change=""):
    """The translation of a small file, with the sections of `change` in place of its own."""
    base = {"learning_config": {"train_dataset_config": {"data_paths": ["/d/train.tsv"]}}}
    base["model_config"] = {"prediction_embed_dim": 320}
    return translate(base | (yaml.safe_load(change) or {}), "their.yml")


def test_a_list_of_characters_is_answered():
    """TensorFlowASR's has no symbol for other characters, so it is not read."""
    with refused("a file .subwords or .json in their.yml. Received: english.characters. Set it"):
        translated("decoder_config: {vocabulary: english.characters}")


@pytest.fixture
def load(tmp_path):
    """A function that loads a config file with a text."""

    def of(text):
        path = tmp_path / "their.yml"
        path.write_text(text)
        return conformer.load_config(path)

    return of


def test_the_example_is_the_model_of_the_paper(load):
    config = load(EXAMPLE)
    ours = conformer.load_config()
    assert config.model == conformer.load_config(None, {"model.subsampling_filters": 144}).model
    assert config.features == ours.features
    assert config.spec_augment == ours.spec_augment
    assert config.tokenizer.vocabulary_file == "/v/librispeech.subwords"
    assert config.data.train_splits == ("/d/train/transcripts.tsv",)
    assert config.data.eval_splits == ("/d/dev/transcripts.tsv",)
    assert config.data.data_dir == "/d"
    training = config.training
    assert (training.batch_size, training.num_epochs) == (2, 50)
    assert (training.optimizer.name, training.optimizer.epsilon) == ("adam", 1e-9)
    assert (training.schedule.name, training.schedule.warmup_steps) == ("transformer", 40000)
    assert training.schedule.peak == pytest.approx(144**-0.5 * 40000**-0.5)


def test_every_key_of_the_example_is_used_or_named(caplog, load, monkeypatch):
    """A key that is changed changes the config, or is refused, or is named."""
    content = yaml.safe_load(EXAMPLE)
    leaves = []

    def walk(section, place):
        for key, value in section.items():
            if isinstance(value, dict):
                walk(value, (*place, key))
            else:
                leaves.append((*place, key))

    walk(content, ())
    assert len(leaves) > 60
    for place in leaves:
        changed = yaml.safe_load(EXAMPLE)
        section = changed
        for key in place[:-1]:
            section = section[key]
        section[place[-1]] = 7
        before = translate(content, "their.yml")
        try:
            after = translate(changed, "their.yml")
        except UserError as error:
            assert place[0] in str(error)
            continue
        named = str(after.notes.values())
        is_used = before.values != after.values
        assert is_used or any(".".join(place[:n]) in named for n in range(2, len(place) + 1)), place
    with caplog.at_level(logging.WARNING):
        with monkeypatch.context() as patch:
            patch.setenv("HOROVOD_RANK", "1")
            load(EXAMPLE)
            assert not caplog.records  # the first rank names the keys
        load(EXAMPLE)
    assert "learning_config.train_dataset_config.cache" in caplog.text
    assert "corpus_files" in caplog.text and "train_tokenizer" in caplog.text


def test_defaults_are_those_of_the_code():
    values = translated("model_config: {prediction_embed_dim: 320}").values
    assert values["model.joint_dim"] == 1024
    assert values["model.dropout_rate"] == 0.0
    assert values["features.preemphasis"] == 0.0
    assert values["spec_augment.num_time_masks"] == values["spec_augment.num_frequency_masks"] == 0
    assert (values["training.batch_size"], values["training.num_epochs"]) == (1, 20)
    assert values["training.schedule.warmup_steps"] == 10000
    with refused("prediction_embed_dim: 320"):  # 512 in the code, and 320 units
        translated("model_config: {}")


def test_version_0_8():
    values = translated(
        "learning_config: {train_dataset_config: {data_paths: [a.tsv, b.tsv],"
        " augmentation_config: {after: {time_masking: {num_masks: 3}}, before: null}},"
        " optimizer_config: {beta1: 0.8, beta2: 0.9},"
        " running_config: {log_interval_steps: 300, accumulation_steps: 4}}"
    ).values
    assert values["training.accumulate_steps"] == 4
    assert values["spec_augment.num_time_masks"] == 3
    assert values["spec_augment.max_time_mask_share"] == 1.0
    assert values["training.optimizer.beta_1"] == 0.8
    assert values["training.optimizer.beta_2"] == 0.9
    assert values["training.log_every_steps"] == 300
    assert values["data.train_splits"] == ["a.tsv", "b.tsv"]
    assert "data.data_dir" not in values, "relative tables need --data_dir"


@pytest.mark.parametrize(
    ("rate", "frame_ms", "length"), [(16000, 25, 512), (8000, 25, 256), (16000, 32, 512)]
)
def test_the_transform_is_the_next_power_of_two(rate, frame_ms, length):
    change = f"speech_config: {{sample_rate: {rate}, frame_ms: {frame_ms}}}"
    assert translated(change).values["features.fft_length"] == length


def test_the_rate_is_cut_off():
    few = translated(
        "learning_config: {train_dataset_config: {data_paths: [a.tsv]},"
        " optimizer_config: {warmup_steps: 100}}"
    )
    assert few.values["training.schedule.peak"] == pytest.approx(0.05 / 12)


@pytest.mark.parametrize(
    "section, key, value, expected",
    [
        ("speech_config", "feature_type", "mfcc", "log_mel_spectrogram"),
        ("speech_config", "normalize_per_frame", True, "false"),
        ("decoder_config", "blank_at_zero", False, "true"),
        ("model_config", "joint_mode", "concat", "add"),
        ("model_config", "prediction_rnn_type", "gru", "lstm"),
        ("model_config", "encoder_head_size", 64, "36"),
        ("model_config", "encoder_subsampling", {"type": "vgg"}, "conv2d"),
        ("model_config", "encoder_subsampling", {"strides": [2, 1]}, "2"),
    ],
)
def test_another_model_is_refused(section, key, value, expected):
    with refused(match=rf"{section}\.{key}.*: {expected} in their.yml"):
        translated(yaml.safe_dump({section: {"prediction_embed_dim": 320, key: value}}))


@pytest.mark.parametrize(
    "text, message",
    [
        ("learning_config: null", "data_paths"),
        ("learning_config: {train_dataset_config: {tfrecords_dir: /t}}", "unpack_tfrecords"),
        ("speech_config: 3", "speech_config"),
        ("model_config: {encoder_subsampling: conv2d}", "encoder_subsampling"),
    ],
)
def test_sections_that_are_missing_or_no_sections(text, message):
    with refused(message):
        translated(text)


def test_other_prediction_and_joint_networks(load):
    config = load(
        EXAMPLE.replace("prediction_num_rnns: 1", "prediction_num_rnns: 2")
        .replace("prediction_layer_norm: true", "prediction_layer_norm: false")
        .replace("joint_activation: tanh", "joint_activation: relu")
    ).model
    assert (config.prediction_layers, config.prediction_norm) == (2, False)
    assert config.joint_activation == "relu"
    with refused("model_config.joint_activation"):
        load(EXAMPLE.replace("joint_activation: tanh", "joint_activation: linear"))


@pytest.mark.parametrize("key", ["encoder_trainable", "prediction_trainable", "joint_trainable"])
def test_layers_that_are_not_trained(key):
    section = "model_config: {prediction_embed_dim: 320, %s: %s}"
    values = translated(section % (key, "false")).values
    assert values["training.freeze"] == [key.partition("_")[0]]
    assert "training.freeze" not in translated(section % (key, "true")).values
    with refused(f"model_config.{key}: true in their.yml (or false"):
        translated(section % (key, "3"))


@pytest.mark.parametrize(
    "text, reason",
    [
        ("decoder_config: {vocabulary: null}", "the characters of the training set"),
        ("decoder_config: {target_vocab_size: 1000}", "tools.cli.train_tokenizer"),
        ("model_config: {prediction_embed_dim: 320, kernel_regularizer: x}", "weight_decay"),
        (TRAIN + "}, running_config: {outdir: x, eval_interval_steps: 9}}", "--output_dir"),
        (TRAIN + ", cache: true, use_tf: true}}", "read again in every epoch"),
    ],
)
def test_keys_without_an_effect_are_named_with_the_reason(text, reason):
    assert any(reason in line for line in translated(text).lines())


@pytest.mark.parametrize(
    "key, value, reason",
    [
        ("prediction_rnn_type", "gru", "an embedding, LSTM layers and layer normalization"),
        ("prediction_num_rnns", 2, "a layer normalization is behind the last LSTM only"),
        ("joint_mode", "concat", "an activation of the sum of both projections"),
        ("encoder_fc_factor", 1.0, "feed-forward modules are half steps"),
    ],
)
def test_a_refusal_gives_its_reason(key, value, reason):
    with refused(reason):
        translated(yaml.safe_dump({"model_config": {"prediction_embed_dim": 320, key: value}}))


def test_keys_that_nobody_knows_are_named():
    translation = translated("other: 1\ndecoder_config: {beam_widths: 8}")
    assert any("other, decoder_config.beam_widths" in line for line in translation.lines())


@pytest.mark.parametrize(
    "text, section, key, do",
    [
        ("speech_config: {sample_rates: 8000}", "speech_config", "sample_rates", "Use sample_rate"),
        ("model_config: {encoder_dmodle: 256}", "model_config", "encoder_dmodle", "Use encoder_d"),
        (
            "model_config: {encoder_subsampling: {filter: 8}}",
            "model_config.encoder_subsampling",
            "filter",
            "Use filters",
        ),
        ("model_config: {5: 6}", "model_config", "5", "Remove it"),
    ],
)
def test_unknown_keys_of_the_model_are_refused(text, section, key, do):
    with refused(match=rf"key under {section} in their.yml\. Received: {key}\. {do}"):
        translated(text)


MASKS = TRAIN + ", augmentation_config: {feature_augment: {%s: {%s: null}}}}}"


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"speech_config: {{{key}: null}}"
            for key in "sample_rate frame_ms stride_ms num_feature_bins preemphasis top_db".split()
        ),
        *(
            f"model_config: {{prediction_embed_dim: 320, {key}: null}}"
            for key in "encoder_dmodel encoder_num_blocks encoder_num_heads encoder_kernel_size "
            "encoder_dropout encoder_head_size encoder_subsampling prediction_rnn_units "
            "joint_dim".split()
        ),
        *(
            TRAIN + f"}}, optimizer_config: {{{key}: null}}}}"
            for key in "warmup_steps epsilon beta_1 beta_2 beta1 beta2".split()
        ),
        *(
            TRAIN + f"}}, running_config: {{{key}: null}}}}"
            for key in "batch_size num_epochs log_interval_steps save_interval_steps".split()
        ),
        *(MASKS % ("time_masking", x) for x in ("num_masks", "mask_factor", "p_upperbound")),
        *(MASKS % ("freq_masking", x) for x in ("num_masks", "mask_factor")),
    ],
)
def test_a_null_value_is_the_default(text):
    absent = yaml.safe_dump(without_nulls(yaml.safe_load(text)))
    assert translated(text).values == translated(absent).values


def without_nulls(content):
    if not isinstance(content, dict):
        return content
    return {key: without_nulls(value) for key, value in content.items() if value is not None}


def test_a_null_embedding_is_that_of_the_code():
    with refused(match="prediction_embed_dim: 320 .*Received: 512"):
        translated("model_config: {prediction_embed_dim: null}")


@pytest.mark.parametrize(
    "text, named",
    [
        ("model_config: {encoder_dmodel: '144'}", "model_config.encoder_dmodel"),
        ("model_config: {encoder_dropout: 2}", "model_config.encoder_dropout"),
        (
            "model_config: {encoder_subsampling: {filters: x}}",
            "model_config.encoder_subsampling.filters",
        ),
        ("speech_config: {sample_rate: fast}", "speech_config.sample_rate"),
        ("speech_config: {preemphasis: x}", "speech_config.preemphasis"),
        ("learning_config: {running_config: {batch_size: x}}", "running_config.batch_size"),
        ("learning_config: {optimizer_config: {beta2: x}}", "optimizer_config.beta2"),
    ],
)
def test_errors_name_the_key_of_the_file(load, text, named):
    content = yaml.safe_load(text)
    learning = content.setdefault("learning_config", {})
    learning["train_dataset_config"] = {"data_paths": ["/d/train.tsv"]}
    content.setdefault("model_config", {})["prediction_embed_dim"] = 320
    with refused(named) as caught:
        load(yaml.safe_dump(content))
    assert not re.search(r"\b(model|features|training)\.", str(caught.value))


def test_errors_about_several_keys_and_about_the_command_line(tmp_path):
    path = tmp_path / "model.hidden_dim.yml"
    path.write_text(
        EXAMPLE.replace("encoder_num_heads: 4", "encoder_num_heads: 5").replace("36", "28.8")
    )
    with refused(
        match=r"model_config\.encoder_dmodel that is a multiple of model_config\.encoder_num"
    ):
        conformer.load_config(path)
    with refused(match=r"for model\.hidden_dim on the command line") as caught:
        conformer.load_config(path, {"model.hidden_dim": "x"})
    assert "encoder_dmodel" not in str(caught.value)
    path.write_text(EXAMPLE.replace("encoder_num_blocks: 16", "encoder_num_blocks: x"))
    with refused(f"for model_config.encoder_num_blocks in {path}"):
        conformer.load_config(path)


def test_tables_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    values = translated("learning_config: {train_dataset_config: {data_paths: [~/c/t.tsv]}}").values
    assert values["data.data_dir"] == "/home/me/c"
    assert values["data.train_splits"] == ["/home/me/c/t.tsv"]


def test_such_a_config_trains(tmp_path, capsys):
    sounds = [0.1 * np.random.default_rng(0).normal(size=n) for n in (4000, 5000)]
    rows = []
    for number, sound in enumerate(sounds):
        soundfile.write(tmp_path / f"{number}.wav", sound, 16000)
        rows.append(f"{number}.wav\t0.3\tone two\n")
    (tmp_path / "t.tsv").write_text("PATH\tDURATION\tTRANSCRIPT\n" + "".join(rows))
    vocabulary = "### SubwordTextEncoder\n### Metadata: {}\n'one_'\n'two'\n"
    (tmp_path / "v.subwords").write_text(vocabulary)
    config = {
        "decoder_config": {"vocabulary": "v.subwords"},
        "model_config": {
            "encoder_subsampling": {"filters": 4},
            "encoder_dmodel": 8,
            "encoder_head_size": 4,
            "encoder_num_heads": 2,
            "encoder_num_blocks": 1,
            "prediction_embed_dim": 8,
            "prediction_rnn_units": 8,
            "joint_dim": 8,
        },
        "learning_config": {"train_dataset_config": {"data_paths": [str(tmp_path / "t.tsv")]}},
    }
    (tmp_path / "their.yml").write_text(yaml.safe_dump(config))
    run = tmp_path / "run"
    flags = [f"--config={tmp_path}/their.yml", f"--output_dir={run}", "--steps=1", "--skip_eval"]
    assert main(flags) == 0
    assert '"two"' in (run / "vocabulary.json").read_text()
    assert any(run.glob("checkpoints/step-*"))


def test_the_beam_becomes_that_of_exports(load):
    decoding = load(EXAMPLE.replace("beam_width: 0", "beam_width: 8")).decoding
    assert (decoding.beam_width, decoding.norm_score) == (8, True)
    decoding = load(EXAMPLE.replace("norm_score: true", "norm_score: false")).decoding
    assert (decoding.beam_width, decoding.norm_score) == (0, False)


@pytest.mark.parametrize("name", ["50.h5", "50.HDF5"])
def test_weights_alone_are_answered_with_the_command_that_fine_tunes_them(tmp_path, name, capsys):
    path = tmp_path / name
    path.write_bytes(b"\x89HDF")
    do = f"conformer.train --config=config.yml --pretrained={path}, and give"
    for flag in ("--saved", "--pretrained"):
        with refused(do):
            infer([f"{flag}={path}", f"--data_dir={tmp_path}"])
    for flag in ("--checkpoint", "--pretrained"):
        with refused(do):
            export([f"{flag}={path}", f"--output_dir={tmp_path / 'other'}"])
    assert "exporting" not in capsys.readouterr().err
    with refused("--pretrained="):
        conformer.load(path)
