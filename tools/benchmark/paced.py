"""Transducers with random weights that emit tokens at a given rate.

With random weights alone, a transducer emits no token, or as many as it may in every frame. Here
the tokens have two classes, and a direction of the encoder's output asks for one of them. The blank
is probable as soon as the last token has this class. The sound changes its level at the given rate,
and the direction is the one that tells the two levels apart best. Between two thresholds a frame
asks for no class, so noise around a change of the level does not emit more tokens. After a token,
the blank is always the most probable symbol: a search without a limit of symbols in a frame ends.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

SEED = 1
NUM_SYMBOLS = 1000
_PEAKS = 4.0  # factor of the random logits, with which a few tokens are probable
_LEVELS = 0.01, 0.1  # of the noise
_CUTOFF = 0.01  # of singular values, relative to the largest one
_THRESHOLD = 0.5  # a frame asks for a class beyond 0.5 and -0.5
_SLOPE, _MEMORY = 6.0, 8.0  # of the joint's units, for the frame and for the last token


def rhythm(times: np.ndarray) -> np.ndarray:
    """Returns 1 and -1 for times `[B, T]` in tokens; changes once a token and begins with 1.

    Each row is behind the one before it, so that not all rows emit at the same time. The first
    token of a row lasts up to half a token longer.
    """
    times = times - np.linspace(0, 0.5, len(times), endpoint=False)[:, None]
    numbers = np.maximum(np.floor(times), 0).astype(np.int64)
    return np.where(numbers % 2, -1.0, 1.0).astype(np.float32)


def paced_sound(
    batch: int, seconds: float, tokens_per_second: float, rate_hz: int
) -> dict[str, np.ndarray]:
    """Returns the inputs of a batch: noise `[B, S]` whose level follows `rhythm`."""
    samples = round(seconds * rate_hz)
    signs = rhythm(np.tile(np.arange(samples) * tokens_per_second / rate_hz, (batch, 1)))
    noise = np.random.default_rng(SEED).normal(size=(batch, samples))
    waveforms = (noise * np.where(signs > 0, *_LEVELS[::-1])).astype(np.float32)
    return {"waveforms": waveforms, "lengths": np.full(batch, samples, np.int32)}


def num_tokens(asked: np.ndarray, threshold: float = _THRESHOLD) -> np.ndarray:
    """Returns the number of tokens `[B]` that frames ask for.

    Args:
        asked: `[B, T]`; values beyond the threshold ask for the class 1, values below its negative
            for -1. Rows begin with the class -1.
        threshold: a positive number.
    """
    last = np.full(len(asked), -1.0)
    counts = np.zeros(len(asked), np.int64)
    for column in asked.T:
        is_new = -column * last > threshold
        counts += is_new
        last = np.where(is_new, -last, last)
    return counts


def fitted(encoded: np.ndarray, tokens: float) -> tuple[np.ndarray, float]:
    """Returns the direction `[D]` and the offset that give `rhythm` best.

    They are found by least squares, and scaled so that each row asks for its number of tokens with
    the widest margin. The direction is short, so that rounding to 8 bits changes little: it has no
    part along which the frames hardly differ, such as the sum of a layer norm's outputs.

    Args:
        encoded: `[B, T, D]` encoder output for `paced_sound`, without padding.
        tokens: number of tokens in a row.
    """
    batch, frames, width = encoded.shape
    wanted = rhythm(np.tile((np.arange(frames) + 0.5) * tokens / frames, (batch, 1)))
    rows = np.concatenate([encoded, np.ones((batch, frames, 1), encoded.dtype)], axis=-1)
    found, *_ = np.linalg.lstsq(rows.reshape(-1, width + 1), wanted.ravel(), rcond=_CUTOFF)
    asked, thresholds = rows @ found, np.linspace(0.02, 0.98, 49)
    errors = [np.abs(num_tokens(asked, x) - num_tokens(wanted)).sum() for x in thresholds]
    found = found * (_THRESHOLD / np.median(thresholds[np.array(errors) == min(errors)]))
    return found[:-1], float(found[-1])


def pace(
    variables: Mapping,
    direction: np.ndarray,
    offset: float,
    read: Callable[[Sequence[int]], np.ndarray],
) -> None:
    """Sets weights of a transducer so that it emits a token where the class of the frame changes.

    Args:
        variables: Keras variables by name: of the prediction network `embeddings` `[V, E]`, and of
            its LSTM `kernel` `[E, 4P]`, `recurrent` `[P, 4P]` and `bias` `[4P]`; of the joint
            network `frame` `[D, J]`, `frame_bias` `[J]`, `last` `[P, J]`, `output` `[J, V]` and
            `output_bias` `[V]`. A layer norm follows the LSTM, and the blank is symbol 0.
        direction: `[D]`, which gives about 1 and -1 for the two classes of frames.
        offset: added to the products with the direction.
        read: runs the prediction network on the first token of N rows and returns its outputs
            `[N, P]`.
    """
    arrays = {name: np.array(variable) for name, variable in variables.items()}
    classes = np.where(np.arange(len(arrays["embeddings"])) % 2, 1.0, -1.0)
    arrays["embeddings"][:, 0] = classes
    # The first output of the LSTM is the class of the last token alone.
    width = len(arrays["recurrent"])
    for gate, (weight, bias) in enumerate([(0.0, 9.0), (0.0, -9.0), (9.0, 0.0), (0.0, 9.0)]):
        column = gate * width  # input, forget, cell and output gate
        arrays["kernel"][:, column] = arrays["recurrent"][:, column] = 0.0
        arrays["kernel"][0, column], arrays["bias"][column] = weight, bias
    for name in ("embeddings", "kernel", "recurrent", "bias"):
        variables[name].assign(arrays[name])
    size = float(np.abs(read([1, 2])[:, 0]).mean())  # of this output behind the layer norm
    # Two units of the joint network: the frame asks for a class, and the last token has the other.
    output, output_bias = arrays["output"], arrays["output_bias"]
    for unit, sign in enumerate((1.0, -1.0)):
        arrays["frame"][:, unit] = sign * _SLOPE * direction
        arrays["frame_bias"][unit] = _SLOPE * (sign * offset - _THRESHOLD) - _MEMORY
        arrays["last"][:, unit] = 0.0
        arrays["last"][0, unit] = -sign * _MEMORY / size
    output[2:] *= _PEAKS
    output[:2] = 5.0 * classes, -5.0 * classes
    output[:2, 0] = -10.0
    output_bias[0] = 0.0
    for name, variable in variables.items():
        variable.assign(arrays[name])
