"""Equal blocks of a model that share one traced function in training."""

from collections import defaultdict
from collections.abc import Sequence

import keras
import tensorflow as tf


def share_traces(blocks: Sequence[keras.Layer]) -> None:
    """Changes blocks of a built model so that training traces each kind of block once.

    Blocks of one class with equal options call the same function with their own variables. The
    results do not change. The first step starts earlier and needs less memory: for Conformer-S with
    16 blocks, the graph has a fifth of the operations.

    Blocks whose batch norm sums over processes stay as they are, since Horovod tells operations
    apart by names, and the calls of a function have the same names.

    Args:
        blocks: layers with tensors as positional arguments and with a keyword argument `training`.
    """
    kinds = defaultdict(list)
    for block in blocks:
        if not any(getattr(x, "sum_over_ranks", None) for x in block._flatten_layers()):
            kinds[_kind(block)].append(block)
    for equal in kinds.values():
        if len(equal) > 1:
            shared = _Shared(equal[0])
            for block in equal:
                shared.add(block)


def _kind(block: keras.Layer) -> tuple:
    options = {name: x for name, x in block.get_config().items() if name != "name"}
    return type(block), repr(options), tuple((v.shape, v.dtype) for v in block.variables)


class _Shared:
    """The function of the blocks of one kind.

    Args:
        block: the block that is traced.
    """

    def __init__(self, block: keras.Layer):
        self._block, self._is_tracing = block, False
        # No block needs AutoGraph, which takes as long as tracing.
        self._function = tf.function(self._trace, autograph=False)

    def add(self, block: keras.Layer) -> None:
        """Replaces the method `call` of a block."""
        call = block.call
        # Inside `call` of a block, `value` would be in the dtype of the computation.
        values = {id(v): v.value for v in block.variables}

        def shared(*inputs, training=False):
            alike = len(block.trainable_variables) == len(self._block.trainable_variables)
            if not training or self._is_tracing or not alike:
                return call(*inputs, training=training)
            others = block.non_trainable_variables
            variables = [block.trainable_variables, others]
            tensors = [[tf.identity(values[id(v)]) for v in group] for group in variables]
            outputs, updated = self._function(*tensors, inputs)
            for variable, value in zip(others, updated, strict=True):
                values[id(variable)].assign(value)
            return outputs

        block.call = shared

    def _trace(self, trainable, others, inputs):
        self._is_tracing = True
        try:
            return self._block.stateless_call(trainable, others, *inputs, training=True)
        finally:
            self._is_tracing = False
