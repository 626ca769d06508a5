"""Joined corpora: every utterance is a string of whole ones of its speaker, with their words."""

import numpy as np
import pytest
import soundfile

from tests.support.errors import refused
from tools.cli.join_corpus import main
from tools.speech.audio import AudioLimits, read
from tools.speech.corpus import read_librispeech

LIMITS = AudioLimits(max_seconds=1.0)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Two speakers of four utterances each, of different lengths and words."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for speaker in (1, 2):
        chapter = root / str(speaker) / "5"
        chapter.mkdir(parents=True)
        lines = []
        for number in range(4):
            name = f"{speaker}-5-{number:04d}"
            waveform = rng.uniform(-0.5, 0.5, 3200 + 800 * number)
            soundfile.write(chapter / f"{name}.flac", waveform, 16000, subtype="PCM_16")
            lines.append(f"{name} S{speaker} WORD{number}\n")
        (chapter / f"{speaker}-5.trans.txt").write_text("".join(lines))
    return root


def join(split, output, *flags):
    arguments = [f"--split_dir={split}", f"--output_dir={output}", "--max_seconds=1"]
    main([*arguments, "--num_utterances=30", *flags])
    return read_librispeech(output, (), LIMITS).utterances


def test_sound_and_words_are_those_of_the_parts(split, tmp_path):
    sources = {u.transcript: read(u.path) for u in read_librispeech(split, ()).utterances}
    joined = join(split, tmp_path / "joined", "--max_parts=4")
    assert len(joined) == 30
    numbers = set()
    for utterance in joined:
        words = utterance.transcript.split()
        parts = [" ".join(pair) for pair in zip(words[::2], words[1::2], strict=True)]
        numbers.add(len(parts))
        assert len({part[:2] for part in parts}) == 1, "one speaker"
        np.testing.assert_array_equal(
            read(utterance.path), np.concatenate([sources[part] for part in parts])
        )
        assert utterance.duration_seconds <= 1.0
    assert {2, 3} < numbers


def test_the_same_seed_gives_the_same_and_a_longer_one_begins_like_it(split, tmp_path):
    first = join(split, tmp_path / "a")
    again = join(split, tmp_path / "b", "--num_utterances=40")
    other = join(split, tmp_path / "c", "--seed=1")
    texts = {u.utterance_id: u.transcript for u in again}
    assert all(texts[u.utterance_id] == u.transcript for u in first)
    assert [u.transcript for u in other] != [u.transcript for u in first]


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--num_utterances=0"], "num_utterances"),
        (["--max_parts=1"], "max_parts"),
        (["--seed=-1"], "seed"),
        (["--max_seconds=nan"], "max_seconds"),
        (["more"], "more"),
        (["--output_dir="], "--output_dir"),
    ],
)
def test_bad_flags_are_one_line(split, tmp_path, flags, named):
    with refused(match=named):
        join(split, tmp_path / "joined", *flags)
    assert list(tmp_path.iterdir()) == []


def test_other_content_is_left_alone(split, tmp_path):
    with refused(match="which exists"):
        join(split, tmp_path)
