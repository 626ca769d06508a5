"""Chunks cover a recording, each frame once, in bounded memory, whatever makes the frames."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.errors import refused
from tools.errors import UserError
from tools.speech.long_audio import Window, cut, stitched

HOP, FIELD = 4, 6  # samples from frame to frame, and those that one sees


def local_frames(waveforms, lengths):
    """A model that sees no further than its field: the samples under each frame."""
    return [
        np.stack([row[at : at + FIELD] for at in range(0, length - FIELD + 1, HOP)])
        for row, length in zip(waveforms, lengths, strict=True)
    ]


def pieces_of(sound, sizes):
    edges = np.cumsum(sizes)
    return np.split(sound, edges[edges < len(sound)])


@given(
    num_samples=st.integers(FIELD, 300),
    chunk=st.integers(4, 12),
    overlap=st.integers(1, 3),
    batch_size=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 50), max_size=12),
    seed=st.integers(0, 9),
)
def test_frames_are_those_of_the_whole(num_samples, chunk, overlap, batch_size, sizes, seed):
    overlap = min(2 * overlap, chunk // 2 // 2 * 2)
    window = Window(chunk * HOP, overlap * HOP, HOP)
    sound = np.arange(1, num_samples + 1, dtype=np.float32)
    sound *= (
        np.random.default_rng(seed)
        .choice([1.0, 1e-3], num_samples // 20 + 1)
        .repeat(20)[:num_samples]
    )
    parts = stitched(pieces_of(sound, sizes), window, local_frames, batch_size=batch_size)
    found = np.concatenate([part.frames for part in parts])
    (expected,) = local_frames(sound[None], [num_samples])
    np.testing.assert_array_equal(found, expected)


def test_a_frame_counts_where_its_chunk_holds_the_more_around_it():
    """Of frames that tell their chunk, the cuts are in the middles of the overlaps."""
    window, number = Window(40, 16, HOP), iter(range(100))

    def numbered(waveforms, lengths):
        return [
            np.full(((length - FIELD) // HOP + 1, 1), next(number), np.float32)
            for length in lengths
        ]

    sound = np.zeros(100, np.float32)
    found = [len(part.frames) for part in stitched([sound], window, numbered)]
    # Chunks begin at frames 0, 6, 12 and 18, each overlap has 4: cuts at 8, 14 and 20.
    assert found == [8, 6, 6, 4]


def test_rows_of_a_batch_hold_their_chunk_and_zeros():
    lengths_seen = []

    def check(waveforms, lengths):
        lengths_seen.extend(lengths.tolist())
        for row, length in zip(waveforms, lengths, strict=True):
            assert (row[:length] > 0).all() and (row[length:] == 0).all()
        return local_frames(waveforms, lengths)

    sound = np.arange(1, 91, dtype=np.float32)
    assert len(list(stitched([sound], Window(40, 16, HOP), check, batch_size=8))) == 4
    assert lengths_seen == [40, 40, 40, 18]


def test_a_recording_is_never_held_as_a_whole():
    window, drawn, made = Window(400, 80, HOP), [0], 0

    def pieces():
        for number in range(1000):
            drawn[0] = number
            yield np.zeros(100, np.float32)

    for sound, is_last in cut(pieces(), window):
        made += 1
        assert is_last == (drawn[0] == 999 and len(sound) < 400)
        # What has been read lies no further than a piece behind the end of this chunk.
        assert drawn[0] * 100 <= (made - 1) * 320 + 400
        assert sound.base is None or sound.base.nbytes <= 4 * (400 + 100)
    assert made == 313 and drawn[0] == 999  # 312 steps of 320 samples, and 160 samples


def test_the_reader_comes_to_its_end():
    """Where it finds out what is missing."""

    def pieces():
        yield np.zeros(100, np.float32)
        raise UserError("cut off")

    with refused("cut off"):
        list(stitched(pieces(), Window(40, 16, HOP), local_frames))


def test_windows_of_seconds_are_whole_frames():
    assert Window.of_seconds(20.0, 4.0, 320, 16000) == Window(320000, 64000, 320, 12)
    # 50.505 and 1.665 frames: the nearest number, and the nearest even one.
    assert Window.of_seconds(1.0101, 0.0333, 320, 16000) == Window(51 * 320, 2 * 320, 320, 12)
    assert Window.of_seconds(20.0, 10.0, 320, 16000).overlap_samples == 160000  # half of it


@pytest.mark.parametrize(
    "seconds",
    [(20.0, 0.0), (20.0, 11.0), (0.0, 0.0), (-1.0, -2.0), (math.inf, 1.0), (9.0, math.nan)],
)
def test_windows_that_cannot_be_are_refused(seconds):
    with refused("overlap_seconds"):
        Window.of_seconds(*seconds, 320, 16000)


def test_chunks_are_cut_where_it_is_quiet_and_keep_context_on_both_sides(rng):
    hop = 64
    window = Window(80 * hop, 40 * hop, hop)
    for quiet in range(40):
        sound = rng.normal(size=40 * hop)
        sound[quiet * hop - 3 * hop : quiet * hop + 4 * hop] = 0.0
        found = window.cut_frame(sound + 0.3)  # an offset is no sound
        if 13 <= quiet <= 26:
            assert abs(found - quiet) <= 3
        assert 10 <= found <= 30
    assert window.cut_frame(rng.normal(size=40 * hop)) == 20, "nothing is silent"
    assert window.cut_frame(np.zeros(40 * hop)) == 20


def test_silent_chunks_have_no_frames_and_keep_their_time():
    """The frames of silence are counted, up to the silence at the end."""

    def deaf(waveforms, lengths):
        rows = local_frames(waveforms, lengths)
        return [frames if frames.any() else frames[:0] for frames in rows]

    sound = np.zeros(400, np.float32)
    sound[290:310] = 1.0
    parts = list(stitched([sound], Window(40, 16, HOP), deaf, batch_size=3))
    place = 0
    for part in parts:
        at = place * HOP + np.arange(len(part.frames)) * HOP
        np.testing.assert_array_equal(part.frames[:, 0], sound[at])
        place += part.num_frames
    assert sum(len(part.frames) for part in parts) < 40 < place
    assert list(stitched([], Window(40, 16, HOP), deaf)) == []
