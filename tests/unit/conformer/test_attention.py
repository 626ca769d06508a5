"""Relative attention against a loop over all pairs of frames."""

import numpy as np
import pytest

from conformer.attention import RelativeMultiHeadAttention, relative_positions, relative_shift

HEADS, HEAD_SIZE, WIDTH = 3, 4, 8


def sinusoid(offset: int, width: int) -> np.ndarray:
    angles = offset / 10000.0 ** (np.arange(0, width, 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).ravel()


def naive_attention(layer, x, lengths):
    """softmax(((q_i + u) k_j + (q_i + v) W_r r_{i-j}) / sqrt(K)) v_j, pair by pair."""
    qkv, position, kernel, bias = (
        np.asarray(w, "float64")
        for w in (
            layer.query_key_value.kernel,
            layer.position.kernel,
            layer.output_projection.kernel,
            layer.output_projection.bias,
        )
    )
    u, v = np.asarray(layer.content_bias), np.asarray(layer.position_bias)
    batch, frames, _ = x.shape
    result = np.zeros_like(x, dtype="float64")
    for b in range(batch):
        q, k, values = (x[b] @ qkv).reshape(frames, 3, HEADS, HEAD_SIZE).transpose(1, 0, 2, 3)
        for i in range(frames):
            context = np.zeros((HEADS, HEAD_SIZE))
            for h in range(HEADS):
                scores = np.array(
                    [
                        (q[i, h] + u[h]) @ k[j, h]
                        + (q[i, h] + v[h])
                        @ (sinusoid(i - j, WIDTH) @ position).reshape(HEADS, HEAD_SIZE)[h]
                        for j in range(lengths[b])
                    ]
                ) / np.sqrt(HEAD_SIZE)
                weights = np.exp(scores - scores.max())
                context[h] = (weights / weights.sum()) @ values[: lengths[b], h]
            result[b, i] = context.ravel() @ kernel + bias
    return result


def build(**kwargs):
    layer = RelativeMultiHeadAttention(HEADS, HEAD_SIZE, **kwargs)
    layer.build((None, None, WIDTH))
    return layer


def test_equals_the_naive_sum_over_pairs(rng):
    x = rng.normal(size=(2, 7, WIDTH)).astype("float32")
    lengths = np.array([7, 4])
    x[1, 4:] = 50.0
    mask = np.arange(7)[None] < lengths[:, None]
    layer = build()
    ours = np.asarray(layer(x, relative_positions(7, WIDTH), mask))
    expected = naive_attention(layer, x, lengths)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(ours[row, :length], expected[row, :length], atol=1e-5)


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
    """A model that confused past and future would not notice."""
    layer = build()
    x = np.linspace(-1, 1, 6 * WIDTH, dtype="float32").reshape(1, 6, WIDTH)
    mask = np.ones((1, 6), bool)
    positions = relative_positions(6, WIDTH)
    forwards = np.asarray(layer(x, positions, mask))
    backwards = np.asarray(layer(x[:, ::-1], positions, mask))[:, ::-1]
    assert np.abs(forwards - backwards).max() > 1e-3


def test_masked_keys_and_empty_rows_are_finite(rng):
    x = rng.normal(size=(2, 5, WIDTH)).astype("float32")
    mask = np.zeros((2, 5), bool)
    mask[0, :2] = True
    assert np.all(np.isfinite(build()(x, relative_positions(5, WIDTH), mask)))
