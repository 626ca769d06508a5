"""LibriSpeech-layout trees: what is read, what is left out and why, and what stops at once."""

import logging
import os

import numpy as np
import pytest
import soundfile

from tests.support.errors import refused
from tools.speech import audio, corpus

WORDS = "SEVEN THREE"


def tone(path, seconds=1.0, rate_hz=16000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.3 * np.sin(np.arange(int(seconds * rate_hz)) * 0.1)
    soundfile.write(path, samples, rate_hz, **options)


@pytest.fixture
def chapter(tmp_path):
    """A chapter with three sound files and no transcript yet."""
    folder = tmp_path / "corpus" / "dev-clean" / "9001" / "1"
    for number in range(3):
        tone(folder / f"9001-1-{number:04d}.flac")
    return folder


def write(chapter, text):
    data = text if isinstance(text, bytes) else text.encode()
    (chapter / "9001-1.trans.txt").write_bytes(data)


def read(chapter, **options):
    return corpus.read_corpus(chapter, progress=False, **options)


def transcripts(manifest):
    return {utterance.utterance_id[-4:]: utterance.transcript for utterance in manifest.utterances}


def counts(manifest):
    return {reason: len(details) for reason, details in manifest.skipped.items()}


GOOD = "9001-1-0000 SIX\n9001-1-0001 SEVEN THREE\n9001-1-0002 SEVEN ONE\n"
GOOD_TRANSCRIPTS = {"0000": "SIX", "0001": "SEVEN THREE", "0002": "SEVEN ONE"}


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.rstrip("\n"),
        "\ufeff" + GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        GOOD.lower(),
        GOOD.replace(" ", "\t"),
        "\n\n   \n" + GOOD.replace(" ", "   ").replace("\n", "  \n\n"),
        "".join(reversed(GOOD.splitlines(keepends=True))),
    ],
    ids=["plain", "no newline", "bom crlf", "cr", "lower case", "tabs", "blanks", "reversed"],
)
def test_the_same_utterances_however_the_lines_are_written(chapter, text):
    write(chapter, text)
    manifest = read(chapter)
    assert transcripts(manifest) == GOOD_TRANSCRIPTS
    assert not manifest.skipped
    assert manifest.summary() == "3 utterances (3.0 s)"


def test_utterance(chapter):
    write(chapter, GOOD)
    utterance = min(read(chapter).utterances, key=lambda utterance: utterance.utterance_id)
    assert utterance == corpus.Utterance(
        "9001-1-0000", str(chapter / "9001-1-0000.flac"), 16000, 1.0, "SIX", "graph_flac"
    )


@pytest.mark.parametrize(
    "line, reason",
    [
        (b"9001-1-0000", "empty_transcript"),
        (b"9001-1-0000   \t ", "empty_transcript"),
        (b"9001-1-0007 SIX", "missing_audio"),
        (b"9001-1-0000 CAF\xe9", "not_text"),
        (b"9001-1-0000 SI\0X", "not_text"),
        (b"9001-1-0000 SI\x1bX", "not_text"),
        (b"9002-9-0000 SIX", "bad_id"),
        (b"9001-10000 SIX", "bad_id"),
        (b"SIX", "bad_id"),
        (b"../../../../../../etc/passwd SIX", "bad_id"),
        (b"9001-1-/../../secret SIX", "bad_id"),
        (b"9001-1-..\\secret SIX", "bad_id"),
        (b"9001-1-0000 " + b"ONE " * 100_000, "long_line"),
        (b"9001-1-0000 " + b"ONE " * 12 + b"SIX", "long_transcript"),  # 51 characters in a second
    ],
)
def test_a_line_that_cannot_be_used(chapter, line, reason):
    write(chapter, line + b"\n9001-1-0001 SEVEN THREE\n9001-1-0002 SEVEN ONE")
    manifest = read(chapter)
    assert transcripts(manifest) == {"0001": "SEVEN THREE", "0002": "SEVEN ONE"}
    assert counts(manifest)[reason] == 1
    assert set(counts(manifest)) <= {reason, "untranscribed_audio"}
    assert manifest.skipped[reason][0].startswith(str(chapter / "9001-1.trans.txt:1"))
    assert set(manifest.skipped) <= set(corpus.SKIP_REASONS)
    assert f"{reason} 1" in manifest.summary()


def test_as_many_characters_as_can_be_said_are_taken(chapter):
    write(chapter, "9001-1-0000 " + "ONE " * 12 + "SI\n9001-1-0001 A\n9001-1-0002 B")
    assert len(transcripts(read(chapter))["0000"]) == corpus.MAX_CHARACTERS_PER_SECOND == 50


def test_duplicates_are_all_dropped(chapter):
    write(chapter, "9001-1-0000 SIX\n9001-1-0000 FIVE\n9001-1-0001 ONE\n9001-1-0002 TWO")
    manifest = read(chapter)
    assert transcripts(manifest) == {"0001": "ONE", "0002": "TWO"}
    places = [detail.split(": ")[0][-2:] for detail in manifest.skipped["duplicate_id"]]
    assert places == [":1", ":2"]


def test_sound_without_transcript(chapter):
    write(chapter, "9001-1-0001 ONE")
    manifest = read(chapter)
    assert transcripts(manifest) == {"0001": "ONE"}
    assert [os.path.basename(path) for path in manifest.skipped["untranscribed_audio"]] == [
        "9001-1-0000.flac",
        "9001-1-0002.flac",
    ]
    assert manifest.num_skipped == 2


def test_sound_that_cannot_be_used(chapter):
    write(chapter, GOOD)
    (chapter / "9001-1-0000.flac").write_bytes(b"no sound")
    (chapter / "9001-1-0001.flac").unlink()
    (chapter / "9001-1-0001.flac").symlink_to("nowhere.flac")
    (chapter / ".hidden.flac").write_bytes(b"no sound")
    (chapter / "folder.flac").mkdir()
    manifest = read(chapter)
    assert transcripts(manifest) == {"0002": "SEVEN ONE"}
    assert counts(manifest) == {"unreadable": 1, "missing": 1}
    os.mkfifo(chapter / "9001-1-0003.flac")
    write(chapter, GOOD + "9001-1-0003 SIX\n9001-1-0004 SIX")
    (chapter / "9001-1-0004.flac").mkdir()
    assert counts(read(chapter)) == {
        "unreadable": 1,
        "missing": 1,
        "not_a_file": 1,
        "missing_audio": 1,
    }


def test_every_container_and_case(tmp_path):
    write(
        tmp_path,
        "".join(f"9001-1-{number:04d} {WORDS}\n" for number in range(8)),
    )
    tone(tmp_path / "9001-1-0000.FLAC", format="FLAC")
    tone(tmp_path / "9001-1-0001.Wav", format="WAV", rate_hz=44100)
    tone(tmp_path / "9001-1-0002.ogg")
    tone(tmp_path / "9001-1-0003.mp3", format="MP3")
    tone(tmp_path / "9001-1-0004.opus", format="OGG", subtype="OPUS")
    tone(tmp_path / "9001-1-0005.wav", seconds=2)
    tone(tmp_path / "9001-1-0005.flac")
    tone(tmp_path / "9001-1-0006.aiff")
    tone(tmp_path / "9001-1-0007.AIF", format="AIFF")
    manifest = read(tmp_path)
    assert [utterance.num_samples for utterance in manifest.utterances] == [16000] * 8
    assert manifest.utterances[5].path.endswith(".flac")
    assert not manifest.skipped


def test_transcript_files_that_cannot_be_read(chapter):
    write(chapter, GOOD)
    os.mkfifo(chapter / "9001-2.trans.txt")
    (chapter / "9001-3.trans.txt").symlink_to("nowhere")
    (chapter / "9001-4.trans.txt").write_bytes(GOOD.encode("utf-16"))
    manifest = read(chapter)
    assert transcripts(manifest) == GOOD_TRANSCRIPTS
    assert counts(manifest) == {"unreadable_transcript": 2, "not_text": 1}
    os.truncate(chapter / "9001-1.trans.txt", (1 << 26) + 1)
    with refused(match="no usable utterances .*more than 64 MiB"):
        read(chapter)


def test_the_table_of_a_folder_is_directly_in_it(chapter, tmp_path):
    table = chapter / "transcripts.tsv"
    table.write_text("9001-1-0000.flac\t1\tSIX\n")
    assert corpus.has_transcripts(table) and corpus.has_transcripts(chapter)
    assert len(corpus.read_corpus(chapter).utterances) == 1
    assert not corpus.has_transcripts(tmp_path)
    write(chapter, GOOD)
    assert corpus.has_transcripts(tmp_path)
    link = tmp_path / "links" / "9001"
    link.parent.mkdir()
    link.symlink_to(chapter.parent)
    assert corpus.has_transcripts(link.parent)


def test_a_split_whose_table_is_missing_is_read_from_its_folder(chapter, tmp_path, caplog):
    """A config of TensorFlowASR names tables that LibriSpeech does not contain."""
    root, split = tmp_path / "corpus", tmp_path / "corpus" / "dev-clean"
    write(chapter, GOOD)
    chapter.rename(tmp_path / "elsewhere")
    chapter.symlink_to(tmp_path / "elsewhere")
    with caplog.at_level(logging.INFO):
        for name in ("dev-clean/transcripts.tsv", str(split / "transcripts.tsv")):
            assert transcripts(corpus.read_corpus(root, [name])) == GOOD_TRANSCRIPTS
    assert f"no table {split / 'transcripts.tsv'}: reading" in caplog.text
    for other in ("transcripts.tsv", "dev-clean/other.tsv", "nowhere/transcripts.tsv"):
        with refused(other):
            corpus.read_corpus(root, [other])
    (split / "transcripts.tsv").write_text("9001/1/9001-1-0000.flac\t1\tFIVE\n")
    found = corpus.read_corpus(root, ["dev-clean/transcripts.tsv"]).utterances
    assert [x.transcript for x in found] == ["FIVE"]


def test_splits_in_their_order(tmp_path):
    for split in ("train-clean", "dev-clean", "test-clean"):
        for speaker in ("12", "11"):
            folder = tmp_path / split / speaker / "1"
            tone(folder / f"{speaker}-1-0000.flac")
            (folder / f"{speaker}-1.trans.txt").write_text(f"{speaker}-1-0000 ONE")
    manifest = corpus.read_corpus(tmp_path, ["train-clean", "dev-clean", "train-clean"])
    assert [utterance.path[len(str(tmp_path)) + 1 :][:8] for utterance in manifest.utterances] == [
        "train-cl",
        "train-cl",
        "dev-clea",
        "dev-clea",
    ]
    assert [utterance.utterance_id[:2] for utterance in manifest.utterances] == ["11", "12"] * 2
    assert len(corpus.read_corpus(tmp_path).utterances) == 6
    assert len(corpus.read_corpus(tmp_path / "dev-clean").utterances) == 2


def test_links_are_followed_but_not_in_circles(chapter, tmp_path):
    write(chapter, GOOD)
    (chapter / "up").symlink_to(tmp_path / "corpus")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "train").symlink_to(tmp_path / "corpus" / "dev-clean")
    assert len(corpus.read_corpus(tmp_path / "linked", ["train"]).utterances) == 3


def test_a_link_to_a_folder_above_brings_in_nothing(chapter, tmp_path):
    """Neither by its name nor from where another link leads: a split keeps its own sounds."""
    write(chapter, GOOD)
    other = tmp_path / "corpus" / "test-clean" / "8" / "1"
    tone(other / "8-1-0000.flac")
    (other / "8-1.trans.txt").write_text("8-1-0000 ONE\n")
    (chapter / "up").symlink_to(tmp_path / "corpus")
    splits = corpus.read_corpus(tmp_path / "corpus", ["dev-clean"]).utterances
    assert {utterance.utterance_id for utterance in splits} == {
        f"9001-1-000{number}" for number in range(3)
    }
    (tmp_path / "linked").symlink_to(tmp_path / "corpus" / "dev-clean")
    assert len(corpus.read_corpus(tmp_path / "linked").utterances) == 3


def test_folders_that_cannot_be_listed_are_left_out(chapter, monkeypatch):
    write(chapter, GOOD)
    secret, scandir = chapter / "secret", os.scandir
    secret.mkdir()

    def refuse(path):
        if str(path) == str(secret):
            raise PermissionError(13, "Permission denied", str(secret))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may list every folder
    manifest = read(chapter)
    assert transcripts(manifest) == GOOD_TRANSCRIPTS
    assert dict(manifest.skipped) == {"unreadable_folder": [f"{secret}: Permission denied"]}


def test_a_summary_counts_minutes_and_reasons():
    one = corpus.Utterance("a", "a.flac", 16000 * 45, 45.0, "A", "python")
    manifest = corpus.Manifest([one])
    assert manifest.summary() == "1 utterance (45.0 s)"
    manifest = corpus.Manifest([one, one])
    manifest.skipped["too_long"].append("b.flac")
    manifest.skipped["missing_audio"] += ["c:1: c", "d:1: d"]
    assert manifest.summary() == "2 utterances (1.5 min); skipped 3: missing_audio 2, too_long 1"
    assert manifest.num_skipped == 3


def test_limits_and_normalization_of_the_caller(chapter):
    write(chapter, GOOD)
    tone(chapter / "9001-1-0002.flac", seconds=3)
    manifest = read(chapter, limits=audio.AudioLimits(max_seconds=2.0), normalize=str.title)
    assert transcripts(manifest) == {"0000": "Six", "0001": "Seven Three"}
    assert counts(manifest) == {"too_long": 1}


@pytest.mark.parametrize("splits", [[], ["dev-clean"]])
@pytest.mark.parametrize("text", [None, "", "\n \n"])
def test_nothing_found(tmp_path, splits, text):
    folder = tmp_path / "dev-clean" / "9001" / "1"
    tone(folder / "9001-1-0000.flac")
    if text is not None:
        (folder / "9001-1.trans.txt").write_text(text)
    with refused("no utterances found in ") as caught:
        corpus.read_corpus(tmp_path, splits)
    assert str(tmp_path) in str(caught.value)


def test_nothing_usable(chapter):
    write(chapter, "9001-1-0000\n9001-1-0007 SIX")
    with refused("no usable utterances") as caught:
        read(chapter)
    message = str(caught.value)
    assert "missing_audio 1" in message and "9001-1.trans.txt:1" in message


def test_folders_that_are_not_there(chapter, tmp_path):
    write(chapter, GOOD)
    with refused("nowhere"):
        corpus.read_corpus(tmp_path / "nowhere", ["dev-clean"])
    (tmp_path / "corpus" / "SPEAKERS.TXT").write_text("no table\n")
    with refused(match=r"the split .*train-clean.* but dev-clean\. .*--set data.train_splits="):
        corpus.read_corpus(tmp_path / "corpus", ["train-clean"])
    with refused("but SPEAKERS.TXT."):  # folders without splits may contain tables only
        tables = tmp_path / "tables"
        tables.mkdir()
        (tables / "SPEAKERS.TXT").write_text("no table\n")
        corpus.read_corpus(tables, ["train-clean"])
    with refused("no folder"):
        corpus.read_corpus(chapter / "9001-1-0000.flac")


def test_real_corpora(shared_data):
    manifest = corpus.read_corpus(shared_data / "fsdd_librispeech", ["train-clean", "dev-clean"])
    assert manifest.summary() == "1050 utterances (45.5 min)"
    assert {utterance.decoder for utterance in manifest.utterances} == {"graph_flac"}
    assert corpus.read_corpus(shared_data / "librispeech_samples").num_skipped == 0


def test_a_corpus_of_many_files_is_read_whole_and_in_order(tmp_path):
    """Files are probed some dozens at once, and one of the later ones is damaged."""
    folder, names = tmp_path / "1" / "1", [f"1-1-{number:04d}" for number in range(77)]
    tone(folder / "first.flac", seconds=0.2)
    for number, name in enumerate(names):
        (folder / f"{name}.flac").write_bytes((folder / "first.flac").read_bytes())
        if number == 70:
            (folder / f"{name}.flac").write_bytes(b"fLaC")
    (folder / "first.flac").unlink()
    lines = "".join(f"{name} SAY {number}\n" for number, name in enumerate(names))
    (folder / "1-1.trans.txt").write_text(lines)
    manifest = corpus.read_corpus(tmp_path, progress=False)
    kept = [name for name in names if name != "1-1-0070"]
    assert [utterance.utterance_id for utterance in manifest.utterances] == kept
    texts = [f"SAY {int(name[-4:])}" for name in kept]
    assert [utterance.transcript for utterance in manifest.utterances] == texts
    assert counts(manifest) == {"unreadable": 1}


@pytest.mark.parametrize(
    ("seconds", "told"), [(59.9, "59.9 s"), (60.0, "1.0 min"), (60.1, "1.0 min")]
)
def test_a_minute_is_told_as_one(seconds, told):
    one = corpus.Utterance("a", "a.flac", round(16000 * seconds), seconds, "A", "python")
    assert corpus.Manifest([one]).summary() == f"1 utterance ({told})"
