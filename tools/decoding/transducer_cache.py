"""What both networks of a transducer have computed for the hypotheses of a beam search.

Each row of a batch has its own places. A place is used again when no hypothesis needs it.
"""

from typing import NamedTuple

import numpy as np

from tools.decoding.compiled import compiled

# Columns of an output: hash of the tokens that the prediction network has read, when it was last
# needed (-1: never), and the place of its window of logits (-1: none).
KEY, USED, WINDOW, OUTPUT_COLUMNS = range(4)
# Columns of a window: the output, when it was last needed (-1: never), its first frame, and its
# number of frames.
OUTPUT, WINDOW_USED, FIRST, LENGTH, WINDOW_COLUMNS = range(5)


class Cache(NamedTuple):
    """Outputs of the prediction network, and logits for windows of frames.

    Attributes:
        outputs: `[B, K, OUTPUT_COLUMNS]` int64.
        windows: `[B, L, WINDOW_COLUMNS]` int64.
        logits: `[B, L, F, V]` float32.
        sums: `[B, L, F]` float64, logarithms of the sums of the exponentials of the logits.
        tops: `[B, L, F]` float32, largest logit of a symbol other than the blank.
        confidences: `[B, L, F]` float32.
    """

    outputs: np.ndarray
    windows: np.ndarray
    logits: np.ndarray
    sums: np.ndarray
    tops: np.ndarray
    confidences: np.ndarray


def empty_cache(batch_size: int, width: int, num_frames: int, num_symbols: int) -> Cache:
    """Returns a cache for hypotheses of a beam.

    A row needs at most 4 outputs for each hypothesis at the same time, and 2 windows: those of the
    hypotheses that have ended the frame, those that have not, and those that take their places.

    Args:
        batch_size: number of rows B.
        width: number of hypotheses of a row.
        num_frames: number of frames F of a window.
        num_symbols: number of symbols V.
    """
    outputs = np.full((batch_size, 4 * width + 16, OUTPUT_COLUMNS), -1, np.int64)
    windows = np.full((batch_size, 2 * width + 4, WINDOW_COLUMNS), -1, np.int64)
    size = (*windows.shape[:2], num_frames)
    return Cache(
        outputs,
        windows,
        logits=np.empty((*size, num_symbols), np.float32),
        sums=np.empty(size),
        tops=np.empty(size, np.float32),
        confidences=np.empty(size, np.float32),
    )


@compiled
def touch(cache, row, output, now):
    """Marks an output and its window as needed."""
    cache.outputs[row, output, USED] = now
    window = cache.outputs[row, output, WINDOW]
    if window >= 0:
        cache.windows[row, window, WINDOW_USED] = now


@compiled
def find_output(cache, row, key):
    """Returns the place of the output behind tokens with a hash, or -1."""
    outputs = cache.outputs[row]
    for place in range(len(outputs)):
        if outputs[place, KEY] == key and outputs[place, USED] >= 0:
            return place
    return -1


@compiled
def new_output(cache, row, key, now):
    """Returns the place for a new output: the one that was not needed for the longest time."""
    outputs = cache.outputs[row]
    place = outputs[:, USED].argmin()
    window = outputs[place, WINDOW]
    if window >= 0:
        cache.windows[row, window, OUTPUT] = cache.windows[row, window, WINDOW_USED] = -1
    outputs[place, KEY], outputs[place, USED], outputs[place, WINDOW] = key, now, -1
    return place


@compiled
def find_window(cache, row, output, frame):
    """Returns the place of the logits of an output at a frame, or -1."""
    window = cache.outputs[row, output, WINDOW]
    if window < 0:
        return -1
    first, length = cache.windows[row, window, FIRST], cache.windows[row, window, LENGTH]
    return window if first <= frame < first + length else -1


@compiled
def new_window(cache, row, output, frames):
    """Returns the place for new logits of an output that was touched.

    `frames` are the first frame and the number of frames.
    """
    windows = cache.windows[row]
    window = cache.outputs[row, output, WINDOW]
    if window < 0:
        window = windows[:, WINDOW_USED].argmin()
        previous = windows[window, OUTPUT]
        if previous >= 0:
            cache.outputs[row, previous, WINDOW] = -1
    cache.outputs[row, output, WINDOW] = window
    windows[window, OUTPUT] = output
    windows[window, WINDOW_USED] = cache.outputs[row, output, USED]
    windows[window, FIRST], windows[window, LENGTH] = frames
    return window


def forget_windows(cache: Cache) -> None:
    """Forgets all logits, because the frames of the next piece are counted from 0 again."""
    cache.outputs[:, :, WINDOW] = -1
    cache.windows[:] = -1
