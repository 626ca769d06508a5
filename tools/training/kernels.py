"""Kernels that replace slower operations of layers in training on a CPU."""

import keras
import tensorflow as tf

_BITS = 16  # random bits for each value of a dropout


def on_cpu() -> bool:
    """Returns whether TensorFlow computes on a CPU, because no GPU is visible."""
    return not tf.config.get_visible_devices("GPU")


def choose_kernels(model: keras.Model) -> None:
    """Sets the kernels of a built model's layers for a CPU; does nothing if there is a GPU.

    Layers with the attribute `drop_kernel` (`tools.layers.dropout.Dropout`) get `drop`, and those
    with `lstm_kernel` (`conformer.prediction.PredictionNetwork`) get `run_lstm`. Layers with
    the attribute `kernel_gradient_by_products` compute the gradient of their kernel by matrix
    products: the gradient of a convolution in TensorFlow 2.16 takes 2.5 times as long on a CPU.

    Args:
        model: built model.
    """
    if not on_cpu():
        return
    for layer in model._flatten_layers():
        if hasattr(layer, "drop_kernel"):
            layer.drop_kernel = drop
        if hasattr(layer, "lstm_kernel"):
            layer.lstm_kernel = run_lstm
        if hasattr(layer, "kernel_gradient_by_products"):
            layer.kernel_gradient_by_products = True


def drop(x: tf.Tensor, rate: float, seed: keras.random.SeedGenerator) -> tf.Tensor:
    """Applies dropout with 16 random bits for each value, half as many as Keras draws.

    The rate is rounded to a multiple of 1 / 65536, and the factor of the other values is that of
    the rounded rate. For the gradient, one byte for each value is kept.

    Args:
        x: values of any shape.
        rate: probability of a value to be set to zero, from 0 to below 1.
        seed: generator of seeds.
    """
    threshold = min(round(rate * 2**_BITS), 2**_BITS - 1)
    size = tf.size(x)
    words = tf.random.stateless_uniform([(size + 1) // 2], seed.next(), None, None, tf.uint32)
    bits = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:size]
    keep = tf.reshape(bits >= tf.constant(threshold, tf.uint16), tf.shape(x))
    factor = tf.cast(2**_BITS / (2**_BITS - threshold), x.dtype)

    @tf.custom_gradient
    def dropped(x):
        def gradient(upstream):
            # Without the dependency, the factors would be computed, and kept, in the forward pass.
            with tf.control_dependencies([upstream]):
                kept = tf.cast(keep, upstream.dtype)
            return upstream * factor * kept

        return x * factor * tf.cast(keep, x.dtype), gradient

    return dropped(x)


def run_lstm(
    inputs: tf.Tensor, states: list[tf.Tensor], cell: keras.layers.LSTMCell
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Runs an LSTM over all steps of a sequence, in float32.

    All steps are one operation. The gradient of a weight is one product over all steps; the
    gradient of a loop has a product for each step.

    Args:
        inputs: `[B, U, D]`, any float dtype.
        states: output and cell before the first step, `[B, H]` each.
        cell: built cell with tanh, sigmoid and a bias.

    Returns:
        Outputs `[B, U, H]`, and output and cell after the last step, in the dtype of the inputs.

    Source: equations of `keras.layers.LSTMCell` of Keras 3.
    """
    # `identity` reads a variable: a custom gradient takes tensors.
    kernel, recurrent, bias = (
        tf.cast(tf.identity(x), tf.float32) for x in (cell.kernel, cell.recurrent_kernel, cell.bias)
    )
    before = tf.cast(tf.stack(states), tf.float32)
    kernels = tf.concat([kernel, recurrent], axis=0)
    x = tf.cast(tf.transpose(inputs, [1, 0, 2]), tf.float32)
    outputs, cells = _lstm(x, before, kernels, bias)
    after = [tf.cast(x[-1], inputs.dtype) for x in (outputs, cells)]
    return tf.cast(tf.transpose(outputs, [1, 0, 2]), inputs.dtype), after


@tf.custom_gradient
def _lstm(x, before, kernels, bias):
    """Returns outputs and cells `[U, B, H]`; see `run_lstm`.

    Args:
        x: `[U, B, D]` inputs.
        before: `[2, B, H]` output and cell before the first step.
        kernels: `[D + H, 4 H]` kernels of the inputs and of the output.
        bias: `[4 H]`.
    """
    output, cell = tf.unstack(before)
    no_peephole = tf.zeros_like(cell[0])
    i, cells, f, o, g, squashed, outputs = tf.raw_ops.BlockLSTMV2(
        seq_len_max=tf.shape(x, tf.int64)[0],
        x=x,
        cs_prev=cell,
        h_prev=output,
        w=kernels,
        wci=no_peephole,
        wcf=no_peephole,
        wco=no_peephole,
        b=bias,
        cell_clip=0.0,
    )

    def gradient(by_outputs, by_cells):
        cells_before = tf.concat([cell[None], cells[:-1]], axis=0)
        outputs_before = tf.concat([output[None], outputs[:-1]], axis=0)
        # Derivatives of each step, for all steps at once: of the cell by the input gate, the forget
        # gate and the candidate, and of the output by the output gate and the cell.
        derivatives = [
            g * i * (1.0 - i),
            cells_before * f * (1.0 - f),
            i * (1.0 - g * g),
            squashed * o * (1.0 - o),
            o * (1.0 - squashed * squashed),
        ]
        steps = tf.stack([*derivatives, f, by_outputs, by_cells], axis=1)  # [U, 8, B, H]
        width = tf.shape(x)[2]
        back = tf.transpose(kernels[width:])

        def step(number, by_output, by_cell, collected):
            now = steps[number]
            by_output += now[6]
            by_cell += now[7] + by_output * now[4]
            gates = tf.concat([*tf.unstack(by_cell * now[:3]), by_output * now[3]], axis=1)
            collected = collected.write(number, gates)
            return number - 1, tf.matmul(gates, back), by_cell * now[5], collected

        length = tf.shape(x)[0]
        collected = tf.TensorArray(tf.float32, length, element_shape=[None, None])
        start = (length - 1, tf.zeros_like(output), tf.zeros_like(cell), collected)
        _, by_output, by_cell, collected = tf.while_loop(
            lambda number, *_: number >= 0, step, start, maximum_iterations=length
        )
        gates = tf.reshape(collected.stack(), [-1, tf.shape(bias)[0]])
        factors = tf.concat([x, outputs_before], axis=2)
        by_kernels = tf.matmul(
            tf.reshape(factors, [-1, tf.shape(kernels)[0]]), gates, transpose_a=True
        )
        by_x = tf.matmul(gates, kernels[:width], transpose_b=True)
        by_before = tf.stack([by_output, by_cell])
        return tf.reshape(by_x, tf.shape(x)), by_before, by_kernels, tf.reduce_sum(gates, axis=0)

    return (outputs, cells), gradient
