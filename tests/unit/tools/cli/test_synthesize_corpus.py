"""The program that synthesizes a corpus: layout, determinism, refusals; through `main`."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.arguments import joined
from tests.support.errors import refused
from tools.cli.synthesize_corpus import main
from tools.files import to_json
from tools.speech import synthetic_corpus

FLAGS = ["--train_utterances=9", "--dev_utterances=4", "--num_speakers=3", "--max_words=3"]


def make(folder: Path, *flags: str) -> dict[str, bytes]:
    """Runs the program and returns the files it made."""
    assert main(joined([f"--output_dir={folder}", *FLAGS], flags)) == 0
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "below" / "corpus"
    make(folder)
    return folder


def transcripts(folder: Path) -> dict[str, str]:
    lines = [
        line
        for path in sorted(folder.rglob("*.trans.txt"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return dict(line.split(" ", 1) for line in lines)


def test_layout_is_that_of_librispeech(corpus):
    speakers = {}
    for split, size in (("train-clean", 9), ("dev-clean", 4)):
        said = transcripts(corpus / split)
        files = sorted((corpus / split).rglob("*.flac"))
        assert len(files) == size
        assert {path.stem for path in files} == set(said)
        for path in files:
            speaker, chapter, number = path.stem.split("-")
            assert path.parent == corpus / split / speaker / chapter
            assert (path.parent / f"{speaker}-{chapter}.trans.txt").is_file()
            assert number.isdecimal()
            assert len(number) == 4
        for text in said.values():
            assert 1 <= len(text.split()) <= 3
            assert set(text.split()) <= set(synthetic_corpus.WORDS)
        speakers[split] = {utterance_id.split("-")[0] for utterance_id in said}
    assert speakers["train-clean"] == speakers["dev-clean"]
    assert len(speakers["train-clean"]) == 3


def test_sound_is_speech_of_plausible_length(corpus):
    said = {**transcripts(corpus / "train-clean"), **transcripts(corpus / "dev-clean")}
    for path in corpus.rglob("*.flac"):
        waveform, rate_hz = soundfile.read(path, dtype="float32")
        info = soundfile.info(path)
        assert (rate_hz, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert 0.1 < np.abs(waveform).max() <= 1.0
        num_words = len(said[path.stem].split())
        assert 0.2 * num_words < len(waveform) / rate_hz < 1.2 * num_words + 1


def test_no_sound_comes_twice(corpus):
    sounds = [path.read_bytes() for path in corpus.rglob("*.flac")]
    assert len(set(sounds)) == len(sounds) == 13


def test_same_seed_same_files(corpus, tmp_path):
    again = make(tmp_path / "again")
    for name, content in again.items():
        assert (corpus / name).read_bytes() == content
    other = make(tmp_path / "other", "--seed=1")
    assert set(other.values()).isdisjoint(again.values())


def test_longer_corpus_begins_like_a_shorter_one(corpus, tmp_path):
    longer = make(tmp_path / "longer", "--train_utterances=12")
    for path in corpus.rglob("*.flac"):
        assert longer[str(path.relative_to(corpus))] == path.read_bytes()


def test_second_run_ends_at_once(corpus, monkeypatch, capsys):
    def fail(*arguments):
        raise AssertionError("synthesized again")

    monkeypatch.setattr(synthetic_corpus, "write_corpus", fail)
    make(corpus)
    captured = capsys.readouterr()
    assert "already" in captured.err
    assert captured.out == ""


def test_other_content_is_left_alone(corpus, tmp_path):
    with refused(match="other arguments"):
        make(corpus, "--seed=7")
    (tmp_path / "notes.txt").write_text("mine")
    with refused(match="other files"):
        make(tmp_path)
    with refused(match="file"):
        make(tmp_path / "notes.txt")
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_empty_folder_is_filled(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    assert make(folder, "--dev_utterances=0", "--train_utterances=1")
    assert os.listdir(tmp_path) == ["empty"]


def test_splits_have_the_names_that_were_asked_for(corpus, tmp_path):
    files = make(tmp_path / "mine", "--splits=train,dev")
    renamed = {
        str(path.relative_to(corpus)).replace("-clean/", "/"): path.read_bytes()
        for path in corpus.rglob("*")
        if path.is_file()
    }
    assert files.keys() == renamed.keys()
    assert [name for name in files if files[name] != renamed[name]] == ["corpus.json"]
    assert make(tmp_path / "mine", "--splits=train,dev") == files
    with refused(match="other arguments"):
        make(tmp_path / "mine")


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(path, waveform, rate_hz):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthetic_corpus, "write_flac", full_disk)
    with refused(match="No space left"):
        make(tmp_path / "corpus")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--num_speakers=0"], "num_speakers"),
        (["--max_words=0"], "max_words"),
        (["--seed=-1"], "seed"),
        (["--train_utterances=-1"], "train_utterances"),
        (["--train_utterances=0", "--dev_utterances=0"], "utterances"),
        (["--splits=train"], "two names of folders as --splits"),
        (["--splits=dev,dev"], "dev,dev"),
        (["--splits=train,../dev"], "../dev"),
        (["--splits=train,dev,test"], "train,dev,test"),
        (["more"], "more"),
        (["--output_dir="], "output_dir"),
    ],
)
def test_bad_flags(flags, named, tmp_path):
    with refused(match=named):
        make(tmp_path / "corpus", *flags)
    assert os.listdir(tmp_path) == []


def test_every_voice_exists():
    speakers = synthetic_corpus.draw_speakers(500, seed=3)
    voices = [speaker.voice for speaker in speakers]
    num_voices = len(set(synthetic_corpus.ACCENTS)) * len(set(synthetic_corpus.VARIANTS))
    assert len(set(voices)) == len(set(voices[:num_voices])) == num_voices
    for speaker in speakers[:num_voices:7]:
        assert synthetic_corpus.synthesize("one", voice=speaker.voice).size


def test_levels_and_pauses_are_those_that_are_promised(monkeypatch):
    asked, length = [], 8000
    tone = 0.3 * np.sin(np.arange(length)).astype(np.float32)

    def synthesize(text, **settings):
        asked.append((text, settings))
        return tone

    monkeypatch.setattr(synthetic_corpus, "synthesize", synthesize)
    speaker = synthetic_corpus.Speaker(1, "en-us+m1", 50, 150)
    peaks, floors, pauses = [], [], []
    for seed in range(60):
        found = synthetic_corpus.say(["ONE", "TWO"], speaker, np.random.default_rng(seed))
        assert found.dtype == np.float32
        peaks.append(20 * np.log10(np.abs(found).max()))
        # 50 ms of the floor alone precede and follow.
        floors.append(20 * np.log10(np.r_[found[:800], found[-800:]].std()) - peaks[-1])
        pauses.append(len(found) - length)
    assert -16.5 < min(peaks) < -12 and -4 < max(peaks) <= 0
    assert -62 < min(floors) < -54 and -41 < max(floors) < -34
    assert min(pauses) >= 2 * 800 and max(pauses) < 2 * 6400
    assert {text for text, _ in asked} == {"one two", "one, two"}
    pitches, rates = (
        {settings[name] for _, settings in asked} for name in ("pitch", "rate_words_per_minute")
    )
    assert 45 <= min(pitches) < max(pitches) <= 55
    assert 135 <= min(rates) < max(rates) <= 165


def test_utterances_have_one_word_to_the_most(tmp_path, monkeypatch):
    said = []

    def say(words, speaker, rng):
        said.append((speaker.speaker_id, len(words)))
        return np.zeros(1600, np.float32)

    monkeypatch.setattr(synthetic_corpus, "say", say)
    arguments = synthetic_corpus.Arguments(60, 10, 3, 4, seed=0)
    assert synthetic_corpus.write_corpus(tmp_path, arguments) == pytest.approx(7.0)
    assert {length for _, length in said} == {1, 2, 3, 4}
    assert [speaker for speaker, _ in said[:4]] == [1001, 1002, 1003, 1001]


def test_the_corpus_of_the_cache_is_made_once(tmp_path, monkeypatch):
    made = []

    def write(folder, arguments):
        made.append(arguments)
        time.sleep(0.2)  # the others come meanwhile
        (folder / "corpus.json").write_text(to_json(arguments.record))

    monkeypatch.setattr(synthetic_corpus, "write_corpus", write)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(synthetic_corpus.cached_corpus, [tmp_path / "cache"] * 4))
    assert len(made) == 1 and len(set(folders)) == 1
    assert (folders[0] / "corpus.json").is_file()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folders[0].name]


def test_words_and_sentences_of_files_are_said(tmp_path):
    names, sentences = tmp_path / "names.txt", tmp_path / "sentences.txt"
    names.write_text("Anna Maria\n\nO'Brien\n", encoding="utf-8")
    sentences.write_text("play the song\nstop\n", encoding="utf-8")
    make(tmp_path / "a", f"--words={names}", "--max_words=2")
    make(tmp_path / "a", f"--words={names}", "--max_words=2")  # made already
    said = {
        **transcripts(tmp_path / "a" / "train-clean"),
        **transcripts(tmp_path / "a" / "dev-clean"),
    }
    assert set(said.values()) <= {
        " ".join(pair)
        for known in [("ANNA MARIA", "O'BRIEN")]
        for pair in [*((x,) for x in known), *((x, y) for x in known for y in known)]
    }
    assert {"ANNA MARIA", "O'BRIEN"} & set(said.values())
    make(tmp_path / "b", f"--sentences={sentences}")
    assert set(transcripts(tmp_path / "b" / "train-clean").values()) == {"PLAY THE SONG", "STOP"}
    with refused("made with other arguments"):
        main([f"--output_dir={tmp_path / 'b'}", *FLAGS])


@pytest.mark.parametrize("name", ["words", "sentences"])
def test_files_without_words_are_refused(tmp_path, name):
    path, flags = tmp_path / "a.txt", [f"--output_dir={tmp_path / 'c'}", *FLAGS]
    with refused(f"a text file for --{name}"):
        main([*flags, f"--{name}={path}"])
    for content, message in (("\n \n", "Received: none"), ("ANNA\n...\n", "letters or digits")):
        path.write_text(content)
        with refused(message):
            main([*flags, f"--{name}={path}"])
    with refused("--words or --sentences. Received: both"):
        main([*flags, f"--words={path}", f"--sentences={path}"])
