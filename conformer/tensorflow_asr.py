"""Translation of TensorFlowASR's `config.yml` to the config of this project.

Source: TensorFlowASR 0.8.3 to 1.0.4, configs/config.py and models/transducer/conformer.py. A key
that is absent or null has the default of that code.
"""

import math
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conformer.tensorflow_asr_keys import (
    ALWAYS,
    CHARACTERS,
    DATASET,
    DECODER,
    FREQUENCY_MASKS,
    MODEL,
    OPTIMIZER,
    RUNNING,
    SIGNAL,
    SPEECH,
    SUBSAMPLING,
    TEST,
    TIME_MASKS,
    UNKNOWN,
    Left,
    To,
    Trained,
)
from tools.config.similar import similar_name
from tools.config.values import show
from tools.errors import UserError
from tools.files import expand_home, one_line

WEIGHTS_SUFFIXES = (".h5", ".hdf5")
SECTIONS = ("speech_config", "decoder_config", "model_config", "learning_config")
_VOCABULARIES = (".subwords", ".json")  # lists of characters are not read
_ABSENT = object()


@dataclass
class Translation:
    """The translation of a file.

    Attributes:
        values: values by dotted key of this project's config.
        sources: key of the file by dotted key, for messages.
        notes: keys of the file without an effect, by reason.
    """

    values: dict[str, object] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    notes: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def lines(self) -> list[str]:
        """Returns a line for each reason: the keys and the reason."""
        return [f"{', '.join(keys)}: {reason}" for reason, keys in self.notes.items()]


def is_tensorflow_asr(content: Mapping) -> bool:
    """Returns whether the content of a YAML file is a config of TensorFlowASR."""
    return any(section in content for section in SECTIONS)


def refuse_weights(source: str | Path) -> None:
    """Refuses a file of weights where a model is needed: it has neither config nor vocabulary.

    Args:
        source: path of a model, or `hf:owner/name`.

    Raises:
        UserError: the source is a file of weights of TensorFlowASR. The message has the command
            that fine-tunes them.
    """
    if str(source).lower().endswith(WEIGHTS_SUFFIXES):
        raise UserError.expected(
            "an exported model, a training run, a checkpoint or a published model",
            f"{one_line(source)}, weights of TensorFlowASR",
            "Fine-tune them with python -m conformer.train --config=config.yml "
            f"--pretrained={one_line(source)}, and give the run directory",
        )


def translate(content: Mapping, path: str | Path) -> Translation:
    """Translates the content of a config file of TensorFlowASR.

    Args:
        content: content of the file, with at least one of `SECTIONS`.
        path: of the file. A relative path of a vocabulary starts at its folder, if it is there.

    Raises:
        UserError: the file asks for a model or features that this project does not have.
    """
    reader = _Reader(str(path))
    speech, decoder, model, learning = (reader.section(content.get(x), x) for x in SECTIONS)
    reader.unknown(content, {*SECTIONS}, "")
    values = reader.result.values
    reader.read(speech, SPEECH, "speech_config", also=("preemphasis",), strict=True)
    reader.give(
        "features.preemphasis", speech.get("preemphasis") or 0.0, "speech_config.preemphasis"
    )
    values["features.fft_length"] = _fft_length(values)
    reader.read(decoder, DECODER, "decoder_config", also=("vocabulary",))
    if decoder.get("vocabulary"):
        vocabulary = _beside(str(decoder["vocabulary"]), path)
        if not vocabulary.endswith(_VOCABULARIES):
            raise UserError.expected(
                f"decoder_config.vocabulary: a file {' or '.join(_VOCABULARIES)} in {path}",
                vocabulary,
                "Set it to null, so that the vocabulary is the characters of the training set",
            )
        reader.give("tokenizer.vocabulary_file", vocabulary, "decoder_config.vocabulary")
    else:
        reader.result.notes[CHARACTERS].append("decoder_config.vocabulary: null")
    _read_model(reader, model)
    _read_learning(reader, learning)
    return reader.result


class _Reader:
    """Reads sections by the tables above, and collects the values and the keys without effect."""

    def __init__(self, path: str):
        self.path, self.result = path, Translation()

    def section(self, content: object, name: str) -> Mapping:
        """Returns a section; an empty one for None."""
        if content is None:
            return {}
        if not isinstance(content, Mapping):
            raise UserError.expected(
                f"keys and values under {name} in {self.path}", show(content), f"Correct {name}"
            )
        return content

    def give(self, key: str, value: object, source: str) -> None:
        """Sets the value of a key of this project, from a key of the file."""
        self.result.values[key], self.result.sources[key] = value, source

    def read(
        self,
        given: Mapping,
        rules: Mapping[str, object],
        name: str,
        *,
        also: Iterable[str] = (),
        strict: bool = False,
    ) -> None:
        """Reads the keys of a section.

        Args:
            given: content of the section.
            rules: what each key becomes.
            name: dotted name of the section, for messages.
            also: keys that the caller reads.
            strict: whether to refuse unknown keys; otherwise they are noted.
        """
        for key, rule in rules.items():
            value = given.get(key, _ABSENT)
            where = f"{name}.{key}"
            if isinstance(rule, To):
                value = rule.default if value in (_ABSENT, None) else value
                if value is not None:
                    self.give(rule.key, value, where)
            elif value is _ABSENT:
                continue
            elif isinstance(rule, Left):
                if value not in rule.silent:
                    self.result.notes[rule.reason].append(where)
            elif isinstance(rule, Trained):
                if value is False:
                    frozen = self.result.values.get("training.freeze", [])
                    self.give("training.freeze", [*frozen, rule.layer], where)
                elif value not in (None, True):
                    self.refuse(where, True, value, "or false, which freezes the layer")
            elif not _is_all(value, rule.value):
                self.refuse(where, rule.value, value, rule.reason)
        known = (*rules, *also)
        unknown = next((str(key) for key in given if key not in known), None)
        if strict and unknown is not None:
            near = similar_name(unknown, known)
            raise UserError.expected(
                f"a known key under {name} in {self.path}",
                one_line(unknown),
                f"Use {near}" if near else "Remove it, or train that model with TensorFlowASR",
            )
        self.unknown(given, known, f"{name}.")

    def unknown(self, given: Mapping, known: Collection[str], prefix: str) -> None:
        """Notes the keys of a section that are not in `known`."""
        for key in given:
            if key not in known:
                self.result.notes[UNKNOWN].append(f"{prefix}{key}")

    def refuse(self, where: str, expected: object, value: object, reason: str) -> None:
        """Raises the error for a value that this project does not support."""
        raise UserError.expected(
            f"{where}: {_yaml(expected)} in {self.path} ({reason})",
            _yaml(value),
            "Train that model with TensorFlowASR",
        )


def _read_model(reader: _Reader, model: Mapping) -> None:
    others = ("encoder_subsampling", "encoder_head_size", "prediction_embed_dim")
    reader.read(model, MODEL, "model_config", also=others, strict=True)
    values = reader.result.values
    name = "model_config.encoder_subsampling"
    subsampling = reader.section(model.get("encoder_subsampling"), name)
    reader.read(subsampling, SUBSAMPLING, name, also=("filters",), strict=True)
    reader.give("model.subsampling_filters", subsampling.get("filters"), f"{name}.filters")
    width, heads = values["model.hidden_dim"], values["model.num_heads"]
    size = _first(model, ("encoder_head_size",), 36)
    if isinstance(width, int) and isinstance(heads, int) and heads and size != width / heads:
        reason = "heads divide the width"
        reader.refuse("model_config.encoder_head_size", width // heads, size, reason)
    layers = values["model.prediction_layers"]
    if layers != 1 and values["model.prediction_norm"] is not False:
        reason = "a layer normalization is behind the last LSTM only"
        reader.refuse("model_config.prediction_num_rnns", 1, layers, reason)
    units = values["model.prediction_dim"]
    embedding = _first(model, ("prediction_embed_dim",), 512)
    if embedding != units:
        reason = "the embedding is as wide as the LSTM"
        reader.refuse("model_config.prediction_embed_dim", units, embedding, reason)


def _read_learning(reader: _Reader, learning: Mapping) -> None:
    name, values, sections = "learning_config", reader.result.values, {}
    kinds = ("train", "eval", "test")
    names = [f"{kind}_dataset_config" for kind in kinds] + ["optimizer_config", "running_config"]
    for key in names:
        sections[key] = reader.section(learning.get(key), f"{name}.{key}")
    reader.unknown(learning, names, f"{name}.")
    for kind in kinds:
        given, where = sections[f"{kind}_dataset_config"], f"{name}.{kind}_dataset_config"
        reader.read(given, DATASET, where, also=("data_paths", "augmentation_config"))
        if kind != "train" and given.get("augmentation_config"):
            reader.result.notes["only training data is augmented"].append(
                f"{where}.augmentation_config"
            )
    if sections["test_dataset_config"].get("data_paths"):
        reader.result.notes[TEST].append(f"{name}.test_dataset_config.data_paths")
    _read_augmentation(reader, sections["train_dataset_config"])
    tables = {kind: _paths(sections[f"{kind}_dataset_config"]) for kind in ("train", "eval")}
    if not tables["train"]:
        raise UserError.expected(
            f"tables in {name}.train_dataset_config.data_paths in {reader.path}",
            "none",
            "Name the tables of the training set; of TFRecord shards, make one with "
            "python -m tools.cli.unpack_tfrecords",
        )
    values["data.train_splits"], values["data.eval_splits"] = tables["train"], tables["eval"]
    every = [*tables["train"], *tables["eval"]]
    if all(map(os.path.isabs, every)):
        values["data.data_dir"] = os.path.commonpath([*map(os.path.dirname, every)])
    optimizer, where = sections["optimizer_config"], f"{name}.optimizer_config"
    reader.read(optimizer, OPTIMIZER, where, also=("beta_1", "beta1", "beta_2", "beta2"))
    for key, old, default in (("beta_1", "beta1", 0.9), ("beta_2", "beta2", 0.98)):
        beta = _first(optimizer, (key, old), default)
        reader.give(
            f"training.optimizer.{key}", beta, f"{where}.{old if old in optimizer else key}"
        )
    values["training.optimizer.name"] = "adam"
    values["training.schedule.name"] = "transformer"
    width, steps = values["model.hidden_dim"], values["training.schedule.warmup_steps"]
    if all(isinstance(x, int) and x > 0 for x in (width, steps)):
        # The rate rises to (width * steps) ** -0.5, and is cut off at 0.05 / sqrt(width).
        values["training.schedule.peak"] = min(steps**-0.5, 0.05) / math.sqrt(width)
    reader.read(sections["running_config"], RUNNING, f"{name}.running_config")


def _read_augmentation(reader: _Reader, dataset: Mapping) -> None:
    where = "learning_config.train_dataset_config.augmentation_config"
    given = reader.section(dataset.get("augmentation_config"), where)
    reader.result.values |= dict.fromkeys(
        ("spec_augment.num_time_masks", "spec_augment.num_frequency_masks"), 0
    )
    for key in given:
        if key in ("feature_augment", "after"):
            masks = reader.section(given[key], f"{where}.{key}")
            for method, rules in (
                ("time_masking", TIME_MASKS),
                ("freq_masking", FREQUENCY_MASKS),
            ):
                if method in masks:
                    inside = f"{where}.{key}.{method}"
                    reader.read(reader.section(masks[method], inside), rules, inside)
            reader.unknown(masks, {"time_masking", "freq_masking"}, f"{where}.{key}.")
        elif key in ("signal_augment", "before"):
            if given[key]:
                reader.result.notes[SIGNAL].append(f"{where}.{key}")
        else:
            reason = ALWAYS if key == "prob" else UNKNOWN
            reader.result.notes[reason].append(f"{where}.{key}")


def _paths(dataset: Mapping) -> list[str]:
    found = dataset.get("data_paths") or []
    return [expand_home(str(x)) for x in (found if isinstance(found, list) else [found])]


def _first(given: Mapping, keys: Iterable[str], default: object) -> object:
    """Returns the first value that is not null, or the default."""
    return next((given[key] for key in keys if given.get(key) is not None), default)


def _beside(name: str, path: str | Path) -> str:
    """Returns a path relative to the folder of a file, if it is there; otherwise unchanged."""
    beside = Path(path).parent / name
    return str(beside) if beside.is_file() else name


def _fft_length(values: Mapping[str, object]) -> int:
    """Returns the smallest power of two that is not below the frame length in samples."""
    rate, length = values["features.sample_rate_hz"], values["features.frame_length_ms"]
    if not all(isinstance(x, (int, float)) and 0 < x < 1e6 for x in (rate, length)):
        return 512  # the loader then refuses the value
    return 1 << (max(round(rate * length / 1000), 2) - 1).bit_length()


def _is_all(value: object, expected: object) -> bool:
    """Returns whether a value, or each value of a list, is the expected one."""
    return all(x == expected for x in value) if isinstance(value, list) else value == expected


def _yaml(value: object) -> str:
    return show(value).lower() if isinstance(value, bool | None) else str(value)
