"""Corpora from TFRecord shards: the sounds and texts of every shard, and shards that are broken."""

import gzip
import zlib

import numpy as np
import pytest
import tensorflow as tf

from tests.support.errors import refused
from tests.support.speech import wav_bytes
from tools.cli.unpack_tfrecords import main
from tools.speech.audio import read
from tools.speech.corpus import read_corpus
from tools.speech.tfrecords import compression

SOUNDS = [0.5 * np.sin(np.arange(4000) * x) for x in (0.1, 0.2, 0.3)]
TEXTS = ["one two", "twoone", "one é"]
IDS = ["1 2", "2 3", f"1 {4 + 0xC3} {4 + 0xA9}"]  # of the vocabulary below
VOCABULARY = "### SubwordTextEncoder\n### Metadata: {}\n'one_'\n'two'\n'one'\n"


def example(**fields):
    features = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for name, value in fields.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write(path, records, kind):
    with tf.io.TFRecordWriter(str(path), kind) as writer:
        for record in records:
            writer.write(record)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "v.subwords").write_text(VOCABULARY)
    (tmp_path / "shards").mkdir()
    return tmp_path / "shards"


def unpack(folder, *flags):
    return main([f"--tfrecords_dir={folder}", f"--output_dir={folder.parent}/new", *flags])


@pytest.mark.parametrize("kind", ["ZLIB", "GZIP", ""])
@pytest.mark.parametrize("key", ["transcript", "indices"])
def test_every_utterance_with_its_sound_and_words(folder, kind, key):
    texts = TEXTS if key == "transcript" else IDS
    records = [
        example(path=b"/old/x.flac", audio=wav_bytes(sound), **{key: text.encode()})
        for sound, text in zip(SOUNDS, texts, strict=True)
    ]
    write(folder / "train_2.tfrecord", records[1:2], kind)
    write(folder / "train_10.tfrecord", records[2:], kind)
    write(folder / "train_1.tfrecord", records[:1], kind)
    write(folder / "eval_1.tfrecord", records[:1], kind)
    write(folder / "eval_2.tfrecord", [], kind)
    assert compression(folder / "train_1.tfrecord") == kind
    assert unpack(folder, f"--vocabulary={folder.parent}/v.subwords") == 0
    new = folder.parent / "new"
    utterances = read_corpus(new, ["train"], progress=False, normalize=str).utterances
    assert [u.transcript for u in utterances] == TEXTS
    for utterance, sound in zip(utterances, SOUNDS, strict=True):
        np.testing.assert_allclose(read(utterance.path), sound, atol=1e-4)
    assert len(read_corpus(new, ["eval"], progress=False).utterances) == 1


def test_sounds_that_cannot_be_read_are_counted(folder, capsys):
    good = example(path=b"a", audio=wav_bytes(SOUNDS[0]), transcript=b"one")
    bad = example(path=b"/old/bad.wav", audio=b"no sound", transcript=b"two")
    write(folder / "train_1.tfrecord", [bad, good], "ZLIB")
    unpack(folder)
    printed = capsys.readouterr().err
    assert len([*(folder.parent / "new" / "train").glob("*.wav")]) == 1
    assert "skipped /old/bad.wav: unreadable" in printed and "1 utterance, 1 skipped" in printed
    with refused("no folder"):
        unpack(folder)


@pytest.mark.parametrize(
    "records, message",
    [
        ([], "utterances in"),
        ([b"no example"], "record 0"),
        ([example(path=b"a", audio=b"b")], "transcript or indices"),
        ([example(path=b"a", audio=b"b", indices=b"1 x")], "record 0"),
        ([example(path=b"a", audio=b"b", indices=b"1 2")], "Add --vocabulary"),
        ([example(path=b"a", audio=b"b", transcript=b"x")], "1 skipped"),
    ],
)
def test_shards_that_hold_no_utterance(folder, records, message):
    write(folder / "train_1.tfrecord", records, "ZLIB")
    with refused(message):
        unpack(folder)
    assert not (folder.parent / "new" / "train").exists()


def test_another_vocabulary(folder):
    record = example(path=b"a", audio=wav_bytes(SOUNDS[0]), indices=b"1 260")
    write(folder / "train_1.tfrecord", [record], "ZLIB")
    with refused("ids below 260"):
        unpack(folder, f"--vocabulary={folder.parent}/v.subwords")


@pytest.mark.parametrize("squeeze", [zlib.compress, gzip.compress, bytes])
def test_damaged_shards(folder, squeeze):
    path = folder / "train_1.tfrecord"
    write(path, [example(path=b"a", audio=wav_bytes(SOUNDS[0]), transcript=b"x")] * 2, "")
    data = bytearray(path.read_bytes())
    data[-500] ^= 255
    path.write_bytes(squeeze(bytes(data)))
    with refused(match=r"a whole shard .*train_1.tfrecord.*after record"):
        unpack(folder)


def test_a_folder_without_shards(folder):
    (folder / "other.txt").touch()
    with refused("STAGE_NUMBER.tfrecord"):
        unpack(folder)
