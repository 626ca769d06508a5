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
    size = logits.shape[-1]
    if size < 2:
        return np.ones(logits.shape[:-1], np.float32)
    with np.errstate(invalid="ignore"):  # the searches report infinite logits
        scores = logits - logits.max(axis=-1, keepdims=True)
    totals = np.log(np.exp(scores).sum(axis=-1))
    powers = np.exp(_ORDER * scores).sum(axis=-1) * np.exp(-_ORDER * totals)
    least = np.exp(-(size ** (1 - _ORDER) - 1) / (1 - _ORDER))
    found = (np.exp(-(powers - 1) / (1 - _ORDER)) - least) / (1 - least)
    return np.clip(found, 0.0, 1.0).astype(np.float32)
