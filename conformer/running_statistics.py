"""Running mean and standard deviation of loud frames, for normalization during recording."""

import math

from keras import ops

# Frames are counted by their level in whole decibels. All levels below -100 dB count as -100 dB.
_LOWEST_DB, _NUM_LEVELS = -100, 160


def running_maximum(values):
    """Returns the maximum of each frame and all frames before it.

    Args:
        values: `[B, T]`, at most 65536 frames.

    Returns:
        `[B, T]`.
    """
    for power in range(16):
        step = 1 << power
        moved = ops.pad(values, [[0, 0], [step, 0]], constant_values=-math.inf)
        values = ops.maximum(values, moved[:, : ops.shape(values)[1]])
    return values


def running_statistics(decibels, *, loud_frames_db, start_offset_db, start_deviation_db, weight):
    """Computes, for each frame t, the mean and standard deviation of the loud frames up to t.

    A frame is loud at t if its loudest bin is at most `loud_frames_db` below the loudest bin of all
    frames up to t, in whole decibels. Noise before the speech is therefore included only until the
    speech begins. The start values of mean and standard deviation are averaged in as if they were
    `weight` further frames.

    Args:
        decibels: `[B, T, F]` log-mel spectrogram. Results at frame t are valid if the frames up to
            t are valid.
        loud_frames_db: range in decibels of the frames that count as loud.
        start_offset_db: start value of the mean: this many decibels below the loudest bin so far.
        start_deviation_db: start value of the standard deviation in decibels.
        weight: number of frames that the start values count as.

    Returns:
        Loudest bin so far, mean and standard deviation in decibels, `[B, T, 1]` each.
    """
    num_bins = decibels.shape[2]
    level = ops.max(decibels, axis=2)
    loudest = running_maximum(level)
    lowest = ops.clip(ops.floor(level) - _LOWEST_DB, 0, _NUM_LEVELS - 1)
    levels = ops.arange(_NUM_LEVELS, dtype="float32")
    at_level = ops.cast(ops.equal(lowest[..., None], levels), "float32")
    counts_at = levels >= ops.floor(loudest)[..., None] - _LOWEST_DB - loud_frames_db

    def so_far(values):
        """Sums values `[B, T]`, for each frame t, over the frames up to t that are loud at t."""
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
