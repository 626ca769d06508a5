"""Exports wav2vec 2.0 as a SavedModel that runs in TensorFlow without this project."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import keras

from tools.config.command_line import CommandLine, run
from tools.conversion.pipeline import POLICIES
from tools.conversion.saved_model import write_saved_model
from tools.errors import UserError
from tools.inference.flags import add_precision_flag
from tools.training.checkpoint import Checkpoint
from tools.weights.hub import local_source
from wav2vec2.checkpoint import from_checkpoint
from wav2vec2.config import ARCHITECTURES, CONFIG_FILE, PreprocessingConfig, model_config
from wav2vec2.model import Wav2Vec2, build_model
from wav2vec2.signatures import Signatures, pipeline_description
from wav2vec2.tensors import DEFAULT_DIR
from wav2vec2.vocabulary import LIBRISPEECH, Vocabulary
from wav2vec2.vocabulary_files import load_vocabulary
from wav2vec2.weights import from_pretrained, load_pytorch_weights


def export_saved_model(model: Wav2Vec2, output_dir: str | Path) -> dict:
    """Writes a model as a SavedModel. If writing fails, no incomplete directory is left behind.

    Args:
        model: a model of any precision with `vocabulary` and `preprocessing`.
        output_dir: directory to write. It must not exist, or hold an earlier export, which is
            replaced.

    Returns:
        The content of `pipeline.json`.
    """
    parts = model, model.vocabulary, model.preprocessing
    description = pipeline_description(*parts)
    signatures = Signatures(*parts)
    write_saved_model(output_dir, signatures.functions, signatures.weights, description)
    return description


def export_checkpoint(checkpoint: Checkpoint, output_dir: Path) -> None:
    """Writes the model of a training checkpoint as a SavedModel.

    Args:
        checkpoint: training checkpoint. If it has a moving average of the weights, the average is
            exported.
        output_dir: see `export_saved_model`.
    """
    export_saved_model(from_checkpoint(checkpoint.path), output_dir)


def export_source(source: str | Path, output_dir: str | Path) -> None:
    """Writes the model of a source of weights as a SavedModel.

    Args:
        source: Hugging Face folder, `hf:owner/name[@revision]`, training checkpoint or run
            directory.
        output_dir: see `export_saved_model`.

    Raises:
        UserError: the source cannot be downloaded or read.
    """
    export_saved_model(_from_source(source), output_dir)


def _from_source(source: str | Path, **options) -> Wav2Vec2:
    path = local_source(source)
    read = from_pretrained if (path / CONFIG_FILE).is_file() else from_checkpoint
    return read(path, **options)


def named_model(
    name: str,
    checkpoint: str | None,
    vocabulary: Vocabulary,
    seed: int,
    *,
    precision: str = "float32",
    **options,
) -> Wav2Vec2:
    """Returns a model of a named architecture, with the weights of a single file.

    Args:
        name: name of the architecture.
        checkpoint: file of weights; None: initial weights.
        vocabulary: vocabulary of the head.
        seed: seed of initial weights.
        precision: see `wav2vec2.model.build_model`.
        **options: further fields of `ModelConfig`.
    """
    config = model_config(name, vocabulary_size=len(vocabulary), **options)
    keras.utils.set_random_seed(seed)
    model = build_model(config, precision)
    if checkpoint:
        load_pytorch_weights(model, checkpoint)
    else:
        print("no --checkpoint: using untrained initial weights", file=sys.stderr)
    model.vocabulary = vocabulary
    model.preprocessing = PreprocessingConfig(trained_with_mask=config.feature_norm == "layer")
    return model


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "wav2vec2.export",
        "Exports wav2vec 2.0 as a SavedModel.",
        example="--pretrained=wav2vec2-base-960h/ --output_dir=exports/w2v",
    )
    flags.group("Input")
    about = "Hugging Face folder, hf:owner/name[@revision], or run directory of wav2vec2.train."
    flags.string("pretrained", None, about, default_text="none")
    about = "Hugging Face folder; the same as --pretrained."
    flags.string("pytorch_model_dir", None, about, default_text="none")
    names = tuple(ARCHITECTURES)
    about = "Architecture, if no Hugging Face folder is given."
    flags.enum("model", None, names, about, default_text="none")
    flags.string(
        "checkpoint",
        None,
        "With --model: .bin, .pth or .safetensors file of its weights. Without: checkpoint or run "
        "directory of wav2vec2.train; of a run, the best checkpoint is exported.",
        default_text="initial weights",
    )
    about = "With --model: folder with vocab.json."
    flags.string("vocabulary_dir", None, about, default_text="32 LibriSpeech symbols")
    flags.group("Model")
    flags.integer("seed", 0, "Seed of initial weights.")
    flags.boolean(
        "mask_padding",
        None,
        "Masks the padding, so that results do not depend on the batch; else it counts as sound.",
        default_text="true, or as trained",
    )
    about = "Longest sound for one call in seconds."
    flags.number("max_seconds", None, about, default_text="35")
    flags.group("Output")
    flags.string("output_dir", DEFAULT_DIR, "SavedModel directory to write.")
    add_precision_flag(flags)
    values, rest = flags.parse(argv)
    named = values.pretrained or values.pytorch_model_dir
    trained = values.checkpoint and not values.model and not named
    sources = [values.pretrained, values.pytorch_model_dir, values.model, trained]
    sources = [source for source in sources if source]
    if rest or len(sources) != 1 or not values.output_dir:
        raise UserError.expected(
            "--pretrained SOURCE or --model NAME or --checkpoint RUN",
            " ".join(argv) or "nothing",
            "See --help",
        )
    extra = [x for x in ("checkpoint", "vocabulary_dir") if getattr(values, x)]
    if trained:
        extra.remove("checkpoint")
    if not values.model and extra:
        raise UserError.expected(f"--{extra[0]} with --model", "a folder", "Leave one of them out")
    options = {"precision": POLICIES[values.precision]}
    if values.mask_padding is not None:
        options["mask_padding"] = values.mask_padding
    if trained:
        if Path(values.checkpoint).is_file():
            raise UserError.expected(
                "--model with a file of weights", values.checkpoint, "Give its architecture"
            )
        model = from_checkpoint(values.checkpoint, **options)
    elif values.pretrained:
        model = _from_source(values.pretrained, **options)
    elif values.pytorch_model_dir:
        model = from_pretrained(values.pytorch_model_dir, **options)
    else:
        folder = values.vocabulary_dir
        vocabulary = load_vocabulary(folder) if folder else Vocabulary(LIBRISPEECH)
        model = named_model(values.model, values.checkpoint, vocabulary, values.seed, **options)
    if values.max_seconds is not None:
        shortest = model.config.receptive_field_samples / model.preprocessing.sample_rate_hz
        if not shortest <= values.max_seconds <= 3600:
            raise UserError.expected(
                f"--max_seconds of {shortest} to 3600",
                values.max_seconds,
                "Correct --max_seconds",
            )
        model.preprocessing = replace(model.preprocessing, max_seconds=values.max_seconds)
    export_saved_model(model, values.output_dir)
    source = values.pytorch_model_dir or values.checkpoint or "initial weights"
    print(f"exported {source} to {values.output_dir}", file=sys.stderr)
    return 0


def cli() -> NoReturn:
    """Runs the program from the shell and exits."""
    run(main)


if __name__ == "__main__":
    cli()
