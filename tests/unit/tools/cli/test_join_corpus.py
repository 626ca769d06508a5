"""Joined corpora: every utterance is a string of whole ones of its speaker, with their words."""

from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.arguments import joined
from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.cli.join_corpus import Joining, draw, main
from tools.speech.audio import AudioLimits, read
from tools.speech.corpus import read_corpus
from tools.speech.part_times import read_times, speech_range

LIMITS = AudioLimits(max_seconds=1.0)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Two speakers of four utterances each, of different lengths and words."""
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for speaker in (1, 2):
        utterances = [
            (f"S{speaker} WORD{number}", rng.uniform(-0.5, 0.5, 3200 + 800 * number))
            for number in range(4)
        ]
        write_librispeech(root, utterances, speaker=speaker, chapter=5)
    return root


def join(split, output, *flags):
    arguments = [f"--split_dir={split}", f"--output_dir={output}", "--max_seconds=1"]
    main(joined([*arguments, "--num_utterances=30"], flags))
    return read_corpus(output, (), LIMITS).utterances


def test_sound_and_words_are_those_of_the_parts(split, tmp_path):
    sources = {u.transcript: read(u.path) for u in read_corpus(split, ()).utterances}
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
        (["--repeat_share=1.1"], "repeat_share"),
        (["--max_words=0"], "max_words"),
        (["--max_gap_seconds=-0.1"], "max_gap_seconds"),
        (["--max_gap_seconds=1.1"], "max_gap_seconds"),
        (["more"], "more"),
        (["--output_dir="], "--output_dir"),
    ],
)
def test_bad_flags_are_one_line(split, tmp_path, flags, named):
    with refused(match=named):
        join(split, tmp_path / "joined", *flags)
    assert list(tmp_path.iterdir()) == []


def test_a_table_without_speakers_is_refused(tmp_path):
    for name in ("a", "b"):
        write_librispeech(tmp_path / name, [("A", np.full(1600, 0.1))], speaker=1, chapter=1)
    sounds = [f"{name}/1/1/1-1-0000.flac" for name in ("a", "b")]
    table = tmp_path / "t.tsv"
    table.write_text("".join(f"{sound}\t1\tA\n" for sound in sounds))
    before = sorted(tmp_path.rglob("*"))
    with refused("laid out like LibriSpeech"):
        join(table, tmp_path / "joined")
    assert sorted(tmp_path.rglob("*")) == before
    table.write_text(f"{sounds[0]}\t1\tA\n")
    assert {u.utterance_id[:4] for u in join(table, tmp_path / "joined")} == {"1-0-"}


def test_other_content_is_left_alone(split, tmp_path):
    with refused(match="which exists"):
        join(split, tmp_path)


def drawn(seconds, max_seconds, max_parts, count):
    utterances = [SimpleNamespace(duration_seconds=x) for x in seconds]
    rng = np.random.default_rng(0)
    joining = Joining(max_parts=max_parts, max_seconds=max_seconds)
    rows = [draw(utterances, joining, rng)[0] for _ in range(count)]
    return [[part.duration_seconds for part in row] for row in rows]


def test_the_number_of_parts_is_drawn_evenly():
    sizes = [len(row) for row in drawn([0.1, 0.2, 0.3], 100.0, 5, 800)]
    shares = np.bincount(sizes, minlength=6) / len(sizes)
    assert shares.tolist() == [0, 0, *(pytest.approx(0.25, abs=0.06) for _ in range(4))]


def test_parts_end_where_the_next_would_be_too_long():
    rows = drawn([1.0, 2.0, 4.0], 5.0, 4, 200)
    assert max(map(sum, rows)) == 5.0
    assert {len(row) for row in rows} == {1, 2, 3, 4}  # 4 + 4 is cut to one, 1 + 1 + 1 + 1 not
    # One that is too long by itself stays alone.
    assert drawn([9.0], 5.0, 4, 3) == [[9.0]] * 3


def test_a_share_repeats_its_words_with_the_recordings_there_are(split):
    """Two recordings of each of two texts: all parts of a repeated one have its text."""
    rng = np.random.default_rng(3)
    utterances = [
        SimpleNamespace(duration_seconds=0.1, transcript=text, path=number)
        for number, text in enumerate(["ONE", "TWO", "ONE", "TWO"])
    ]
    rows = [draw(utterances, Joining(6, 10.0, repeat_share=0.5), rng)[0] for _ in range(400)]
    alike = [row for row in rows if len({x.transcript for x in row}) == 1]
    by_chance = sum(2.0 ** -(n - 1) for n in range(2, 7)) / 5
    assert len(alike) / 400 == pytest.approx(0.5 + 0.5 * by_chance, abs=0.08)
    assert {x.path for row in alike for x in row} == {0, 1, 2, 3}
    assert sum(len({x.path for x in row}) == 2 for row in alike) > 50


def test_gaps_are_silence_between_the_parts(split, tmp_path):
    sources = {u.transcript: read(u.path) for u in read_corpus(split, ()).utterances}
    gaps = []
    joined = join(split, tmp_path / "joined", "--max_gap_seconds=0.2", "--max_parts=5")
    assert len(joined) == 30, "none is longer than a second"
    for utterance in joined:
        words, sound = utterance.transcript.split(), read(utterance.path)
        parts = [sources[" ".join(pair)] for pair in zip(words[::2], words[1::2], strict=True)]
        np.testing.assert_array_equal(sound[: len(parts[0])], parts[0])
        position = len(parts[0])
        for part in parts[1:]:
            gap = int(np.argmax(sound[position:] != 0))
            gaps.append(gap / 16000)
            np.testing.assert_array_equal(sound[position + gap :][: len(part)], part)
            position += gap + len(part)
        assert position == len(sound)
    assert 0 <= min(gaps) < 0.05 < 0.15 < max(gaps) <= 0.2


def test_long_utterances_can_be_left_out(tmp_path):
    utterances = [("A", np.full(1600, 0.1)), ("A B C", np.full(1600, 0.2))]
    write_librispeech(tmp_path / "split", utterances)
    for words, found in ((1, {"A"}), (3, {"A", "B", "C"})):
        joined = join(tmp_path / "split", tmp_path / f"joined{words}", f"--max_words={words}")
        assert {word for u in joined for word in u.transcript.split()} == found
    write_librispeech(tmp_path / "other", utterances[1:])
    with refused(match="utterances of at most 2 words"):
        join(tmp_path / "other", tmp_path / "none", "--max_words=2")


def test_speakers_are_drawn_by_their_share(tmp_path):
    for speaker, count in ((1, 1), (2, 9)):
        utterances = [("A", np.full(1600, 0.1))] * count
        write_librispeech(tmp_path / "split", utterances, speaker=speaker)
    joined = join(tmp_path / "split", tmp_path / "joined", "--num_utterances=60")
    speakers = [utterance.utterance_id.split("-")[0] for utterance in joined]
    assert 0 < speakers.count("1") <= 15


def test_times_are_those_of_the_trimmed_parts(tmp_path):
    rng = np.random.default_rng(5)
    utterances, silences = [], {}
    for number in range(4):
        quiet = 1e-3 * rng.normal(size=(160 * (3 + 7 * number), 1)).ravel()
        loud = 0.3 * rng.normal(size=160 * (20 + number)).clip(-3, 3)
        silences[f"W{number}"] = (len(quiet), len(loud))
        utterances.append((f"W{number}", np.concatenate([quiet, loud, quiet])))
    write_librispeech(tmp_path / "split", utterances, speaker=1, chapter=5)
    flags = ("--times", "--max_gap_seconds=0.2", "--max_parts=3")
    joined = join(tmp_path / "split", tmp_path / "joined", *flags)
    times = read_times(tmp_path / "joined")
    assert times.keys() == {one.utterance_id for one in joined}
    gaps = set()
    for one in joined:
        sound, place = read(one.path), 0
        assert " ".join(part.transcript for part in times[one.utterance_id]) == one.transcript
        for part in times[one.utterance_id]:
            num_quiet, num_loud = silences[part.transcript]
            start, end = (round(16000 * x) for x in part[:2])
            gaps.add(start - place)
            assert not sound[place:start].any(), "a gap of zeros"
            assert np.abs(sound[start : start + 160]).max() > 0.1, "speech from the first frame on"
            assert end - start == num_loud
            assert np.abs(sound[end : end + num_quiet]).max() < 0.01
            place = end + num_quiet
        assert place == len(sound)
    assert len(gaps) > 5
    plain = join(tmp_path / "split", tmp_path / "plain", "--max_parts=3")
    assert plain[0].num_samples > 0 and not (tmp_path / "plain" / "times.tsv").exists()
    with refused("Make it with tools.cli.join_corpus --times"):
        read_times(tmp_path / "plain")


def test_speech_is_what_is_loud(rng):
    sound = np.zeros(1605, "float32")
    assert speech_range(sound, 16000) == (0, 1605)
    sound[800:1000] = 0.5
    sound[300] = 0.004  # in a frame of -53 dB, of which one sample is -42 dB
    assert speech_range(sound, 16000) == (800, 1120)
    sound[1600] = 0.5
    assert speech_range(sound, 16000) == (800, 1605)
    assert speech_range(0.01 * sound, 16000) == (800, 1605)
