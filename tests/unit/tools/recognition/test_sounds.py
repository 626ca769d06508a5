"""Which sounds a program is to recognize."""

import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.inference.options import DataOptions
from tools.recognition.sounds import (
    check_options,
    chosen_utterances,
    find_utterances,
    with_standard_input,
)
from tools.speech.audio import AudioError, AudioLimits

LIMITS = AudioLimits()


def sound(path, seconds=0.5):
    path.parent.mkdir(parents=True, exist_ok=True)
    file_format = "OGG" if path.suffix == ".opus" else path.suffix[1:].upper()
    noise = 0.1 * np.random.default_rng(0).normal(size=int(16000 * seconds))
    soundfile.write(path, noise, 16000, format=file_format)
    return path


def check(paths, max_seconds=None, **given):
    check_options(DataOptions(tuple(paths), **given), max_seconds)


@pytest.mark.parametrize(
    ("given", "paths"),
    [
        ({}, ["a.wav"]),
        ({"data_dir": "corpus"}, []),
        ({"batch_size": 3, "warmup_count": 2, "max_seconds": 0.5}, ["a.wav", "b"]),
    ],
)
def test_command_lines_that_can_be_run(given, paths):
    check(paths, **given)


@pytest.mark.parametrize(
    ("given", "paths", "message"),
    [
        ({}, [], "Received: neither"),
        ({"data_dir": "corpus"}, ["a.wav"], "Received: both"),
        ({"batch_size": 0}, ["a.wav"], "--batch_size >= 1"),
        ({"warmup_count": -1}, ["a.wav"], "--warmup_count >= 0"),
        ({"max_seconds": 0.0}, ["a.wav"], "--max_seconds > 0"),
        ({"max_seconds": math.inf}, ["a.wav"], "--max_seconds > 0"),
        ({"max_seconds": math.nan}, ["a.wav"], "--max_seconds > 0"),
        ({}, ["a.wav", ""], "an empty name"),
        ({"channels": "left"}, ["a.wav"], "channels: mix, each, or a number from 1"),
        ({"channels": "0"}, ["a.wav"], "channels: mix, each, or a number from 1"),
        ({"data_dir": "corpus", "channels": "each"}, [], "--channels with files and folders"),
        ({"max_line_width": 0}, ["a.wav"], "--max_line_width"),
        ({"max_line_count": 0}, ["a.wav"], "--max_line_count"),
    ],
)
def test_command_lines_that_cannot_be_run_are_refused(given, paths, message):
    with refused(message):
        check(paths, **given)


def test_files_and_folders_are_listed_in_the_order_given(tmp_path):
    last = sound(tmp_path / "z" / "alone.wav", seconds=0.25)
    folder = tmp_path / "folder"
    for name in ("b.flac", "sub/c.WAV", "a.ogg"):
        sound(folder / name)
    (folder / ".hidden.wav").write_bytes(b"no sound")
    for name in ("notes.txt", "sub/1-2.trans.txt", "transcripts.tsv"):
        (folder / name).write_text("no sound")
    (folder / "like.flac").mkdir()
    found, skipped = find_utterances([str(last), str(folder)], LIMITS)
    assert [u.path for u in found] == [
        str(last), *(str(folder / name) for name in ("a.ogg", "b.flac", "sub/c.WAV")),
    ]  # fmt: skip
    assert [u.utterance_id for u in found] == ["alone", "a", "b", "c"]
    assert [u.num_samples for u in found] == [4000, 8000, 8000, 8000]
    assert {u.transcript for u in found} == {""}
    assert skipped == [(str(folder / "notes.txt"), "not_sound")]


def test_a_folder_leaves_out_what_a_file_is_refused_for(tmp_path):
    sound(tmp_path / "good.flac")
    broken, long = tmp_path / "broken.flac", sound(tmp_path / "long.wav", seconds=3)
    broken.write_bytes(b"no sound")
    limits = AudioLimits(max_seconds=2.0)
    found, skipped = find_utterances([str(tmp_path)], limits)
    assert [u.utterance_id for u in found] == ["good"]
    assert skipped == [(str(broken), "unreadable"), (str(long), "too_long")]
    for path in (broken, long, tmp_path / "absent.wav"):
        with refused(str(path), error=AudioError):
            find_utterances([str(tmp_path / "good.flac"), str(path)], limits)


def test_a_folder_without_sounds_is_refused(tmp_path):
    sound(tmp_path / "other" / ".hidden.wav")
    with refused(f"(.flac, .wav, .ogg, .opus, .mp3 ...) in {tmp_path}. Received: none."):
        find_utterances([str(tmp_path)], LIMITS)
    (tmp_path / "notes.txt").write_text("no sound")
    with refused("none among 1 file"):
        find_utterances([str(tmp_path)], LIMITS)


def test_a_folder_gives_every_kind_that_a_single_file_may_be(tmp_path):
    """By content, through links, once; what else there is is named."""
    folder = tmp_path / "folder"
    names = ("a.flac", "b.aiff", "c.AIF", "d.mp3", "e.opus", "f.wav")
    for name in names:
        path = folder / name
        sound(path.with_suffix(".aiff") if name == "c.AIF" else path)
        if name == "c.AIF":
            path.with_suffix(".aiff").rename(path)
    sound(tmp_path / "elsewhere" / "g.wav").rename(tmp_path / "elsewhere" / "g.recording")
    sound(folder / "h.wav").rename(folder / "without_suffix")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    (folder / "linked.flac").symlink_to(folder / "a.flac")
    (folder / "dangling.flac").symlink_to(tmp_path / "nowhere")
    (folder / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "page.WAV").write_bytes(b"<html>")
    found, skipped = find_utterances([str(folder)], LIMITS)
    assert [u.path for u in found] == [
        str(folder / name) for name in (*names, "link/g.recording", "linked.flac", "without_suffix")
    ]
    for utterance in found:
        assert find_utterances([utterance.path], LIMITS)[0] == [utterance]
    assert sorted(skipped) == [
        (str(folder / "cover.jpg"), "not_sound"),
        (str(folder / "dangling.flac"), "missing"),
        (str(folder / "empty.txt"), "not_sound"),
        (str(folder / "page.WAV"), "unreadable"),
    ]


@pytest.fixture
def corpus(tmp_path, rng):
    """Four utterances, of which one is too long."""
    sounds = [0.1 * rng.normal(size=size) for size in (8000, 9000, 50000, 7000)]
    texts = ["One", "Two", "Three", "Four"]
    write_librispeech(tmp_path / "corpus" / "dev", zip(texts, sounds, strict=True))
    return tmp_path / "corpus"


def test_a_data_set_has_transcripts_and_says_what_it_lacks(corpus):
    limits = AudioLimits(max_seconds=2.0)
    found, skipped = chosen_utterances(DataOptions(data_dir=corpus), limits)
    assert [u.transcript for u in found] == ["ONE", "TWO", "FOUR"]
    ((detail, reason),) = skipped
    assert reason == "too_long" and "0002.flac" in detail
    found, _ = chosen_utterances(DataOptions(data_dir=corpus), limits, str.lower)
    assert [u.transcript for u in found] == ["one", "two", "four"]


def test_a_share_is_spread_over_data_set_and_files_alike(corpus):
    found, _ = chosen_utterances(DataOptions(data_dir=corpus, data_ratio=0.5), LIMITS)
    assert [u.transcript for u in found] == ["ONE", "THREE"]
    found, _ = chosen_utterances(DataOptions((str(corpus),), data_ratio=0.5), LIMITS)
    assert [u.utterance_id[-1] for u in found] == ["0", "2"]


def test_a_folder_of_nothing_but_damage_leaves_nothing_to_choose_from(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no sound")
    found, skipped = chosen_utterances(DataOptions((str(tmp_path),)), LIMITS)
    assert (found, skipped) == ([], [(str(tmp_path / "a.wav"), "unreadable")])


def test_channels_of_a_sound_are_utterances(tmp_path):
    mono = sound(tmp_path / "a.wav")
    stereo = tmp_path / "b.wav"
    soundfile.write(stereo, np.zeros((8000, 2)) + 0.1, 16000)

    def found(channels):
        utterances, _ = find_utterances([str(mono), str(stereo)], LIMITS, channels)
        return [(one.utterance_id, one.channel) for one in utterances]

    assert found("mix") == [("a", None), ("b", None)]
    assert found("each") == [("a", 1), ("b", 1), ("b", 2)]
    assert found("1") == [("a", 1), ("b", 1)]
    with refused(f"a sound with channel 2. Received: {mono}: 1 channel."):
        found("2")
    utterances, skipped = find_utterances([str(tmp_path)], LIMITS, "2")
    assert [one.path for one in utterances] == [str(stereo)]
    assert skipped == [(str(mono), "channel")]


class Standard:
    """Standard input."""

    def __init__(self, content, is_terminal=False):
        self.buffer, self.isatty = io.BytesIO(content), lambda: is_terminal


def test_standard_input_is_a_file_for_as_long_as_it_is_used(tmp_path, monkeypatch):
    content = sound(tmp_path / "a.wav").read_bytes()
    monkeypatch.setattr(sys, "stdin", Standard(content))
    with with_standard_input(["-", "b.wav"]) as (paths, names):
        assert paths[1:] == ("b.wav",) and names == {paths[0]: "-"}
        assert Path(paths[0]).read_bytes() == content
    assert not Path(paths[0]).exists()
    with with_standard_input(["a.wav"]) as (paths, names):
        assert (paths, names) == (("a.wav",), {})
    monkeypatch.setattr(sys, "stdin", Standard(b"no sound"))
    with (
        refused("Received: standard input: not FLAC", error=AudioError),
        with_standard_input(["-"]) as (paths, _),
    ):
        find_utterances(paths, LIMITS)
    with refused("- several times"), with_standard_input(["-", "-"]):
        pass
    monkeypatch.setattr(sys, "stdin", Standard(b"", True))
    with refused("Received: a terminal"), with_standard_input(["-"]):
        pass
    monkeypatch.setattr(sys, "stdin", None)
    with refused("Received: a closed one"), with_standard_input(["-"]):
        pass
