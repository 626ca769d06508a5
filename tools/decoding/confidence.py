"""Confidences of tokens, computed from the entropy of the model's probabilities."""

import numpy as np

_ORDER = 1 / 3  # of the entropy; below 1, improbable symbols count more than in Shannon's


def confidences(logits: np.ndarray) -> np.ndarray:
    """Returns how certain a model is: 1 for one certain symbol, 0 for equal probabilities.

    Args:
        logits: `[..., V]`.

    Returns:
        `[...]` float32 in [0, 1], from the exponential of the Tsallis entropy.

    Source: Laptev and Ginsburg, Fast entropy-based methods of word-level confidence estimation for
        end-to-end automatic speech recognition (2022), section 3; NeMo 2.0, `entropy_tsallis_exp`.
    """
    return log_sums_and_confidences(logits, logits.max(axis=-1))[1]


def log_sums_and_confidences(logits: np.ndarray, most: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a beam search needs of all logits, with one exponential for each.

    Args:
        logits: `[..., V]`.
        most: `[...]` largest logits.

    Returns:
        `[...]` float64 logarithms of the sums of the exponentials, and `[...]` `confidences`.
    """
    size = logits.shape[-1]
    with np.errstate(invalid="ignore"):  # the searches report infinite logits
        powers = logits - most[..., None]
    powers *= _ORDER
    np.exp(powers, out=powers)
    weights = powers * powers
    weights *= powers  # the cube of a cube root
    totals = np.log(weights.sum(axis=-1).astype(np.float64))
    sums = totals + most
    if size < 2:
        return sums, np.ones(sums.shape, np.float32)
    entropy = powers.sum(axis=-1) * np.exp(-_ORDER * totals) - 1
    least = np.exp(-(size ** (1 - _ORDER) - 1) / (1 - _ORDER))
    found = (np.exp(-entropy / (1 - _ORDER)) - least) / (1 - least)
    return sums, np.clip(found, 0.0, 1.0).astype(np.float32)
