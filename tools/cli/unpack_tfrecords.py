"""Makes a corpus of TensorFlowASR's TFRecord shards: WAV files, and a table for each stage."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tqdm import tqdm

from conformer.tokenizer import Tokenizer, load_tokenizer
from tools.amounts import counted
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.files import new_folder, one_line
from tools.speech.audio import AudioError, AudioLimits, probe
from tools.speech.config import MAX_SECONDS
from tools.speech.tables import HEADER, TABLE_NAME
from tools.speech.tfrecords import Record, read_shard, stages


def transcript_of(record: Record, tokenizer: Tokenizer | None) -> str:
    """Returns the text of a record.

    Raises:
        UserError: the record has ids, and there is no vocabulary or another one.
    """
    if record.transcript is not None:
        return record.transcript
    if tokenizer is None:
        raise UserError.expected(
            "--vocabulary FILE for shards with ids instead of texts", "none", "Add --vocabulary"
        )
    largest = max(record.indices, default=0)
    if largest >= tokenizer.vocabulary_size or min(record.indices, default=0) < 0:
        raise UserError.expected(
            f"ids below {tokenizer.vocabulary_size}, the size of --vocabulary",
            largest,
            "Name the vocabulary with which the shards were written",
        )
    return tokenizer.decode(record.indices)


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.cli.unpack_tfrecords",
        "Makes a corpus of TensorFlowASR's TFRecord shards: OUTPUT_DIR/STAGE has WAV files and "
        "transcripts.tsv.",
        "--tfrecords_dir=DIR --output_dir=DIR [FLAGS]",
        example="--tfrecords_dir=tfrecords --output_dir=data/unpacked",
    )
    flags.group("Input")
    flags.string("tfrecords_dir", None, "Folder of STAGE_NUMBER.tfrecord.", default_text=REQUIRED)
    about = "Vocabulary of shards that have ids instead of texts (.subwords or .json)."
    flags.string("vocabulary", None, about)
    flags.group("Output")
    flags.string("output_dir", None, "Folder of the new splits.", default_text=REQUIRED)
    values, rest = flags.parse(argv)
    if rest or not values.tfrecords_dir or not values.output_dir:
        raise UserError.expected(
            "--tfrecords_dir DIR --output_dir DIR", " ".join(argv) or "nothing", "See --help"
        )
    tokenizer = load_tokenizer(values.vocabulary) if values.vocabulary else None
    for stage, shards in stages(Path(values.tfrecords_dir)).items():
        place = Path(values.output_dir) / stage
        if place.exists():
            raise UserError.expected(
                f"no folder {place}",
                "one from an earlier run",
                "Remove it or choose another --output_dir",
            )
        _unpack(place, shards, tokenizer)
    return 0


def _unpack(place: Path, shards: list[Path], tokenizer: Tokenizer | None) -> None:
    """Writes the split of a stage."""
    limits = AudioLimits(min_seconds=0.0, max_seconds=MAX_SECONDS)
    rows, num_skipped = ["\t".join(HEADER)], 0
    with new_folder(place) as folder, tqdm(unit="utterance", file=sys.stderr, delay=2) as bar:
        for number, record in enumerate(x for shard in shards for x in read_shard(shard)):
            text = " ".join(transcript_of(record, tokenizer).split())
            name = f"{number:07d}.wav"
            (folder / name).write_bytes(record.audio)
            bar.update()
            try:
                seconds = probe(folder / name, limits).duration_seconds
            except AudioError as error:
                num_skipped += 1
                print(f"skipped {one_line(record.path)}: {error.reason}", file=sys.stderr)
                (folder / name).unlink()
                continue
            rows.append(f"{name}\t{seconds:.3f}\t{text}")
        if len(rows) == 1:
            raise UserError.expected(
                f"utterances in {shards[0]}", f"none, {num_skipped} skipped", "Check the shards"
            )
        (folder / TABLE_NAME).write_text("\n".join([*rows, ""]), encoding="utf-8")
    print(f"{place}: {counted(len(rows) - 1, 'utterance')}, {num_skipped} skipped", file=sys.stderr)


if __name__ == "__main__":
    run(main)
