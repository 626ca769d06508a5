"""Activations whose gradient is computed in closed form."""

from keras import ops


def silu(inputs, training=False):
    """Computes swish, `x * sigmoid(x)`.

    In training, the derivative is computed together with the value and is all that is kept for the
    gradient. The gradient that TensorFlow derives computes the sigmoid again.

    Args:
        inputs: tensor of any shape.
        training: whether the gradient will be computed.

    Source: Ramachandran et al., Searching for activation functions (2017).
    """
    return _silu(inputs) if training else ops.silu(inputs)


@ops.custom_gradient
def _silu(x):
    share = ops.sigmoid(x)
    outputs = x * share
    derivative = share + outputs * (1.0 - share)

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        return upstream * derivative

    return outputs, gradient
