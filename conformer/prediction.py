"""The prediction network of a transducer: the labels so far to a state for the joint network."""

import keras
from keras import ops


class PredictionNetwork(keras.layers.Layer):
    """Embedding, one LSTM and layer norm.

    The state is one tensor `[B, 2, D]` (output, cell), so that a decoder or another runtime carries
    it through a loop as it is. One label at a time takes the cell itself: no loop in the graph.

    With a `context` of N labels the LSTM starts anew N labels back. A word that is said five times
    then looks to it like one that is said N times. The states are those after the last 1 to N - 1
    labels.

    Args:
        vocabulary_size: V, blank included.
        hidden_dim: D, of embedding and LSTM.
        context: N, labels that the output depends on; None: all.

    Source: Graves, Sequence transduction with recurrent neural networks (2012), section 2.3; layout
    of TensorFlowASR 0.8. The limited context follows Prabhavalkar et al., Less is more: improved
    RNN-T decoding using limited label context and path merging (2021), section 2.2.
    """

    def __init__(self, vocabulary_size, hidden_dim, context=None, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.hidden_dim = hidden_dim
        self.context = context

    def build(self, tokens_shape):
        """Builds for tokens of `[B, U]`."""
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
        self.built = True

    def initial_state(self, batch_size):
        """Returns the states before the first token, `[B, S, D]` zeros."""
        return ops.zeros((batch_size, *self.state_shape), self.compute_dtype)

    @property
    def state_shape(self):
        """Shape of the states of one row: `[2, D]`, or `[2 * (N - 1), D]` with a context of N."""
        return [2 * ((self.context or 2) - 1), self.hidden_dim]

    def call(self, tokens, states=None):
        """Reads tokens.

        Args:
            tokens: `[B, U]` integers, the first one blank at the start of an utterance.
            states: `[B, S, D]`, None at the start.

        Returns:
            `[B, U, D]` and the states after the last token, `[B, S, D]`.
        """
        if states is None:
            states = self.initial_state(ops.shape(tokens)[0])
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
        """Runs the cell once for each label of the context, over all positions at once.

        The k-th run starts from the (k-1)-th run's states one position earlier, the first one from
        zeros: after N runs the output depends on N labels.
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
        }
