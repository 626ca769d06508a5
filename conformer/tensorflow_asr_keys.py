"""Keys of TensorFlowASR's `config.yml`: what each becomes here, or the reason why it has no effect.

Source: TensorFlowASR 0.8.3 to 1.0.4, configs/config.py and models/transducer/conformer.py.
"""

from dataclasses import dataclass

# Reasons why a key has no effect.
_NAMES = "names without an effect on the model"
CHARACTERS = "the vocabulary is the characters of the training set, not a list of English ones"
_BUILDS = "vocabularies are built by python -m tools.cli.train_tokenizer"
_SEARCH = "training evaluates greedy search; for beams: python -m conformer.infer"
_POSITIONS = "positions are the relative ones of the paper, in both directions"
_PENALTY = "not part of the original's loss; training.optimizer.weight_decay is its counterpart"
_PIPELINE = "all data is read again in every epoch, in a new order, and no utterance is dropped"
_SHARDS = "python -m tools.cli.unpack_tfrecords makes a corpus of shards"
TEST = "python -m conformer.infer --data_dir TABLE evaluates an exported model"
SIGNAL = "the section waveform_augment has its own augmentations"
_RUN = "checkpoints, metrics and TensorBoard files are in --output_dir"
ALWAYS = "SpecAugment masks every utterance"
_FITS = "training needs no lengths in advance"
UNKNOWN = "not a key that this project knows"

# Reasons why another value of a key would be another model.
_FEATURES = "the features are log-mel spectrograms alone"
_NORMALIZED = "each feature is normalized over the utterance"
_PREDICTION = "the prediction network is an embedding, LSTM layers and layer normalization"
_JOINT = "the joint network is an activation of the sum of both projections, and a linear layer"
_CONVOLUTIONS = "the subsampling is two convolutions of 3 x 3 with stride 2"


@dataclass(frozen=True, slots=True)
class To:
    """A key whose value becomes that of another key. `default` is TensorFlowASR's default."""

    key: str
    default: object = None


@dataclass(frozen=True, slots=True)
class Only:
    """A key of which one value is supported, and the reason."""

    value: object
    reason: str


@dataclass(frozen=True, slots=True)
class Trained:
    """A key that is true if a layer is trained; false adds the layer to `training.freeze`."""

    layer: str


@dataclass(frozen=True, slots=True)
class Left:
    """A key without a counterpart, and the reason. `silent` are values that ask for nothing."""

    reason: str
    silent: tuple = (None,)


SPEECH = {
    "sample_rate": To("features.sample_rate_hz", 16000),
    "frame_ms": To("features.frame_length_ms", 25),
    "stride_ms": To("features.frame_step_ms", 10),
    "num_feature_bins": To("features.num_mel_bins", 80),
    "feature_type": Only("log_mel_spectrogram", _FEATURES),
    "normalize_signal": Only(True, "each waveform is scaled to a peak of 1"),
    "normalize_feature": Only(True, _NORMALIZED),
    "normalize_per_frame": Only(False, _NORMALIZED),
    "normalize_per_feature": Only(False, _NORMALIZED),
    "center": Only(True, "frames are centered on multiples of the step"),
    "top_db": To("features.top_db", 80.0),
    "delta": Only(False, _FEATURES),
    "delta_delta": Only(False, _FEATURES),
    "pitch": Only(False, _FEATURES),
}
DECODER = {
    "blank_at_zero": Only(True, "the blank is token 0"),
    "beam_width": To("decoding.beam_width", 0),
    "norm_score": To("decoding.norm_score", True),
    "lm_config": Left(f"{_SEARCH} --lm_path", (None, {})),
} | dict.fromkeys(
    "target_vocab_size max_subword_length corpus_files max_corpus_chars reserved_tokens "
    "output_path_prefix model_type".split(),
    Left(_BUILDS, (None, [])),
)
MODEL = {
    "name": Left(_NAMES),
    "encoder_positional_encoding": Left(_POSITIONS),
    "encoder_dmodel": To("model.hidden_dim", 144),
    "encoder_num_blocks": To("model.num_layers", 16),
    "encoder_num_heads": To("model.num_heads", 4),
    "encoder_mha_type": Only("relmha", "attention has relative positions"),
    "encoder_kernel_size": To("model.kernel_size", 32),
    "encoder_depth_multiplier": Only(1, "each channel has one depthwise kernel"),
    "encoder_fc_factor": Only(0.5, "feed-forward modules are half steps"),
    "encoder_dropout": To("model.dropout_rate", 0.0),
    "encoder_trainable": Trained("encoder"),
    "prediction_trainable": Trained("prediction"),
    "joint_trainable": Trained("joint"),
    "prediction_embed_dropout": Only(0, _PREDICTION),
    "prediction_num_rnns": To("model.prediction_layers", 1),
    "prediction_rnn_units": To("model.prediction_dim", 320),
    "prediction_rnn_type": Only("lstm", _PREDICTION),
    "prediction_rnn_implementation": Left(_NAMES),
    "prediction_layer_norm": To("model.prediction_norm", True),
    "prediction_projection_units": Only(0, _PREDICTION),
    "joint_dim": To("model.joint_dim", 1024),
    "joint_activation": To("model.joint_activation", "tanh"),
    "joint_mode": Only("add", _JOINT),
    "prejoint_linear": Only(True, _JOINT),
    "postjoint_linear": Only(False, _JOINT),
    "kernel_regularizer": Left(_PENALTY),
    "bias_regularizer": Left(_PENALTY),
}
SUBSAMPLING = {
    "type": Only("conv2d", _CONVOLUTIONS),
    "kernel_size": Only(3, _CONVOLUTIONS),
    "strides": Only(2, _CONVOLUTIONS),
}
DATASET = {
    "stage": Left(_NAMES),
    "tfrecords_dir": Left(_SHARDS),
    "tfrecords_shards": Left(_SHARDS),
    "metadata": Left(_FITS),
} | dict.fromkeys("shuffle cache drop_remainder buffer_size use_tf".split(), Left(_PIPELINE))
OPTIMIZER = {
    "warmup_steps": To("training.schedule.warmup_steps", 10000),
    "epsilon": To("training.optimizer.epsilon", 1e-9),
}
RUNNING = {
    "batch_size": To("training.batch_size", 1),
    "accumulation_steps": To("training.accumulate_steps", 1),
    "num_epochs": To("training.num_epochs", 20),
    "log_interval_steps": To("training.log_every_steps"),
    "save_interval_steps": To("training.checkpoint.every_steps"),
} | dict.fromkeys(
    "checkpoint states_dir tensorboard outdir eval_interval_steps".split(), Left(_RUN)
)
TIME_MASKS = {
    "num_masks": To("spec_augment.num_time_masks", 1),
    "mask_factor": To("spec_augment.max_time_mask_frames", 100),
    "p_upperbound": To("spec_augment.max_time_mask_share", 1.0),
}
FREQUENCY_MASKS = {
    "num_masks": To("spec_augment.num_frequency_masks", 1),
    "mask_factor": To("spec_augment.max_frequency_mask_bins", 27),
}
