"""Joint network of a transducer: computes logits from encoder frames and prediction states."""

import keras
from keras import ops


class JointNetwork(keras.layers.Layer):
    """`Dense_V(activation(Dense(encoded) + Dense(predicted)))`, for every frame and every state.

    The two projections and the logits are also separate methods. A search can then project each
    frame and each state once, and a loss can compute the logits in parts to save memory.

    Logits are float32 under every dtype policy. In a token-and-duration transducer, the logits of
    the N durations follow those of the symbols, and the last axis of the output has V + N entries.

    Args:
        hidden_dim: width J of both projections.
        vocabulary_size: number of symbols V, including the blank.
        activation: `"tanh"`, `"relu"` or `"sigmoid"`.
        predicted_bias: whether the projection of the prediction states has a bias, too.
        num_durations: number N of durations; 0 for a transducer without durations.

    Source: Graves et al., Speech recognition with deep recurrent neural networks (2013), eq. 17-18;
    layout of TensorFlowASR 0.8; Xu et al., Token-and-duration transducer (2023), section 3.
    """

    def __init__(
        self,
        hidden_dim,
        vocabulary_size,
        *,
        activation="tanh",
        predicted_bias=False,
        num_durations=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.vocabulary_size = vocabulary_size
        self.activation = activation
        self.predicted_bias = predicted_bias
        self.num_durations = num_durations

    def build(self, encoded_shape, predicted_shape):
        """Creates the variables for frames `[B, T, D]` and prediction states `[B, U, P]`."""
        self.encoded_projection = keras.layers.Dense(
            self.hidden_dim, dtype=self.dtype_policy, name="encoded_projection"
        )
        self.encoded_projection.build(encoded_shape)
        self.predicted_projection = keras.layers.Dense(
            self.hidden_dim,
            use_bias=self.predicted_bias,
            dtype=self.dtype_policy,
            name="predicted_projection",
        )
        self.predicted_projection.build(predicted_shape)
        self.vocabulary_projection = keras.layers.Dense(
            self.vocabulary_size + self.num_durations,
            dtype="float32",
            name="vocabulary_projection",
        )
        self.vocabulary_projection.build((None, None, None, self.hidden_dim))
        self.built = True

    def project_encoded(self, encoded):
        """Projects encoder frames `[..., D]` to `[..., J]`, where J is `hidden_dim`."""
        return self.encoded_projection(encoded)

    def project_predicted(self, predicted):
        """Projects prediction states `[..., P]` to `[..., J]`."""
        return self.predicted_projection(predicted)

    @property
    def output_layer(self):
        """Kernel `[J, V]` and bias `[V]` of the layer that computes the logits."""
        return self.vocabulary_projection.kernel, self.vocabulary_projection.bias

    def logits(self, joined):
        """Computes logits `[..., V]` from sums `[..., J]` of the two projections."""
        return self.vocabulary_projection(keras.activations.get(self.activation)(joined))

    def call(self, encoded, predicted):
        """Computes logits `[B, T, U, V]` from frames `[B, T, D]` and states `[B, U, P]`."""
        encoded, predicted = self.project_encoded(encoded), self.project_predicted(predicted)
        return self.logits(ops.expand_dims(encoded, 2) + ops.expand_dims(predicted, 1))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "vocabulary_size": self.vocabulary_size,
            "activation": self.activation,
            "predicted_bias": self.predicted_bias,
            "num_durations": self.num_durations,
        }


class SimpleJoint(keras.layers.Layer):
    """Joint network whose logits are a sum: `Dense_V(encoded) + Dense_V(predicted)`.

    Only training with the pruned loss uses it; see `conformer.pruned_loss`. Computes in float32
    under every dtype policy.

    Args:
        vocabulary_size: number of symbols V, including the blank.

    Source: Kuang et al., Pruned RNN-T for fast, memory-efficient ASR training (2022), section 3.1.
    """

    def __init__(self, vocabulary_size, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size

    def build(self, encoded_shape, predicted_shape):
        """Creates the variables for frames `[B, T, D]` and prediction states `[B, U, P]`."""
        self.encoded_projection = keras.layers.Dense(
            self.vocabulary_size, dtype="float32", name="encoded_projection"
        )
        self.encoded_projection.build(encoded_shape)
        self.predicted_projection = keras.layers.Dense(
            self.vocabulary_size, use_bias=False, dtype="float32", name="predicted_projection"
        )
        self.predicted_projection.build(predicted_shape)
        self.built = True

    def call(self, encoded, predicted):
        """Returns the two terms of the logits, `[B, T, V]` and `[B, U, V]`."""
        return self.encoded_projection(encoded), self.predicted_projection(predicted)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "vocabulary_size": self.vocabulary_size}
