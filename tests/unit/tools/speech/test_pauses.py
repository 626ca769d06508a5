"""Long pauses go before a model hears them, and come back as frames."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.speech.long_audio import Window, stitched
from tools.speech.pauses import PauseShortener

SIZE, MARGIN = 20, 3
WORD, PAUSE = 1.0, 1e-3  # amplitudes


def sound_of(rng, parts, offset=0.0):
    """Noise of `(frames, amplitude)`s."""
    pieces = [amplitude * rng.uniform(-1, 1, count * SIZE) for count, amplitude in parts]
    return (np.concatenate(pieces) + offset).astype(np.float32)


def means(sound):
    """A model whose frames are numbers of the samples below them."""
    return sound[: len(sound) // SIZE * SIZE].reshape(-1, SIZE).mean(axis=1, keepdims=True)


@given(
    parts=st.lists(st.tuples(st.integers(1, 15), st.sampled_from([WORD, PAUSE])), min_size=1),
    seed=st.integers(0, 9),
    tail=st.integers(0, SIZE - 1),
)
def test_words_keep_their_frames_and_nothing_moves(parts, seed, tail):
    rng = np.random.default_rng(seed)
    parts = [*parts, (2, WORD)]
    sound = np.append(sound_of(rng, parts), np.full(tail, PAUSE, np.float32))
    shortened = PauseShortener(SIZE, MARGIN).shorten(sound)
    assert len(sound) - len(shortened.sound) == shortened.num_removed * SIZE
    restored, expected = shortened.restored(means(shortened.sound)), means(sound)
    assert restored.shape == expected.shape
    np.testing.assert_array_equal(restored[shortened.kept], expected[shortened.kept])
    loud = np.repeat([amplitude for _, amplitude in parts], [count for count, _ in parts]) == WORD
    assert set(np.flatnonzero(loud)) <= set(shortened.kept.tolist())
    for frame in set(range(len(loud))) - set(shortened.kept.tolist()):
        before = restored[: frame + 1][::-1]
        assert restored[frame] == before[1], "a pause repeats its last frame before the gap"
        assert not loud[max(0, frame - MARGIN) : frame + MARGIN + 1].any()


@pytest.mark.parametrize(("frames", "left"), [(6, 6), (7, 6), (30, 6)])
def test_a_pause_keeps_its_ends(rng, frames, left):
    sound = sound_of(rng, [(5, WORD), (frames, PAUSE), (5, WORD)])
    found = PauseShortener(SIZE, MARGIN).shorten(sound)
    assert len(found.sound) == (10 + left) * SIZE
    assert found.kept.tolist() == [*range(5 + 3), *range(5 + frames - 3, 10 + frames)]


def test_gain_and_offset_change_nothing(rng):
    sound = sound_of(rng, [(5, WORD), (30, PAUSE), (5, WORD)])
    kept = PauseShortener(SIZE, MARGIN).shorten(sound).kept.tolist()
    for changed in (0.01 * sound, sound + np.float32(0.5), np.float32(8.0) * sound):
        assert PauseShortener(SIZE, MARGIN).shorten(changed).kept.tolist() == kept


def test_zeros_alone_become_a_short_sound():
    found = PauseShortener(SIZE, MARGIN).shorten(np.zeros(100 * SIZE, np.float32))
    assert len(found.sound) == 2 * MARGIN * SIZE
    assert found.restored(np.ones((2 * MARGIN, 4))).shape == (100, 4)


def test_what_is_quiet_is_told_by_earlier_chunks_too_and_these_are_forgotten(rng):
    shortener = PauseShortener(SIZE, MARGIN)
    noise = sound_of(rng, [(50, PAUSE)])
    assert not shortener.shorten(noise).num_removed, "nothing louder is known"
    shortener.shorten(sound_of(rng, [(50, WORD)]))  # 60 dB above the noise
    removed = [shortener.shorten(noise).num_removed > 0 for _ in range(5)]
    assert removed == [True, True, False, False, False]


def test_a_recording_has_its_frames_with_and_without_pauses(rng):
    """The model divides by the spread of what it gets, as wav2vec 2.0 does."""
    sound = sound_of(rng, [(30, WORD), (70, PAUSE), (30, WORD), (150, PAUSE)])

    def model(waveforms, lengths):
        return [
            means(row[:length]) / row[:length].std()
            for row, length in zip(waveforms, lengths, strict=True)
        ]

    found = {}
    for frames in (None, MARGIN):
        window = Window(100 * SIZE, 20 * SIZE, SIZE, frames)
        parts = stitched([sound], window, model, batch_size=2)
        found[frames] = np.concatenate([part.frames for part in parts])
        assert len(found[frames]) == 280
    (alone,) = model(sound[None, : 30 * SIZE], [30 * SIZE])
    scale = {frames: rows[:30].std() / alone.std() for frames, rows in found.items()}
    assert scale[None] > 1.5, "silence turns the words up"
    assert scale[MARGIN] < 1.15
    assert Window.of_seconds(20, 4, 320, 16000).pause_frames == 12
