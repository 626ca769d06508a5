"""Errors of word times on a split whose words are known, and delays that are stored."""

import json

import numpy as np
import pytest

from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.cli import measure_word_times
from tools.cli.measure_word_times import main, matched, store
from tools.decoding.timestamps import Word
from tools.recognition.decoders import Transcription
from tools.speech.part_times import Part, times_lines, write_times


def words(*rows):
    return [Word(text, start, start + 0.1) for text, start in rows]


def test_parts_count_where_their_first_and_last_words_are_recognized():
    parts = [Part(0, 1, "A B"), Part(2, 3, "C"), Part(4, 5, "D E F"), Part(6, 7, "G")]
    heard = words(("A", 0.1), ("B", 0.5), ("X", 2.0), ("D", 4.2), ("F", 4.8), ("G", 6.3))
    found = [(part.transcript, a.text, b.text) for part, a, b in matched(parts, heard)]
    assert found == [("A B", "A", "B"), ("D E F", "D", "F"), ("G", "G", "G")]
    assert list(matched(parts, [])) == []


class Late:
    """A session that hears every word late by its delay, and ends early."""

    pipeline = {"family": "conformer"}  # noqa: RUF012 - a stand-in

    def __init__(self, times, delay):
        self.times, self.delay = times, delay

    def transcribe(self, paths, timestamps):
        assert timestamps
        return [
            Transcription(
                "",
                tuple(
                    Word(x.transcript, x.start_seconds + self.delay, x.end_seconds - 0.2)
                    for x in self.times[path.rsplit("/", 1)[1].removesuffix(".flac")]
                ),
            )
            for path in paths
        ]

    def close(self):
        pass


@pytest.fixture
def split(tmp_path):
    """Two utterances of two parts."""
    write_librispeech(tmp_path / "split", [("A B", np.ones(9600)), ("C D", np.ones(9600))])
    names = sorted(path.stem for path in (tmp_path / "split").rglob("*.flac"))
    times = {
        name: [Part(0.1, 0.3, said[0]), Part(0.4, 0.6, said[1])]
        for name, said in zip(names, (("A", "B"), ("C", "D")), strict=True)
    }
    lines = "".join(times_lines(name, parts) for name, parts in times.items())
    write_times(tmp_path / "split", lines)
    return tmp_path / "split", times


@pytest.fixture
def model(tmp_path):
    (tmp_path / "model" / "assets").mkdir(parents=True)
    (tmp_path / "model" / "saved_model.pb").touch()
    described = {"family": "conformer", "sample_rate_hz": 16000}
    (tmp_path / "model" / "assets" / "pipeline.json").write_text(json.dumps(described))
    return tmp_path / "model"


def test_the_delay_is_measured_and_stored(split, model, monkeypatch, capsys):
    folder, times = split
    monkeypatch.setattr(measure_word_times, "open_session", lambda *_: Late(times, 0.12))
    flags = [f"--native_savedmodel_dir={model}", f"--split_dir={folder}"]
    assert main(flags) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["start"]["num_parts"] == figures["start"]["num_recognized"] == 4
    assert figures["start"]["median_ms"] == pytest.approx(120)
    assert figures["start"]["within_100_ms"] == 0
    assert figures["end"]["median_ms"] == pytest.approx(-200)
    path = model / "assets" / "pipeline.json"
    assert "word_delay_seconds" not in json.loads(path.read_text())
    main([*flags, "--store"])
    described = json.loads(path.read_text())
    assert described["word_delay_seconds"] == {"start": 0.12, "end": -0.2}
    assert described["sample_rate_hz"] == 16000
    store(str(model), -0.02, 0.05)  # what is left is added
    assert json.loads(path.read_text())["word_delay_seconds"] == {"start": 0.1, "end": -0.15}


def test_bad_arguments_are_one_line(split, model, monkeypatch):
    with refused("--native_savedmodel_dir DIR --split_dir DIR"):
        main([])
    with refused("a table of parts in"):
        main([f"--native_savedmodel_dir={model}", f"--split_dir={model}"])
    monkeypatch.setattr(measure_word_times, "open_session", lambda *_: Late({}, 0.0))
    silent = Late({name: [] for name in split[1]}, 0.0)
    monkeypatch.setattr(measure_word_times, "open_session", lambda *_: silent)
    with refused("parts whose words are recognized"):
        main([f"--native_savedmodel_dir={model}", f"--split_dir={split[0]}"])
