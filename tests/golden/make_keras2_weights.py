"""Makes `keras2_weights.h5`: weights of a small model as tf-keras 2.16 saves them.

    python tests/golden/make_keras2_weights.py

needs tf-keras==2.16.0. The layers have the names and shapes of TensorFlowASR's Conformer with one
block, and compute nothing: the file is what counts. Each value depends on its place.
"""

import math
from pathlib import Path

import numpy as np
import tf_keras as keras

OUTPUT = Path(__file__).with_name("keras2_weights.h5")
D, H, K, FILTERS, KERNEL, BINS, P, J, V = 8, 2, 4, 3, 4, 8, 6, 5, 7
NORM = {"gamma": (D,), "beta": (D,)}
BLOCK = "conformer_encoder_block_0"


class Variables(keras.layers.Layer):
    """A layer with trainable variables, then others, and layers inside it."""

    def __init__(self, name, shapes=(), layers=(), others=()):
        super().__init__(name=name)
        self.inside = [one if isinstance(one, Variables) else Variables(*one) for one in layers]
        self._shapes, self._others = dict(shapes), dict(others)

    def build(self, inputs_shape):
        """Creates the variables."""
        for name, shape in self._shapes.items():
            setattr(self, f"own_{name}", self.add_weight(name, shape))
        for name, shape in self._others.items():
            setattr(self, f"own_{name}", self.add_weight(name, shape, trainable=False))
        super().build(inputs_shape)

    def call(self, inputs):
        """Builds the layers inside."""
        for layer in self.inside:
            layer(inputs)
        return inputs


def dense(name, inputs, outputs):
    """Returns the arguments of a dense layer."""
    return name, {"kernel": (inputs, outputs), "bias": (outputs,)}


def feedforward(number):
    """Returns a feed-forward module."""
    name = f"{BLOCK}_ff_module_{number}"
    inside = [(f"{name}_ln", NORM), dense(f"{name}_dense_1", D, 4 * D)]
    return Variables(name, layers=[*inside, dense(f"{name}_dense_2", 4 * D, D)])


def encoder():
    """Returns the encoder."""
    subsampling = "conformer_encoder_subsampling"
    attention = {"pos_kernel": (H, D, K), "pos_bias_u": (H, K), "pos_bias_v": (H, K)}
    attention |= {f"{x}_kernel": (H, D, K) for x in ("query", "key", "value")}
    attention |= {"projection_kernel": (H, K, D), "projection_bias": (D,)}
    statistics = {"moving_mean": (D,), "moving_variance": (D,)}
    name = f"{BLOCK}_conv_module"
    convolution = [
        ("layer_normalization_3", NORM),
        (f"{name}_pw_conv_1", {"kernel": (1, 1, D, 2 * D), "bias": (2 * D,)}),
        (f"{name}_dw_conv", {"depthwise_kernel": (KERNEL, 1, D, 1), "bias": (D,)}),
        (f"{name}_bn", NORM, (), statistics),
        (f"{name}_pw_conv_2", {"kernel": (1, 1, D, D), "bias": (D,)}),
    ]
    mhsa = f"{BLOCK}_mhsa_module"
    block = [
        feedforward(1),
        Variables(mhsa, layers=[(f"{mhsa}_ln", NORM), (f"{mhsa}_mhsa", attention)]),
        Variables(name, layers=convolution),
        feedforward(2),
        (f"{BLOCK}_ln", NORM),
    ]
    shapes = [{"kernel": (3, 3, n, FILTERS), "bias": (FILTERS,)} for n in (1, FILTERS)]
    convolutions = [(f"{subsampling}_{n}", shape) for n, shape in enumerate(shapes, start=1)]
    linear = dense("conformer_encoder_linear", math.ceil(BINS / 4) * FILTERS, D)
    layers = [Variables(subsampling, layers=convolutions), linear, Variables(BLOCK, layers=block)]
    return Variables("conformer_encoder", layers=layers)


def main() -> None:
    """Writes the file."""
    name = "conformer_prediction"
    lstm = {"kernel": (P, 4 * P), "recurrent_kernel": (P, 4 * P), "bias": (4 * P,)}
    prediction = [
        (f"{name}_embedding", {"embeddings": (V, P)}),
        (f"{name}_ln_0", {"gamma": (P,), "beta": (P,)}),
        Variables(f"{name}_lstm_0", layers=[("lstm_cell_7", lstm)]),
    ]
    joint = [
        dense("conformer_joint_enc", D, J),
        ("conformer_joint_pred", {"kernel": (P, J)}),
        dense("conformer_joint_vocab", J, V),
    ]
    model = keras.Sequential(
        [encoder(), Variables(name, layers=prediction), Variables("conformer_joint", layers=joint)],
        name="conformer",
    )
    model(np.zeros((1, 1), "float32"))
    for layer in model.layers:
        for number, variable in enumerate(layer.weights):
            size = math.prod(variable.shape)
            variable.assign(np.arange(size).reshape(variable.shape) / size + number)
    model.save_weights(OUTPUT)


if __name__ == "__main__":
    main()
