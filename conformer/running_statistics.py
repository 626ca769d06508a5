"""Mean and standard deviation of the loud frames so far: a normalization that can stream."""

import math

from keras import ops

# Levels in decibels that frames are sorted by: below -100 dB all count as one level.
_LOWEST_DB, _NUM_LEVELS = -100, 160


def running_maximum(values):
    """Gives for each frame the largest value of it and of all before, `[B, T]` to `[B, T]`.

    Exact for up to 65536 frames.
    """
    for power in range(16):
        step = 1 << power
        moved = ops.pad(values, [[0, 0], [step, 0]], constant_values=-math.inf)
        values = ops.maximum(values, moved[:, : ops.shape(values)[1]])
    return values


def running_statistics(decibels, *, loud_frames_db, start_offset_db, start_deviation_db, weight):
    """Gives for each frame the mean and the standard deviation of the loud frames up to it.

    A frame counts at a later one as long as its loudest bin is at most `loud_frames_db` below the
    loudest bin so far, in whole decibels. So what comes before the speech counts only until the
    speech begins. The start value stands for `weight` frames, and moves with the loudest bin.

    Args:
        decibels: `[B, T, F]`, of frames that are valid at least up to the one asked about.
        loud_frames_db: range of the frames that count.
        start_offset_db: start value of the mean, below the loudest bin so far.
        start_deviation_db: start value of the standard deviation.
        weight: frames that the start value stands for.

    Returns:
        Loudest bin so far, mean and standard deviation, `[B, T, 1]` each.
    """
    num_bins = decibels.shape[2]
    level = ops.max(decibels, axis=2)
    loudest = running_maximum(level)
    lowest = ops.clip(ops.floor(level) - _LOWEST_DB, 0, _NUM_LEVELS - 1)
    levels = ops.arange(_NUM_LEVELS, dtype="float32")
    at_level = ops.cast(ops.equal(lowest[..., None], levels), "float32")
    counts_at = levels >= ops.floor(loudest)[..., None] - _LOWEST_DB - loud_frames_db

    def so_far(values):
        """Sums values `[B, T]` over the frames up to each that count at it."""
        by_level = ops.cumsum(at_level * values[..., None], axis=1)
        return ops.sum(ops.where(counts_at, by_level, 0.0), axis=2)

    count = weight + so_far(ops.ones_like(level))
    mean_of_frame = ops.mean(decibels, axis=2)
    start = loudest - start_offset_db
    mean = (weight * start + so_far(mean_of_frame)) / count
    squares = ops.sum(ops.square(decibels), axis=2) / num_bins
    start_square = ops.square(start_deviation_db) + ops.square(start)
    variance = (weight * start_square + so_far(squares)) / count - ops.square(mean)
    deviation = ops.sqrt(ops.maximum(variance, 0.0))
    return loudest[..., None], mean[..., None], deviation[..., None]
