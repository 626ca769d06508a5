"""Blocks that share a traced function: the same outputs, gradients, random numbers and states."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from conformer.attention import relative_positions
from conformer.encoder import ConformerBlock
from tools.training.kernels import choose_kernels
from tools.training.shared_trace import share_traces
from tools.training.step import seed_model


class Stack(keras.layers.Layer):
    """Blocks one after the other, of which the last one has another dropout rate."""

    def __init__(self, policy):
        super().__init__(dtype=policy, name="stack")
        self.blocks = [
            ConformerBlock(2, 12, 3, rate, dtype=policy, name=f"block_{number}")
            for number, rate in enumerate([0.3, 0.3, 0.3, 0.1])
        ]

    def build(self, inputs_shape):
        for block in self.blocks:
            block.build(inputs_shape)
        self.built = True

    def call(self, x, positions, mask, training=False):
        for block in self.blocks:
            x = block(x, positions, mask, training=training)
        return x


def make_stack(policy="float32", shares=False, change=lambda stack: None):
    keras.utils.set_random_seed(1)
    stack = Stack(policy)
    stack.build((None, None, 8))
    choose_kernels(stack)
    change(stack)
    if shares:
        share_traces(stack.blocks)
    return stack


def run(stack, steps=2):
    """Returns outputs, gradients and variables of training steps, and the size of their graph."""
    seed_model(stack, 3, 0, None)
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.normal(size=(3, 7, 8)), stack.compute_dtype)
    weights = tf.constant(rng.normal(size=(3, 2, 8)), tf.float32)
    mask, positions = tf.sequence_mask([7, 4, 2], 7), relative_positions(7, 8, stack.compute_dtype)

    @tf.function(autograph=False)
    def step(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = stack(inputs, positions, mask, training=True)
            loss = tf.reduce_sum(weights * tf.cast(outputs, tf.float32)[:, :2])
        return outputs, tape.gradient(loss, [inputs, *(v.value for v in stack.trainable_variables)])

    found = tf.nest.flatten([step(inputs) for _ in range(steps)])
    found = [np.array(tf.cast(x, tf.float32)) for x in found]
    size = len(step.get_concrete_function(inputs).graph.get_operations())
    return found, [np.array(v) for v in stack.variables], size


def frozen_in_the_middle(stack):
    stack.blocks[1].trainable = False


def summed_over_ranks(stack):
    for layer in stack._flatten_layers():
        if hasattr(layer, "sum_over_ranks"):
            layer.sum_over_ranks = lambda sums: sums


@pytest.mark.parametrize(
    ("policy", "change"),
    [
        ("float32", lambda stack: None),
        ("mixed_bfloat16", lambda stack: None),
        ("float32", frozen_in_the_middle),
    ],
)
def test_outputs_gradients_and_states_are_the_same(policy, change):
    plain, shared = make_stack(policy), make_stack(policy, shares=True)
    for stack in (plain, shared):
        change(stack)  # as training does, after the blocks share their trace
    (expected, states, _), (found, ours, _) = run(plain), run(shared)
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-6 * np.abs(y).max())
    for x, y in zip(ours, states, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)
    assert np.any(found[0] != found[len(found) // 2]), "the steps have the same random numbers"


def test_equal_blocks_are_traced_once():
    *_, plain = run(make_stack(), steps=1)
    *_, shared = run(make_stack(shares=True), steps=1)
    assert shared < 0.5 * plain  # one block and three calls instead of four blocks


def test_sums_over_ranks_are_not_shared():
    *_, plain = run(make_stack(change=summed_over_ranks), steps=1)
    *_, shared = run(make_stack(shares=True, change=summed_over_ranks), steps=1)
    assert shared == plain


def test_evaluation_is_unchanged():
    stack = make_stack()
    frames = tf.random.normal((1, 4, 8), seed=1)
    inputs = (frames, relative_positions(4, 8), tf.ones((1, 4), tf.bool))
    expected = stack(*inputs)
    share_traces(stack.blocks)
    np.testing.assert_array_equal(stack(*inputs), expected)
