"""Prediction networks of a transducer: compute a state from the labels decoded so far."""

import keras
from keras import ops


class PredictionNetwork(keras.layers.Layer):
    """Embedding, LSTM layers and layer norm.

    The LSTM states are one tensor `[B, 2 L, D]` (output and cell of each layer), so that a decoder
    carries one tensor through its loop. For a single label the LSTM cells are called directly,
    without a loop in the graph.

    Args:
        vocabulary_size: number of symbols V, including the blank.
        hidden_dim: width D of the embedding and of the LSTM.
        num_layers: number L of LSTM layers.
        use_norm: whether a layer norm follows the last LSTM layer.

    Attributes:
        lstm_kernel: optional function of inputs, states and a `keras.layers.LSTMCell` that runs
            an LSTM layer over several tokens and returns its outputs and states. With None, Keras
            runs it.

    Source: Graves, Sequence transduction with recurrent neural networks (2012), section 2.3; layout
    of TensorFlowASR 0.8.
    """

    def __init__(self, vocabulary_size, hidden_dim, num_layers=1, use_norm=True, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim
        self.num_layers = num_layers
        self.use_norm = use_norm
        self.lstm_kernel = None

    def build(self, tokens_shape):
        """Creates the variables for tokens `[B, U]`."""
        self.embedding = keras.layers.Embedding(
            self.vocabulary_size, self.hidden_dim, dtype=self.dtype_policy, name="embedding"
        )
        self.embedding.build(tokens_shape)
        self.lstms = [
            keras.layers.LSTM(
                self.hidden_dim,
                return_sequences=True,
                return_state=True,
                dtype=self.dtype_policy,
                name=f"lstm_{index}" if index else "lstm",
            )
            for index in range(self.num_layers)
        ]
        for lstm in self.lstms:
            lstm.build((None, None, self.hidden_dim))
        if self.use_norm:
            self.norm = keras.layers.LayerNormalization(
                epsilon=1e-5, dtype=self.dtype_policy, name="norm"
            )
            self.norm.build((None, None, self.hidden_dim))
        self.built = True

    @property
    def state_shape(self) -> tuple[int, int]:
        """Shape `[2 L, D]` of the states of one utterance."""
        return 2 * self.num_layers, self.hidden_dim

    def initial_state(self, batch_size):
        """Returns the states before the first token, `[B, 2 L, D]` zeros."""
        return ops.zeros((batch_size, *self.state_shape), self.compute_dtype)

    def call(self, tokens, states=None):
        """Computes the outputs after each token.

        Args:
            tokens: `[B, U]` integers. At the start of an utterance the first token is the blank.
            states: `[B, 2 L, D]` states before the tokens; None at the start of an utterance.

        Returns:
            `[B, U, D]` outputs and the `[B, 2 L, D]` states after the last token.
        """
        if states is None:
            states = self.initial_state(ops.shape(tokens)[0])
        outputs, after = self.embedding(tokens), []
        for index, lstm in enumerate(self.lstms):
            carried = [states[:, 2 * index], states[:, 2 * index + 1]]
            if tokens.shape[1] == 1:
                output, carried = lstm.cell(outputs[:, 0], carried)
                outputs = ops.expand_dims(output, 1)
            elif self.lstm_kernel is not None:
                outputs, carried = self.lstm_kernel(outputs, carried, lstm.cell)
            else:
                outputs, *carried = lstm(outputs, initial_state=carried)
            after += carried
        return self.norm(outputs) if self.use_norm else outputs, ops.stack(after, axis=1)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "use_norm": self.use_norm,
        }


class StatelessPrediction(keras.layers.Layer):
    """Embedding and a convolution over two labels, with ReLU.

    The output after a label depends on this label and the one before it only. The state is one
    tensor `[B, 2, D]` with the embeddings of the last two tokens, so that decoders treat both
    prediction networks alike.

    Args:
        vocabulary_size: number of symbols V, including the blank.
        hidden_dim: width D of the embedding and of the output.

    Source: Ghodsi et al., RNN-transducer with stateless prediction network (2020), section 2.
    """

    def __init__(self, vocabulary_size, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim

    def build(self, tokens_shape):
        """Creates the variables for tokens `[B, U]`."""
        self.embedding = keras.layers.Embedding(
            self.vocabulary_size, self.hidden_dim, dtype=self.dtype_policy, name="embedding"
        )
        self.embedding.build(tokens_shape)
        # A convolution over two labels is a dense layer on their joined embeddings.
        self.convolution = keras.layers.Dense(
            self.hidden_dim, activation="relu", dtype=self.dtype_policy, name="convolution"
        )
        self.convolution.build((None, None, 2 * self.hidden_dim))
        self.built = True

    @property
    def state_shape(self) -> tuple[int, int]:
        """Shape `[2, D]` of the states of one utterance."""
        return 2, self.hidden_dim

    def initial_state(self, batch_size):
        """Returns the state before the first token, `[B, 2, D]` zeros."""
        return ops.zeros((batch_size, *self.state_shape), self.compute_dtype)

    def call(self, tokens, states=None):
        """Computes the outputs after each token; see `PredictionNetwork.call`."""
        if states is None:
            states = self.initial_state(ops.shape(tokens)[0])
        embedded = ops.concatenate([states, self.embedding(tokens)], axis=1)
        pairs = ops.concatenate([embedded[:, 1:-1], embedded[:, 2:]], axis=-1)
        return self.convolution(pairs), embedded[:, -2:]

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "hidden_dim": self.hidden_dim,
        }
