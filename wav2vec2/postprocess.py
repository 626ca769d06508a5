"""Decodes raw logits and compares the texts with the transcripts: accuracy and error rates."""

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tools.amounts import counted
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.decoding.ctc import CtcGreedySearch
from tools.errors import UserError
from tools.recognition.characters import lacking_characters, never_written
from tools.speech.scoring import character_distance, score
from tools.speech.transcripts import normalization
from wav2vec2.tensors import (
    OUTPUTS_FILE,
    TEXTS_FILE,
    check_rows,
    map_file,
    name_of,
    read_batch,
    read_json,
)

REFERENCE_ACCURACY = 0.970  # of the original: base-960h on the shorter utterances of test-clean


# Vocabulary of wav2vec2-base-960h, for outputs of the original, which do not name theirs.
_ORIGINAL = ("", "", "", "", " ", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ")


def read_texts(path: Path) -> dict[str, str]:
    """Reads the transcripts by utterance id; raises UserError if the file cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise UserError.expected(
            f"{TEXTS_FILE} of wav2vec2.preprocess", f"{path}: {reason}", "Correct --data_path"
        ) from error
    return dict(line.split(" ", 1) for line in lines if " " in line)


def read_outputs(folder: Path, names: dict[str, list[str]]) -> tuple[dict, dict[str, list[int]]]:
    """Reads the description of the model and the number of frames of each row.

    Outputs of the original project have no description: then all frames count.

    Args:
        folder: folder written by `wav2vec2.compile`.
        names: utterance ids of the rows, by name of the batch.

    Returns:
        The content of `pipeline.json`, and the frames of the rows by name of the batch.

    Raises:
        UserError: the file is missing or belongs to other batches.
    """
    path = folder / OUTPUTS_FILE
    if not path.exists() and all((folder / f"{batch}.bin").is_file() for batch in names):
        print(
            f"{folder} has no {OUTPUTS_FILE}: every frame counts, with the vocabulary of "
            "wav2vec2-base-960h",
            file=sys.stderr,
        )
        size, frames = len(_ORIGINAL), {}
        for batch, utterances in names.items():
            logits = read_batch(folder / f"{batch}.bin", len(utterances), size)
            frames[batch] = [logits.shape[1] // size] * len(utterances)
        return {"vocabulary": {"surfaces": list(_ORIGINAL)}, "blank": 0}, frames
    outputs = read_json(path, "wav2vec2.compile")
    pipeline, frames = outputs.get("pipeline"), outputs.get("frames")
    rows = {batch: [int] * len(utterances) for batch, utterances in names.items()}
    if (
        not isinstance(pipeline, dict)
        or pipeline.get("family") != "wav2vec2"
        or not isinstance(frames, dict)
        or outputs.get("utterances", name_of(names)) != name_of(names)
        or {batch: isinstance(x, list) and [*map(type, x)] for batch, x in frames.items()} != rows
    ):
        raise UserError.expected(
            f"outputs of wav2vec2 for the {len(names)} batches of the map and their utterances",
            f"other batches in {path}",
            "Run wav2vec2.preprocess and wav2vec2.compile again, with the same --batch_size",
        )
    return pipeline, frames


def recognized(
    folder: Path,
    pipeline: Mapping,
    names: dict[str, list[str]],
    frames: dict[str, list[int]],
    *,
    every_frame: bool,
) -> dict[str, str]:
    """Decodes the logits in a folder. Spaces at the ends of a text are kept.

    Args:
        folder: folder written by `wav2vec2.compile`.
        pipeline: content of the model's `pipeline.json`.
        names: utterance ids of the rows, by name of the batch.
        frames: valid frames of the rows, by name of the batch.
        every_frame: whether to decode padded frames as well.

    Returns:
        The texts by utterance id.

    Raises:
        UserError: a row has fewer frames than it should, or a logit is not finite.
    """
    surfaces, texts = pipeline["vocabulary"]["surfaces"], {}
    search = CtcGreedySearch(pipeline["blank"])
    for batch, utterances in names.items():
        logits = read_batch(folder / f"{batch}.bin", len(utterances), len(surfaces))
        logits = logits.reshape(len(utterances), -1, len(surfaces))
        most = logits.shape[1]
        if not 0 <= min(frames[batch]) <= max(frames[batch]) <= most:
            raise UserError.expected(
                f"0 to {most} frames in each row of {batch}",
                ", ".join(map(str, frames[batch])),
                "Run wav2vec2.compile again",
            )
        lengths = [most] * len(utterances) if every_frame else frames[batch]
        state = search.advance(search.start(len(utterances)), logits, lengths)
        for utterance, found in zip(utterances, search.finish(state), strict=True):
            if not math.isfinite(found.log_probability):
                raise UserError.expected(
                    f"finite logits of {utterance} in {folder / batch}.bin",
                    "NaN or infinity",
                    "Run wav2vec2.compile again, in float32",
                )
            texts[utterance] = "".join(surfaces[token] for token in found.tokens)
    return texts


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "wav2vec2.postprocess",
        "Decodes raw logits and compares the texts with the transcripts.",
        "--input=FOLDER --batch_size=N --data_path=DATA [FLAGS]",
        example="--input=data/output/bs8 --batch_size=8 --data_path=data",
    )
    flags.group("Input")
    about = "Folder written by wav2vec2.compile."
    flags.string("input", None, about, default_text=REQUIRED)
    about = "Folder with the file map and the transcripts."
    flags.string("data_path", None, about, default_text=REQUIRED)
    flags.integer("batch_size", 1, "Number of utterances in a batch.")
    flags.group("Evaluation")
    about = "Decodes padding and counts outer spaces as errors, as the original does."
    flags.boolean("seed_mode", False, about)
    about = "Accuracy to compare with."
    flags.number("reference_accuracy", REFERENCE_ACCURACY, about)
    values, rest = flags.parse(argv)
    if rest or not values.input or not values.data_path:
        raise UserError.expected(
            "--input FOLDER --batch_size N --data_path DATA",
            " ".join(argv) or "nothing",
            "See --help",
        )
    if not 0 <= values.reference_accuracy <= 1:
        raise UserError.expected(
            "--reference_accuracy of 0 to 1",
            values.reference_accuracy,
            "Correct --reference_accuracy",
        )
    data = Path(values.data_path)
    names = read_json(data / map_file(values.batch_size), "wav2vec2.preprocess")
    check_rows(names, values.batch_size, str, data / map_file(values.batch_size))
    said = read_texts(data / TEXTS_FILE)
    folder = Path(values.input)
    pipeline, frames = read_outputs(folder, names)
    texts = recognized(folder, pipeline, names, frames, every_frame=values.seed_mode)
    missing = sorted(texts.keys() - said.keys())
    if missing:
        raise UserError.expected(
            f"{missing[0]} in {data / TEXTS_FILE}", "no line", "Add its transcript"
        )
    surfaces = pipeline["vocabulary"]["surfaces"]
    normalize = normalization(surfaces)
    references = [normalize(said[utterance]) for utterance in texts]
    share, line = lacking_characters(references, never_written(surfaces))
    if share:
        print(f"{line}; they count as errors", file=sys.stderr)
    hypotheses = [x if values.seed_mode else x.strip(" ") for x in texts.values()]
    errors, characters = character_distance(references, hypotheses)
    accuracy = 1.0 - errors / max(characters, 1)
    result = score(references, hypotheses)
    print(f"Err {1.0 - accuracy:.4f}, Acc {accuracy:.4f} (1 - Err; Err: edits per character)")
    print(
        f"reference accuracy {values.reference_accuracy:.4f}, "
        f"difference {accuracy - values.reference_accuracy:+.4f}"
    )
    print(f"WER {result.wer:.2%}, CER {result.cer:.2%} of {counted(len(references), 'utterance')}")
    return 0


if __name__ == "__main__":
    run(main)
