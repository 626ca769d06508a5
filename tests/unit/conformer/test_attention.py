"""Tests relative positions and masks of attention; `test_reference` has the sum over pairs."""

import keras
import numpy as np
import pytest

from conformer.attention import RelativeMultiHeadAttention, relative_positions, relative_shift

HEADS, HEAD_SIZE, WIDTH = 3, 4, 8


def sinusoid(offset: int, width: int) -> np.ndarray:
    angles = offset / 10000.0 ** (np.arange(0, width, 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).ravel()


def build(**kwargs):
    layer = RelativeMultiHeadAttention(HEADS, HEAD_SIZE, **kwargs)
    layer.build((None, None, WIDTH))
    return layer


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_shift_takes_offsets_of_both_signs(frames):
    offsets = np.arange(frames - 1, -frames - 1, -1, dtype="float32")
    scores = np.broadcast_to(offsets, (2, 3, frames, 2 * frames))
    shifted = np.asarray(relative_shift(scores))
    expected = np.arange(frames)[:, None] - np.arange(frames)[None, :]
    np.testing.assert_array_equal(shifted, np.broadcast_to(expected, shifted.shape))


def test_positions_are_sinusoids_of_their_offsets():
    positions = np.asarray(relative_positions(4, WIDTH))
    expected = np.stack([sinusoid(offset, WIDTH) for offset in range(3, -5, -1)])
    np.testing.assert_allclose(positions, expected, atol=1e-6)


def test_reversed_time_differs():
    """Without this test, exchanging past and future would go unnoticed."""
    layer = build()
    x = np.linspace(-1, 1, 6 * WIDTH, dtype="float32").reshape(1, 6, WIDTH)
    mask = np.ones((1, 6), bool)
    positions = relative_positions(6, WIDTH)
    forwards = np.asarray(layer(x, positions, mask))
    backwards = np.asarray(layer(x[:, ::-1], positions, mask))[:, ::-1]
    assert np.abs(forwards - backwards).max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_masked_keys_and_empty_rows_are_finite(rng, dtype):
    x = rng.normal(size=(2, 5, WIDTH)).astype("float32")
    mask = np.zeros((2, 5), bool)
    mask[0, :2] = True
    layer = build(dtype=dtype)
    positions = relative_positions(5, WIDTH, layer.compute_dtype)
    assert np.all(np.isfinite(layer(x, positions, mask)))


def test_half_precision_ends_before_the_angles_and_the_softmax(rng, monkeypatch):
    far = relative_positions(3000, WIDTH, "float16")
    assert far.dtype == "float16"
    np.testing.assert_allclose(far, relative_positions(3000, WIDTH), atol=1e-3)
    seen = []
    softmax = keras.ops.softmax
    monkeypatch.setattr(
        keras.ops, "softmax", lambda x, axis: seen.append(x.dtype) or softmax(x, axis)
    )
    x = rng.normal(size=(1, 5, WIDTH))
    found = build(dtype="mixed_float16")(x, far[2995:3005], np.ones((1, 5), bool))
    assert seen == ["float32"]
    assert found.dtype == "float16"
