"""Batches as rows, and blocks that compute on rows in training."""

import keras
import numpy as np
import pytest

from conformer.attention import relative_positions
from conformer.encoder import ConformerBlock
from tools.layers.rows import Rows


def test_rows_and_batches(rng):
    x = rng.normal(size=(2, 3, 4))
    layout = Rows(x, training=True)
    rows = layout.rows(x)
    np.testing.assert_array_equal(rows, x.reshape(6, 4))
    np.testing.assert_array_equal(layout.batch(rows), x)
    unchanged = Rows(x, training=False)
    assert unchanged.rows(x) is x and unchanged.batch(x) is x


@pytest.mark.parametrize("num_heads", [1, 2])
def test_a_block_has_the_same_values_in_training_and_inference(rng, num_heads):
    """Without dropout and batch norm."""
    keras.utils.set_random_seed(1)
    block = ConformerBlock(num_heads, 12, 3, 0.0, convolution_norm="layer")
    block.build((None, None, 8))
    for variable in block.trainable_variables:
        variable.assign(rng.normal(0, 0.5, variable.shape))
    x = rng.normal(size=(3, 5, 8)).astype("f4")
    mask = np.arange(5) < np.array([[5], [2], [4]])
    inputs = x, relative_positions(5, 8), mask
    expected = block(*inputs, training=False).numpy()
    np.testing.assert_allclose(block(*inputs, training=True), expected, atol=1e-4)
