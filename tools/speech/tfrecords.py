"""Reading of TensorFlowASR's TFRecord shards: `STAGE_1.tfrecord`, `STAGE_2.tfrecord` and so on.

Source: TensorFlowASR, datasets/asr_dataset.py: with texts and ZLIB until 0.7.0, with indices and
ZLIB from 0.7.1 to 1.0.4, with texts and GZIP from 2.0.0.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from tools.errors import UserError

_NAME = re.compile(r"(.+)_(\d+)\.tfrecord")


@dataclass(frozen=True, slots=True)
class Record:
    """An utterance of a shard.

    Attributes:
        path: path of the sound when the shard was written.
        audio: content of a WAV file.
        transcript: text, or None if the record has ids.
        indices: ids of the transcript, or None if the record has a text.
    """

    path: str
    audio: bytes
    transcript: str | None
    indices: tuple[int, ...] | None


def stages(folder: Path) -> dict[str, list[Path]]:
    """Returns the shards in a folder by stage, in the order of their numbers.

    Raises:
        UserError: the folder has no shards.
    """
    found = defaultdict(list)
    for path in folder.glob("*.tfrecord"):
        match = _NAME.fullmatch(path.name)
        if match:
            found[match[1]].append((int(match[2]), path))
    if not found:
        raise UserError.expected(
            f"shards STAGE_NUMBER.tfrecord in {folder}", "none", "Name the folder of the shards"
        )
    return {stage: [path for _, path in sorted(found[stage])] for stage in sorted(found)}


def read_shard(path: Path) -> Iterator[Record]:
    """Yields the records of a shard; the compression is found from the content.

    Raises:
        UserError: the shard is damaged, or its records have other fields.
    """
    number = 0
    try:
        for number, data in enumerate(tf.data.TFRecordDataset(str(path), compression(path))):
            yield _record(data.numpy(), f"record {number} of {path}")
    except tf.errors.OpError as error:
        raise UserError.expected(
            f"a whole shard {path}", f"damaged data after record {number}", "Copy it again"
        ) from error


def compression(path: Path) -> str:
    """Returns "GZIP", "ZLIB", or an empty text for a shard without compression."""
    with path.open("rb") as file:
        start = file.read(8)
    if start[:2] == b"\x1f\x8b":
        return "GZIP"
    # The first 8 bytes of plain records are a length, of which no record needs the last 3.
    is_zlib = start[:1] == b"\x78" and int.from_bytes(start[:2], "big") % 31 == 0
    return "ZLIB" if is_zlib and start[5:] != bytes(3) else ""


def _record(data: bytes, place: str) -> Record:
    example = tf.train.Example()
    try:
        example.ParseFromString(data)
        fields = {x: f.bytes_list.value[0] for x, f in example.features.feature.items()}
        indices, transcript = fields.get("indices"), fields.get("transcript")
        if indices is None and transcript is None:
            raise KeyError("transcript")
        return Record(
            fields["path"].decode("utf-8", "replace"),
            fields["audio"],
            None if transcript is None else transcript.decode(),
            None if indices is None else tuple(map(int, indices.split())),
        )
    except Exception as error:  # protobuf's own class of errors depends on its implementation
        raise UserError.expected(
            f"path, audio and transcript or indices in {place}",
            f"{type(error).__name__}",
            "Name shards that TensorFlowASR has written",
        ) from error
