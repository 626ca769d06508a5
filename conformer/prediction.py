"""Prediction network of a transducer: computes a state from the labels decoded so far."""

import keras
from keras import ops


class PredictionNetwork(keras.layers.Layer):
    """Embedding, one LSTM layer and layer norm.

    The LSTM state is one tensor `[B, 2, D]` (output, cell), so that a decoder carries one tensor
    through its loop. For a single label the LSTM cell is called directly, without a loop in the
    graph.

    With a `context` of N, the output depends on the last N labels only: the LSTM starts from zeros
    N labels back. A word that is repeated more than N times then gives the same output as one that
    is repeated N times. The states are those after the last 1 to N - 1 labels.

    Args:
        vocabulary_size: number of symbols V, including the blank.
        hidden_dim: width D of the embedding and of the LSTM.
        context: number N of labels that the output depends on; None: all.
        label_dropout_rate: fraction of the labels that are replaced by the blank in training, so
            that the joint network relies less on the labels and more on the sound.

    Source: Graves, Sequence transduction with recurrent neural networks (2012), section 2.3; layout
    of TensorFlowASR 0.8. The limited context follows Prabhavalkar et al., Less is more: improved
    RNN-T decoding using limited label context and path merging (2021), section 2.2.
    """

    def __init__(self, vocabulary_size, hidden_dim, context=None, label_dropout_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim
        self.context = context
        self.label_dropout_rate = label_dropout_rate

    def build(self, tokens_shape):
        """Creates the variables for tokens `[B, U]`."""
        self.embedding = keras.layers.Embedding(
            self.vocabulary_size, self.hidden_dim, dtype=self.dtype_policy, name="embedding"
        )
        self.embedding.build(tokens_shape)
        self.lstm = keras.layers.LSTM(
            self.hidden_dim,
            return_sequences=True,
            return_state=True,
            dtype=self.dtype_policy,
            name="lstm",
        )
        self.lstm.build((None, None, self.hidden_dim))
        self.norm = keras.layers.LayerNormalization(
            epsilon=1e-5, dtype=self.dtype_policy, name="norm"
        )
        self.norm.build((None, None, self.hidden_dim))
        self.label_dropout = keras.layers.Dropout(self.label_dropout_rate, dtype="float32")
        self.built = True

    def initial_state(self, batch_size):
        """Returns the states before the first token, `[B, S, D]` zeros."""
        return ops.zeros((batch_size, *self.state_shape), self.compute_dtype)

    @property
    def state_shape(self):
        """Shape of the states of one row: `[2, D]`, or `[2 * (N - 1), D]` with a context of N."""
        return [2 * ((self.context or 2) - 1), self.hidden_dim]

    def call(self, tokens, states=None, training=False):
        """Computes the outputs after each token.

        Args:
            tokens: `[B, U]` integers. At the start of an utterance the first token is the blank.
            states: `[B, S, D]` states before the tokens; None at the start of an utterance.
            training: whether label dropout is active.

        Returns:
            `[B, U, D]` outputs and the `[B, S, D]` states after the last token.
        """
        if states is None:
            states = self.initial_state(ops.shape(tokens)[0])
        if training and self.label_dropout_rate > 0:
            kept = self.label_dropout(ops.ones(ops.shape(tokens), "float32"), training=True)
            tokens = ops.where(kept > 0, tokens, ops.zeros_like(tokens))
        embedded = self.embedding(tokens)
        if self.context is not None:
            return self._limited(embedded, states)
        carried = [states[:, 0], states[:, 1]]
        if tokens.shape[1] == 1:
            output, carried = self.lstm.cell(embedded[:, 0], carried)
            outputs = ops.expand_dims(output, 1)
        else:
            outputs, *carried = self.lstm(embedded, initial_state=carried)
        return self.norm(outputs), ops.stack(carried, axis=1)

    def _limited(self, embedded, states):
        """Runs the LSTM cell once for each label of the context, on all positions at once.

        The first run starts from zeros. Each following run starts from the states of the run
        before at the previous position, so that after N runs the output depends on N labels.
        """
        shape = ops.shape(embedded)
        flat = ops.reshape(embedded, (-1, self.hidden_dim))
        output, cell = self.lstm.cell(flat, [ops.zeros_like(flat)] * 2)[1]
        last = []
        for number in range(self.context - 1):
            earlier = []
            for part, run in enumerate((output, cell)):
                run = ops.reshape(run, shape)
                last.append(run[:, -1])
                first = states[:, 2 * number + part, None]
                shifted = ops.concatenate([first, run[:, :-1]], axis=1)
                earlier.append(ops.reshape(shifted, (-1, self.hidden_dim)))
            output, cell = self.lstm.cell(flat, earlier)[1]
        return self.norm(ops.reshape(output, shape)), ops.stack(last, axis=1)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "hidden_dim": self.hidden_dim,
            "context": self.context,
            "label_dropout_rate": self.label_dropout_rate,
        }
