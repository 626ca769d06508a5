"""Rematerialized blocks: the same outputs, gradients, random numbers and statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from conformer.attention import relative_positions
from conformer.encoder import ConformerBlock
from tools.training.checkpoint import RunFolders
from tools.training.config import TrainingConfig
from tools.training.distributed import SingleProcess
from tools.training.rematerialize import rematerialize
from tools.training.resumable_run import ResumableRun
from tools.training.step import seed_model


def make_block(policy="float32"):
    keras.utils.set_random_seed(1)
    block = ConformerBlock(2, 12, 3, 0.3, dtype=policy, name="block")
    block.build((None, None, 8))
    return block


def run(block, steps=2):
    """Returns outputs and gradients of some training steps, and the variables after them."""
    seed_model(block, 3, 0, None)
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.normal(size=(3, 7, 8)), block.compute_dtype)
    weights = tf.constant(rng.normal(size=(3, 2, 8)), tf.float32)
    mask = tf.sequence_mask([7, 4, 2], 7)
    positions = relative_positions(7, 8, block.compute_dtype)

    @tf.function(autograph=False)
    def step(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = block(inputs, positions, mask, training=True)
            # The sum of the squares would be the same for all inputs of the last layer norm.
            loss = tf.reduce_sum(weights * tf.cast(outputs, tf.float32)[:, :2])
        return outputs, tape.gradient(loss, [inputs, *(v.value for v in block.trainable_variables)])

    found = tf.nest.flatten([step(inputs) for _ in range(steps)])
    return [np.array(tf.cast(x, tf.float32)) for x in found], [np.array(v) for v in block.variables]


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_outputs_gradients_and_states_are_the_same(policy):
    plain, changed = make_block(policy), make_block(policy)
    rematerialize([changed])
    (expected, states), (found, ours) = run(plain), run(changed)
    tolerance = 1e-5 if policy == "float32" else 1e-2
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * np.abs(y).max())
    for x, y in zip(ours, states, strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * np.abs(y).max())
    assert np.any(found[0] != found[len(found) // 2]), "the steps have the same random numbers"


def test_evaluation_is_unchanged():
    block = make_block()
    frames = tf.random.normal((1, 4, 8), seed=1)
    inputs = (frames, relative_positions(4, 8), tf.ones((1, 4), tf.bool))
    expected = block(*inputs)
    rematerialize([block])
    np.testing.assert_array_equal(block(*inputs), expected)


def test_the_forward_pass_keeps_the_inputs_only():
    """The tensors of one forward pass that the backward pass reads."""

    def saved(block):
        @tf.function(autograph=False)
        def step(inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                positions = relative_positions(16, 8)
                outputs = block(inputs, positions, tf.ones((2, 16), tf.bool), training=True)
            forward = {op.name for op in tf.compat.v1.get_default_graph().get_operations()}
            gradient = tape.gradient(outputs, inputs)
            graph = tf.compat.v1.get_default_graph()
            after = [op for op in graph.get_operations() if op.name not in forward]
            read = {x.name: x for op in after for x in op.inputs if x.op.name in forward}
            shapes = [x.shape.as_list() for x in read.values() if x.dtype.is_floating]
            counts.append(sum(int(np.prod(shape)) for shape in shapes if None not in shape))
            return gradient

        counts = []
        step.get_concrete_function(tf.TensorSpec([2, 16, 8]))
        return counts[0]

    plain, changed = make_block(), make_block()
    rematerialize([changed])
    assert saved(changed) < 0.3 * saved(plain)


def test_the_config_changes_the_blocks_of_the_task(tmp_path):
    class Task:
        def __init__(self):
            self.model = make_block()
            self.blocks = [self.model]

        def layer_depth(self, path):
            return 0

    for name, changed in (("none", False), ("blocks", True)):
        task = Task()
        call = task.model.call
        config = TrainingConfig(rematerialize=name)
        ResumableRun(task, config, SingleProcess(), RunFolders.inside(tmp_path))
        assert (task.model.call != call) == changed
