"""Tables of utterances: what is read, what is skipped and why, and what stops at once."""

import os
from collections import defaultdict

import numpy as np
import pytest
import soundfile

from tests.support.errors import refused
from tools.speech.corpus import SKIP_REASONS, read_corpus
from tools.speech.tables import table_rows

HEADER = "PATH\tDURATION\tTRANSCRIPT\n"
ROWS = "a/1.wav\t1.0\tsix\nb/2.wav\t0.5\tseven three\n"
WORDS = ["SIX", "SEVEN THREE"]


@pytest.fixture
def table(tmp_path):
    """A table that is not written yet, beside two sound files of half a second."""
    for name in ("a/1.wav", "b/2.wav"):
        path = tmp_path / "split" / name
        path.parent.mkdir(parents=True)
        soundfile.write(path, 0.1 * np.sin(np.arange(8000)), 16000)
    return tmp_path / "split" / "transcripts.tsv"


def read(table, text):
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_corpus(table, progress=False)


@pytest.mark.parametrize(
    "text",
    [
        HEADER + ROWS,
        ROWS,
        "path\tDuration\ttranscript\n" + ROWS + "\n \n",
        "\ufeff" + (HEADER + ROWS).replace("\n", "\r\n"),
        HEADER + ROWS.replace("1.0", "3600.0").replace("0.5", "1e-2"),
    ],
    ids=["plain", "no header", "blank lines", "bom crlf", "wrong durations"],
)
def test_the_same_utterances_however_the_table_is_written(table, text):
    manifest = read(table, text)
    assert [u.transcript for u in manifest.utterances] == WORDS
    assert [u.utterance_id for u in manifest.utterances] == ["1", "2"]
    assert [u.path for u in manifest.utterances] == [
        str(table.parent / name) for name in ("a/1.wav", "b/2.wav")
    ]
    assert [u.num_samples for u in manifest.utterances] == [8000, 8000], "of the sound files"
    assert not manifest.skipped


@pytest.mark.parametrize(
    "row, reason",
    [
        (b"a/1.wav\tsix", "bad_row"),
        (b"a/1.wav", "bad_row"),
        (b"\t\t", "bad_row"),
        (b"a/1.wav\t1.0\tsix\textra", "bad_row"),
        (b"a/1.wav,1.0,six", "bad_row"),
        (b"a/1.wav\tabc\tsix", "bad_duration"),
        (b"a/1.wav\t-3.5\tsix", "bad_duration"),
        (b"a/1.wav\t0\tsix", "bad_duration"),
        (b"a/1.wav\tnan\tsix", "bad_duration"),
        (b"a/1.wav\tinf\tsix", "bad_duration"),
        (b"a/1.wav\t1.0\t", "empty_transcript"),
        (b"a/1.wav\t1.0\tONE\0TWO", "not_text"),
        (b"a/1.wav\t1.0\tONE \xff", "not_text"),
        (b"a/1.wav\t1.0\t" + b"ONE " * 5000, "long_line"),
        (b"a/1.wav\t1.0\t" + b"ONE " * 50, "long_transcript"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(table, row, reason):
    manifest = read(table, HEADER.encode() + row + b"\n" + ROWS.splitlines()[1].encode())
    assert [u.transcript for u in manifest.utterances] == WORDS[1:]
    assert dict(manifest.skipped).keys() == {reason} <= SKIP_REASONS.keys()
    assert manifest.skipped[reason][0].startswith(f"{table}:2: ")


def test_a_sound_that_is_missing_or_no_sound(table):
    (table.parent / "secret").write_text("root:x:0:0")
    manifest = read(table, HEADER + "../split/secret\t1\tA\n/no/such.flac\t1\tB\n" + ROWS)
    assert [u.transcript for u in manifest.utterances] == WORDS
    assert sum(map(len, manifest.skipped.values())) == 2
    named = str(dict(manifest.skipped))
    assert "/no/such.flac" in named and str(table.parent / "secret") in named
    assert "x:0:0" not in named


def test_a_sound_with_two_transcripts_is_not_used(table):
    manifest = read(table, HEADER + "./a/1.wav\t1.0\tONE\n" + ROWS)
    assert [u.transcript for u in manifest.utterances] == WORDS[1:]
    assert len(manifest.skipped["duplicate_id"]) == 2


def test_quotes_are_characters(table):
    manifest = read(table, HEADER + ROWS.replace("six", '"six'))
    assert [u.transcript for u in manifest.utterances] == ['"SIX', "SEVEN THREE"]


def test_ids_differ_if_names_are_the_same(table):
    os.rename(table.parent / "b/2.wav", table.parent / "b/1.wav")
    utterances = read(table, HEADER + ROWS.replace("b/2.wav", "b/1.wav")).utterances
    assert len({u.utterance_id for u in utterances}) == 2


@pytest.mark.parametrize("names", [("a b.wav", "a_b.wav"), ("a b/1.wav", "a_b/1.wav")])
def test_ids_differ_if_names_differ_in_spaces_only(table, names):
    for name in names:
        (table.parent / name).parent.mkdir(exist_ok=True)
        (table.parent / name).write_bytes((table.parent / "a/1.wav").read_bytes())
    utterances = read(table, "".join(f"{name}\t1\tSIX\n" for name in names)).utterances
    ids = {u.utterance_id for u in utterances}
    assert len(ids) == 2 and not any(" " in x for x in ids)


def test_ids_are_those_of_the_same_table_in_another_folder(table, tmp_path, monkeypatch):
    os.rename(table.parent / "b/2.wav", table.parent / "b/1.wav")
    rows = HEADER + ROWS.replace("b/2.wav", "b/1.wav")
    ids = [u.utterance_id for u in read(table, rows).utterances]
    monkeypatch.chdir(tmp_path)
    for name in ("split/transcripts.tsv", "split/../split/transcripts.tsv", "split"):
        assert [u.utterance_id for u in read_corpus(name, progress=False).utterances] == ids
    os.rename("split", "other")
    assert [u.utterance_id for u in read_corpus("other", progress=False).utterances] == ids
    monkeypatch.chdir("other")
    found = read_corpus("transcripts.tsv", progress=False).utterances
    assert [u.utterance_id for u in found] == ids


def test_a_table_can_be_larger_than_a_chapter(table):
    table.write_text(HEADER + ROWS)
    os.truncate(table, (1 << 26) + 1)  # one more line, of zeros
    manifest = read_corpus(table, progress=False)
    assert [u.transcript for u in manifest.utterances] == WORDS
    assert list(manifest.skipped) == ["long_line"]
    os.truncate(table, (1 << 32) + 1)
    with refused(match="no usable utterances .*more than 4096 MiB"):
        read_corpus(table, progress=False)


@pytest.mark.parametrize("text", ["", HEADER, "\ufeff\r\n"])
def test_a_table_without_rows(table, text):
    with refused(f"no utterances found in {table}"):
        read(table, text)


@pytest.mark.parametrize(
    "text",
    [
        "file\tlength\ttext\n" + ROWS,
        (HEADER + ROWS).replace("\t", ","),
        "PATH\tDURATION\tGROUNDTRUTH\tGREEDY\tBEAMSEARCH\n" + ROWS,
        "1-1-0000 SIX\n",
    ],
)
def test_a_file_with_another_header(table, text):
    with refused("PATH<TAB>DURATION<TAB>TRANSCRIPT"):
        read(table, text)


def test_only_unusable_rows(table):
    with refused(match=rf"no usable utterances .*bad_row 1.*first: {table}:2"):
        read(table, HEADER + "a/1.wav\n")


def test_tables_as_splits(table):
    table.write_text(HEADER + ROWS)
    root = table.parent.parent
    other = root / "eval.tsv"
    other.write_text(HEADER + f"{table.parent}/a/1.wav\t1\tONE\nsplit/b/2.wav\t1\tTWO\n")
    for splits, words in (
        (["eval.tsv"], ["ONE", "TWO"]),
        ([str(other)], ["ONE", "TWO"]),
        (["split"], WORDS),
        (["split", "eval.tsv"], [*WORDS, "ONE", "TWO"]),
    ):
        manifest = read_corpus(root, splits, progress=False)
        assert [u.transcript for u in manifest.utterances] == words
        assert not manifest.skipped
    with refused(match=r"the split .*train.tsv.* but eval.tsv, split"):
        read_corpus(root, ["train.tsv"])
    with refused("no folder"):
        read_corpus(other, ["train"])


def test_the_function_that_normalizes(table):
    table.write_text(HEADER + ROWS)
    rows = table_rows(str(table), defaultdict(list), str.title)
    assert [line.transcript for line, _ in rows] == ["Six", "Seven Three"]
    assert [line.place for line, _ in rows] == [f"{table}:2", f"{table}:3"]
