"""Blocks that compute their activations again in the backward pass, to save memory."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf


def rematerialize(blocks: Sequence[keras.Layer]) -> None:
    """Changes blocks of a built model so that training keeps their inputs only.

    The backward pass computes each block a second time, from the same random numbers. The moving
    statistics of batch norm change once. The gradients are those of the unchanged block.

    Args:
        blocks: layers with tensors as positional arguments and with a keyword argument `training`.

    Source: Chen et al., Training deep nets with sublinear memory cost (2016), section 3.
    """
    for block in blocks:
        block.call = _rematerialized(block, block.call)


def _rematerialized(block: keras.Layer, call: Callable) -> Callable:
    """Returns a replacement for the method `call` of a block."""
    states = [v.value for v in block.non_trainable_variables]
    computes_again = False

    def compute(*inputs, training=False):
        if not training or computes_again:
            return call(*inputs, training=training)
        places = [i for i, x in enumerate(inputs) if x is not None and _is_float(x)]

        def outputs_of(tensors, function):
            arguments = list(inputs)
            for place, tensor in zip(places, tensors, strict=True):
                arguments[place] = tensor
            return function(*arguments, training=True)

        @tf.custom_gradient
        def run(*tensors):
            before = [tf.identity(v) for v in states]
            outputs = outputs_of(tensors, call)

            def gradient(*upstream, variables=()):
                nonlocal computes_again
                # Without the dependency, the block would be computed again in the forward pass.
                with tf.control_dependencies(upstream):
                    again = [tf.identity(x) for x in tensors]
                after = [tf.identity(v) for v in states]
                _assign(states, before)
                computes_again = True
                with tf.GradientTape() as tape:
                    tape.watch(again)
                    # Through `__call__`, which sets the dtype and `training` of layers inside.
                    outputs = tf.nest.flatten(outputs_of(again, block))
                computes_again = False
                _assign(states, after)
                gradients = tape.gradient(outputs, [*again, *variables], upstream)
                return gradients[: len(again)], gradients[len(again) :]

            return outputs, gradient

        return run(*(inputs[place] for place in places))

    return compute


def _is_float(x) -> bool:
    return tf.as_dtype(x.dtype).is_floating


def _assign(variables, values) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
