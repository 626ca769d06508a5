"""Conformer transducer: front end, encoder, prediction network and joint network in one model."""

import keras
from keras import ops

from conformer.encoder import ConformerEncoder
from conformer.features import LogMelSpectrogram, SpecAugment
from conformer.joint import JointNetwork, SimpleJoint
from conformer.prediction import PredictionNetwork, StatelessPrediction

BLANK = 0


class ConformerTransducer(keras.Model):
    """A speech transducer.

    Losses and decoders call its three parts separately: `encode`, `predict` and `join`.

    Args:
        features: front end, layer `(waveforms, lengths) -> (features, lengths)` without variables.
        augment: layer `(features, lengths, uniforms) -> features`, used in training only.
        encoder: layer `(features, lengths) -> (encoded, lengths)`.
        prediction: layer `(tokens, states) -> (predicted, states)`; None for a model with a CTC
            head only.
        joint: layer `(encoded, predicted) -> logits`; None for a model with a CTC head only.
        ctc_head: layer `encoded -> logits` of CTC, or None.
        simple_joint: layer `(encoded, predicted) -> terms of logits` for the pruned loss, or None.

    Source: Gulati et al., Conformer (2020); Graves, Sequence transduction (2012).
    """

    def __init__(
        self,
        features,
        augment,
        encoder,
        prediction,
        *,
        joint,
        ctc_head=None,
        simple_joint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.ctc_head = ctc_head
        self.simple_joint = simple_joint
        self.features = features
        self.augment = augment
        self.encoder = encoder
        self.prediction = prediction
        self.joint = joint

    @property
    def vocabulary_size(self) -> int:
        """Number of symbols V, including the blank."""
        return self.ctc_head.units if self.joint is None else self.joint.vocabulary_size

    def build(self, waveforms_shape=None):
        """Creates all variables. Their shapes do not depend on the inputs."""
        self.features.build((None, None))
        self.augment.build((None, None, self.features.num_mel_bins))
        self.encoder.build((None, None, self.features.num_mel_bins))
        if self.joint is not None:
            self.prediction.build((None, None))
            shapes = [(None, None, part.hidden_dim) for part in (self.encoder, self.prediction)]
            self.joint.build(*shapes)
            if self.simple_joint is not None:
                self.simple_joint.build(*shapes)
        if self.ctc_head is not None:
            self.ctc_head.build((None, None, self.encoder.hidden_dim))
        self.built = True

    def encode(self, features, lengths, training=False):
        """Encodes features.

        Args:
            features: `[B, T, F]`.
            lengths: `[B]` valid frames.
            training: see `call`.

        Returns:
            `[B, T', D]` encoded frames and `[B]` int32 numbers of valid ones.
        """
        return self.encoder(features, lengths, training=training)

    def predict(self, tokens, states=None):
        """Runs the prediction network. It replaces the method of this name of `keras.Model`.

        Args:
            tokens: `[B, U]` token ids.
            states: `[B, 2 L, P]` states of the L layers before the tokens; None at the start of an
                utterance.

        Returns:
            `[B, U, P]` outputs and the `[B, 2 L, P]` states after the last token.
        """
        return self.prediction(tokens, states)

    def join(self, encoded, predicted):
        """Computes float32 logits `[B, T, U, V]` from frames `[B, T, D]` and states `[B, U, P]`."""
        return self.joint(encoded, predicted)

    def call(self, waveforms, lengths, labels, uniforms=None, *, training=False):
        """Computes the logits of each frame and label position.

        Args:
            waveforms: `[B, S]` float32.
            lengths: `[B]` valid samples.
            labels: `[B, U]` token ids without blank.
            uniforms: `[B, augment.num_uniforms]` random numbers in `[0, 1)` for the augmentation;
                None turns it off.
            training: whether dropout and augmentation are active and batch norm uses the moments
                of the batch.

        Returns:
            `[B, T, U + 1, V]` float32 logits and `[B]` int32 valid encoded frames.
        """
        encoded, encoded_lengths = self.listen(waveforms, lengths, uniforms, training)
        return self.align(encoded, labels), encoded_lengths

    def listen(self, waveforms, lengths, uniforms=None, training=False):
        """Computes features of waveforms and encodes them.

        Args:
            waveforms: `[B, S]` float32.
            lengths: `[B]` valid samples.
            uniforms: see `call`.
            training: see `call`.

        Returns:
            `[B, T, D]` encoded frames and `[B]` int32 numbers of valid ones.
        """
        features, feature_lengths = self.features(waveforms, lengths)
        if training and uniforms is not None:
            features = self.augment(features, feature_lengths, uniforms)
        return self.encode(features, feature_lengths, training=training)

    def align(self, encoded, labels):
        """Computes logits `[B, T, U + 1, V]` from encoded `[B, T, D]` and labels `[B, U]`."""
        return self.join(encoded, self.predict_labels(labels))

    def predict_labels(self, labels):
        """Runs the prediction network on a blank and labels `[B, U]`; returns `[B, U + 1, P]`."""
        predicted, _ = self.predict(ops.pad(labels, [[0, 0], [1, 0]], constant_values=BLANK))
        return predicted


def build_model(config, vocabulary_size: int, precision: str = "float32") -> ConformerTransducer:
    """Returns a model with all its variables, initialized at random.

    Args:
        config: a `conformer.config.ConformerConfig`.
        vocabulary_size: number of symbols V, including the blank.
        precision: Keras dtype policy: `float32`, `mixed_float16` or `mixed_bfloat16`.
    """
    model = config.model
    policy = keras.DTypePolicy(precision)
    encoder = ConformerEncoder(
        num_layers=model.num_layers,
        hidden_dim=model.hidden_dim,
        num_heads=model.num_heads,
        feedforward_dim=model.feedforward_dim or model.feedforward_multiplier * model.hidden_dim,
        kernel_size=model.kernel_size,
        subsampling_filters=model.subsampling_filters or model.hidden_dim,
        dropout_rate=model.dropout_rate,
        subsampling_factor=model.subsampling_factor,
        depthwise_subsampling=model.subsampling == "dw_striding",
        scale_input=model.scale_input,
        attention_bias=model.attention_bias,
        feedforward_bias=model.feedforward_bias,
        convolution_bias=model.convolution_bias,
        convolution_norm=model.convolution_norm,
        convolution_norm_epsilon=model.convolution_norm_epsilon,
        dtype=policy,
        name="encoder",
    )
    prediction, joint = _transducer(model, vocabulary_size, policy)
    transducer = ConformerTransducer(
        features=LogMelSpectrogram(**_arguments(config.features), name="features"),
        augment=SpecAugment(**_arguments(config.spec_augment), name="augment"),
        encoder=encoder,
        prediction=prediction,
        joint=joint,
        ctc_head=keras.layers.Dense(vocabulary_size, dtype="float32", name="ctc_head")
        if model.ctc_weight > 0
        else None,
        simple_joint=SimpleJoint(vocabulary_size, name="simple_joint")
        if config.loss.kind == "pruned"
        else None,
        dtype=policy,
        name="conformer",
    )
    transducer.build()
    return transducer


def _arguments(section) -> dict:
    return {name: getattr(section, name) for name in type(section).__dataclass_fields__}


def _transducer(
    model, vocabulary_size: int, policy
) -> tuple[PredictionNetwork | StatelessPrediction | None, JointNetwork | None]:
    """Returns the prediction network and the joint network, or None for each without them."""
    if not model.transducer:
        return None, None
    sizes = {"vocabulary_size": vocabulary_size, "hidden_dim": model.prediction_dim}
    common = {"dtype": policy, "name": "prediction"}
    if model.prediction == "stateless":
        prediction = StatelessPrediction(**sizes, **common)
    else:
        prediction = PredictionNetwork(
            **sizes,
            num_layers=model.prediction_layers,
            use_norm=model.prediction_norm,
            **common,
        )
    joint = JointNetwork(
        model.joint_dim,
        vocabulary_size,
        activation=model.joint_activation,
        predicted_bias=model.joint_prediction_bias,
        num_durations=len(model.durations),
        dtype=policy,
        name="joint",
    )
    return prediction, joint
