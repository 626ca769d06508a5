"""A gate leaves long silences out and knows where the rest was."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.speech.silence_gate import SilenceGate

RATE_HZ = 1000
WORD, QUIET, ZERO = 0.5, 1e-3, 0.0


def sound_of(rng, parts, offset=0.0):
    """Noise of `(seconds, amplitude)`s."""
    pieces = [level * rng.uniform(-1, 1, round(seconds * RATE_HZ)) for seconds, level in parts]
    return (np.concatenate(pieces) + offset).astype(np.float32)


def passed(sound, least, size=10_000):
    gate = SilenceGate(RATE_HZ, least)
    pieces = (sound[start : start + size] for start in range(0, len(sound), size))
    return np.concatenate([np.zeros(0, "float32"), *gate.passed(pieces)]), gate


@given(
    parts=st.lists(
        st.tuples(st.sampled_from([0.3, 1.0, 2.5, 4.0]), st.sampled_from([WORD, QUIET, ZERO])),
        min_size=1,
        max_size=8,
    ),
    size=st.sampled_from([37, 700, 10_000]),
    seed=st.integers(0, 3),
    tail=st.integers(0, 25),
)
def test_what_is_left_out_is_silent_and_told(parts, size, seed, tail):
    sound = sound_of(np.random.default_rng(seed), [(1.0, WORD), *parts, (tail / RATE_HZ, WORD)])
    left, gate = passed(sound, 2.0, size)
    keep = np.ones(len(sound), bool)
    for start, end in gate.skipped:
        keep[round(start * RATE_HZ) : round(end * RATE_HZ)] = False
    np.testing.assert_array_equal(left, sound[keep])
    assert np.abs(sound[~keep]).max(initial=0.0) <= QUIET
    places = np.flatnonzero(keep) / RATE_HZ
    middles = [gate.original_seconds((number + 0.5) / RATE_HZ) for number in range(len(left))]
    np.testing.assert_allclose(middles, places + 0.5 / RATE_HZ, atol=1e-9)


def test_a_long_silence_keeps_its_ends_and_a_short_one_all(rng):
    sound = sound_of(rng, [(1.0, WORD), (1.5, QUIET), (1.0, WORD), (5.0, QUIET), (1.0, WORD)])
    left, gate = passed(sound, 2.0)
    (skipped,) = gate.skipped
    assert skipped == pytest.approx((3.5 + 0.24, 8.5 - 0.24), abs=0.03)
    assert len(left) == pytest.approx(len(sound) - 4520, abs=60)


def test_a_bang_does_not_silence_speech_and_an_offset_does_not_hide_silence(rng):
    quiet_speech = [(0.1, 30.0), (1.0, 0.3), (4.0, 0.2)]
    assert not passed(sound_of(rng, quiet_speech), 2.0)[1].skipped
    sound = sound_of(rng, [(1.0, WORD), (4.0, QUIET), (4.0, WORD)], offset=0.4)
    assert len(passed(sound, 2.0)[1].skipped) == 1


def test_hours_of_zeros_are_held_by_none_and_leave_their_ends():
    gate, drawn = SilenceGate(RATE_HZ, 1.0), 0
    for piece in gate.passed(np.zeros(10_000, "float32") for _ in range(3600)):
        drawn += len(piece)
        assert piece.base is None or piece.base.nbytes < 1e6
    assert drawn == 480
    assert gate.skipped == [pytest.approx((0.24, 36_000 - 0.24))]
