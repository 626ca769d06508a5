"""The defaults of the speech Conformer's config: Conformer-S as the paper trains it."""

import dataclasses

import conformer
from tests.support.errors import refused


def test_defaults_are_the_smallest_model_of_the_paper():
    """Gulati et al., Conformer (2020), table 1 and section 3.2."""
    model = conformer.load_config().model
    assert (model.num_layers, model.hidden_dim, model.num_heads) == (16, 144, 4)
    assert (model.kernel_size, model.feedforward_multiplier) == (32, 4)
    assert (model.prediction_dim, model.joint_dim, model.dropout_rate) == (320, 320, 0.1)
    assert (model.subsampling_filters, model.ctc_weight) == (None, 0.0)
    assert (model.subsampling_factor, model.subsampling, model.scale_input) == (
        4,
        "striding",
        False,
    )
    assert (model.attention_bias, model.feedforward_bias, model.convolution_bias) == (
        "output",
        True,
        True,
    )
    assert (model.convolution_norm, model.convolution_norm_epsilon) == ("batch", 1e-3)
    assert (model.prediction_layers, model.prediction_norm) == (1, True)
    assert (model.joint_activation, model.joint_prediction_bias) == ("tanh", False)
    assert (model.feedforward_dim, model.transducer, model.durations) == (None, True, ())


def test_defaults_of_features_and_masks():
    """The values are those of the original's config.yml; SpecAugment: also paper, section 3.2."""
    config = conformer.load_config()
    features = dataclasses.asdict(config.features)
    assert features == {
        "sample_rate_hz": 16000,
        "frame_length_ms": 25.0,
        "frame_step_ms": 10.0,
        "fft_length": 512,
        "num_mel_bins": 80,
        "min_hz": 0.0,
        "max_hz": None,
        "preemphasis": 0.97,
        "top_db": 80.0,
        "extractor": "librosa",
        "normalization": "utterance",
        "loud_frames_db": 35.0,
        "start_offset_db": 35.0,  # the three of the digits' training set
        "start_deviation_db": 13.0,
        "start_frames": 20.0,
        "remove_dc_offset": False,
    }
    assert dataclasses.asdict(config.spec_augment) == {
        "num_time_masks": 10,
        "max_time_mask_frames": 100,
        "max_time_mask_share": 0.05,
        "num_frequency_masks": 1,
        "max_frequency_mask_bins": 27,
    }
    changes = dataclasses.asdict(config.waveform_augment)
    off = {x for x in changes if x.endswith(("_probability", "_share", "_dirs", "_change"))}
    off |= {"min_gain_db", "max_gain_db", "max_dc_offset"}
    assert changes.pop("impulse_response_probability") == 0.5, "of folders, which there are none of"
    assert not any(changes.get(name) for name in off)


def test_defaults_of_training():
    """Adam as in the paper; batch sizes and limits as README and the configs assume."""
    config = conformer.load_config()
    optimizer, training = config.training.optimizer, config.training
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.98, 1e-9)
    assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("adamw", 0.9, 0.0)
    assert optimizer.clip_norm is optimizer.average_decay is optimizer.layer_decay is None
    schedule = training.schedule
    assert (schedule.name, schedule.warmup_initial, schedule.final) == ("transformer", 0.0, 0.0)
    assert (training.best_metric, training.larger_is_better) == ("eval/wer", False)
    assert (training.precision, training.on_non_finite) == ("float32", "stop")
    assert (training.loss_scale.mode, training.loss_scale.initial) == ("dynamic", 4.0)
    assert training.loss_scale.growth_steps == 2000
    kept = training.checkpoint
    assert (kept.keep_last, kept.keep_best, kept.every_steps, kept.every_seconds) == (3, 1, 0, 0.0)
    assert not training.synchronize_batch_norm and not training.evaluate_unaveraged
    data = config.data
    assert (data.min_seconds, data.max_seconds, data.max_eval_seconds) == (0.1, 20.0, 60.0)
    assert (data.data_dir, data.synthesize) == ("", False)
    assert (data.max_labels, data.train_splits, data.eval_splits) == (
        400,
        ("train-clean-100",),
        ("dev-clean",),
    )
    assert (config.decoding.max_symbols_per_frame, config.tokenizer.kind) == (5, "characters")
    assert config.tokenizer.language == ""


def test_decoding_requires_the_head_that_it_decodes():
    assert conformer.load_config().decoding.head == "transducer"
    with refused("decoding.head: transducer for a model without a CTC head"):
        conformer.load_config(None, {"decoding.head": "ctc"})
    config = conformer.load_config(None, {"decoding.head": "ctc", "model.ctc_weight": 0.3})
    assert config.decoding.head == "ctc"
    with refused("decoding.blank_penalty: 0 with decoding.head: ctc"):
        changes = {"decoding.head": "ctc", "model.ctc_weight": 0.3, "decoding.blank_penalty": 1.0}
        conformer.load_config(None, changes)
    with refused("decoding.head"):
        conformer.load_config(None, {"decoding.head": "attention"})


def test_the_pruned_loss_and_its_limits():
    config = conformer.load_config()
    assert config.loss.kind == "plain"
    pruning = config.loss.pruning
    assert (pruning.s_range, pruning.simple_scale, pruning.warmup_steps) == (5, 0.5, 2000)
    assert config.training.accumulate_steps == 1
    assert (config.training.rematerialize, config.model.prediction) == ("none", "lstm")
    assert conformer.load_config(None, {"loss.kind": "pruned"}).loss.kind == "pruned"
    for key, value in (
        ("loss.pruning.s_range", 0),
        ("loss.pruning.s_range", 1),
        ("loss.pruning.simple_scale", 1.5),
        ("loss.pruning.warmup_steps", -1),
        ("loss.kind", "prune"),
        ("training.accumulate_steps", 0),
        ("training.rematerialize", "all"),
        ("model.prediction", "gru"),
    ):
        with refused(key):
            conformer.load_config(None, {key: value})


def test_options_that_contradict_each_other_are_refused():
    only_ctc = {"model.transducer": False, "model.ctc_weight": 1.0}
    with refused("decoding.head: ctc for a model with model.transducer: false"):
        conformer.load_config(None, only_ctc)
    assert not conformer.load_config(None, {**only_ctc, "decoding.head": "ctc"}).model.transducer
    ctc = {**only_ctc, "decoding.head": "ctc"}
    for kinds, other in (
        (["fused"], {"model.joint_activation": "relu"}),
        (["fused", "pruned"], {"model.durations": (0, 1)}),
        (["fused", "pruned"], ctc),
    ):
        conformer.load_config(None, other)
        for kind in kinds:
            with refused("loss.kind: plain"):
                conformer.load_config(None, {**other, "loss.kind": kind})
    conformer.load_config(None, {"model.joint_activation": "relu", "loss.kind": "pruned"})
    assert conformer.load_config().loss.sigma == 0.0
    for features in (
        {"features.extractor": "nemo"},
        {"features.normalization": "per_bin"},
        {"features.normalization": "none"},
    ):
        with refused("features.normalization: per_bin or none with features.extractor: nemo"):
            conformer.load_config(None, features)
