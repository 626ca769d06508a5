"""Training task of the speech Conformer: corpus, vocabulary, model, loss and evaluation."""

import functools
import re
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from conformer.checkpoint import CONFIG_FILE, VOCABULARY_FILE, load_weights
from conformer.config import ConformerConfig
from conformer.graph_recognition import greedy
from conformer.keras2_weights import load_keras2_weights
from conformer.model import BLANK, ConformerTransducer, build_model
from conformer.pruned_loss import pruned_transducer_loss, scales
from conformer.published import Published
from conformer.tdt_loss import tdt_loss
from conformer.tokenizer import (
    CharacterTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    load_tokenizer,
    tokenizer_from_json,
)
from conformer.transducer_loss import loss_of_pieces
from tools.config.loader import to_yaml
from tools.decoding.graph import detokenize
from tools.errors import UserError
from tools.layers.batch_norm import BatchNormalization
from tools.recognition.task import SpeechTask
from tools.recognition.training_data import TrainingSet, prepare
from tools.recognition.trial import Objective
from tools.speech.corpus import Utterance
from tools.speech.ctc import ctc_loss
from tools.speech.transcripts import normalize_transcript
from tools.training.checkpoint import Checkpoint
from tools.training.distributed import Processes, from_first_rank
from tools.training.task import LossSums


def losses_of_utterances(
    model: ConformerTransducer,
    config: ConformerConfig,
    batch: Mapping[str, tf.Tensor],
    training: bool,
) -> tf.Tensor:
    """Returns the losses `[B]` of a batch in nats: transducer, and CTC where the model has a head.

    A model with durations has the loss of a token-and-duration transducer, and a model without a
    transducer that of CTC alone.

    Args:
        model: a built model.
        config: its configuration.
        batch: `waveforms` `[B, S]`, `lengths` `[B]`, `labels` `[B, U]`, `label_lengths` `[B]`,
            `uniforms` `[B, model.augment.num_uniforms]` and, for the pruned loss, the scalar
            `num_updates`.
        training: see `ConformerTransducer.call`.
    """
    labels, label_lengths = batch["labels"], batch["label_lengths"]
    encoded, lengths = model.listen(
        batch["waveforms"], batch["lengths"], batch["uniforms"], training
    )
    weight = config.model.ctc_weight
    if model.joint is None:
        return ctc_loss(model.ctc_head(encoded), labels, lengths, label_lengths, blank=BLANK)[0]
    predicted, kind, pruning = model.predict_labels(labels), config.loss.kind, config.loss.pruning
    counts = {"logit_lengths": lengths, "label_lengths": label_lengths, "blank": BLANK}
    if config.model.durations:
        losses = tdt_loss(
            model.join(encoded, predicted),
            labels,
            lengths,
            label_lengths,
            durations=config.model.durations,
            blank=BLANK,
            sigma=config.loss.sigma,
        )
    elif kind == "pruned":
        joints = (model.joint, model.simple_joint)
        simple, pruned = pruned_transducer_loss(
            encoded, predicted, joints, labels, s_range=pruning.s_range, **counts
        )
        simple_scale, pruned_scale = scales(
            batch["num_updates"], pruning.simple_scale, pruning.warmup_steps
        )
        losses = simple_scale * simple + pruned_scale * pruned
    else:
        losses = loss_of_pieces(encoded, predicted, model.joint, labels, kind=kind, **counts)
    if weight > 0:
        logits = model.ctc_head(encoded)
        aligned, _ = ctc_loss(logits, labels, lengths, label_lengths, blank=BLANK)
        losses = (1.0 - weight) * losses + weight * aligned
    return losses


def loss_sums(
    model: ConformerTransducer,
    config: ConformerConfig,
    batch: Mapping[str, tf.Tensor],
    training: bool,
) -> LossSums:
    """Sums the losses of the utterances of a batch; see `losses_of_utterances`.

    Rows of length 0 have weight 0. The batch also has the `index` `[B]` of each utterance, -1 for
    a masked row.
    """
    losses = losses_of_utterances(model, config, batch, training)
    counts = tf.cast(batch["lengths"] > 0, tf.float32)
    dropped = tf.cast((batch["index"] >= 0) & (batch["lengths"] == 0), tf.float32)
    return LossSums(
        tf.reduce_sum(losses),
        tf.reduce_sum(counts),
        losses,
        {
            "labels_per_utterance": tf.cast(tf.reduce_sum(batch["label_lengths"]), tf.float32),
            "dropped_share": tf.reduce_sum(dropped),
        },
    )


def make_objective(config: ConformerConfig, vocabulary_size: int) -> Objective:
    """Returns a new model and its loss, for trials without data."""
    model = build_model(config, vocabulary_size, config.training.precision)
    return Objective(
        model,
        functools.partial(loss_sums, model, config),
        model.encoder.blocks,
        lambda num_samples: model.augment.num_uniforms,
    )


class ConformerTask(SpeechTask):
    """Training task of the Conformer; implements `tools.training.task.Task`.

    Args:
        config: configuration of the run.
        processes: the processes of the run. Rank 0 reads the corpora and builds the vocabulary,
            the other ranks wait for it.
        pretrained: checkpoint, or published model, whose vocabulary and weights training starts
            with; None for random weights. The architecture and the features of a published model
            replace those of `config`. With tokenizer.vocabulary_file, the layers of the vocabulary
            of a published model start at random.
        resumed: checkpoint from which the run continues, or None. Its vocabulary is used.
        keras2_weights: file of TensorFlowASR with which training starts instead; empty for none.
        needs_evaluation: whether to read the evaluation set.

    Raises:
        UserError: the corpus, the vocabulary or the checkpoint does not fit the configuration.
    """

    def __init__(
        self,
        config: ConformerConfig,
        processes: Processes,
        pretrained: Checkpoint | Published | None = None,
        resumed: Checkpoint | None = None,
        *,
        keras2_weights: str = "",
        needs_evaluation: bool = True,
    ):
        published = pretrained if isinstance(pretrained, Published) else None
        if published is not None:
            config = published.training_config(config)
        super().__init__(config.data, config.features.sample_rate_hz, processes)
        self.config = config
        known = functools.cache(lambda: self._known_vocabulary(resumed or pretrained))

        def normalize(transcript: str) -> str:  # called on rank 0, which reads the corpus
            tokenizer = known()
            return (normalize_transcript if tokenizer is None else tokenizer.normalize)(transcript)

        utterances = self.read_training_set(normalize)
        self.tokenizer = tokenizer_from_json(
            from_first_rank(processes, lambda: (known() or self._built(utterances)).to_json())
        )
        self.vocabulary_size = self.tokenizer.vocabulary_size
        remedy = (
            "Leave --pretrained and tokenizer.vocabulary_file out to build a vocabulary from these "
            "transcripts, or raise data.max_unknown_share"
        )
        converts = self.tokenizer.normalize("a") == "A"
        if converts and any(text != text.upper() for text in self.tokenizer.surfaces):
            remedy = (
                "Transcripts are converted to upper case, and this vocabulary has lower-case "
                "letters. " + remedy
            )
        unknown = self.tokenizer.unknown_characters
        self.check_characters(utterances, unknown, remedy, most=None)
        utterances = self._learnable(utterances)
        keras.utils.set_random_seed(config.training.seed)
        self.model = build_model(config, self.tokenizer.vocabulary_size, config.training.precision)
        augment = self.augmentation(config.waveform_augment)
        prepared = functools.partial(
            prepare, augment=augment, num_uniforms=self.model.augment.num_uniforms
        )
        training_set = TrainingSet(
            utterances, self.tokenizer.encode_in_graph, prepared, augment.added_samples
        )
        self.train_on(training_set, config.training.seed)
        if published is not None:
            published.load_into(self.model, new_vocabulary=bool(config.tokenizer.vocabulary_file))
        elif pretrained is not None:
            load_weights(self.model, pretrained, may_lack_heads=True)
        if keras2_weights and resumed is None:
            load_keras2_weights(self.model, keras2_weights)
        if config.training.synchronize_batch_norm and processes.size > 1:
            for layer in self.model._flatten_layers():
                if isinstance(layer, BatchNormalization):
                    layer.sum_over_ranks = lambda sums: processes.sum([sums])[0]
        self.assets = {VOCABULARY_FILE: self.tokenizer.to_json(), CONFIG_FILE: to_yaml(config)}
        if needs_evaluation:
            self.evaluate_splits(self.texts, self.tokenizer.normalize, unknown)

    @property
    def blocks(self) -> list[keras.Layer]:
        """The blocks of the encoder, for `training.rematerialize`."""
        return self.model.encoder.blocks

    def layer_depth(self, path: str) -> int:
        """Returns the depth of a variable, for learning rates that depend on depth.

        The subsampling has depth 0, block i depth i + 1, everything after the encoder
        `num_layers + 1`.
        """
        block = re.search(r"/encoder/block_(\d+)/", path)
        if block:
            return 1 + int(block[1])
        return 0 if "/encoder/" in path else 1 + self.config.model.num_layers

    def loss(self, batch: Mapping[str, tf.Tensor], training: bool) -> LossSums:
        """Sums the losses of the utterances of a batch. Rows of length 0 have weight 0."""
        return loss_sums(self.model, self.config, batch, training)

    def example_logits(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the logits `[B, T, U + 1, V]` of a batch."""
        return self.model(batch["waveforms"], batch["lengths"], batch["labels"])[0]

    def _known_vocabulary(self, source: Checkpoint | Published | None) -> Tokenizer | None:
        """Returns the vocabulary of a checkpoint or of a file, or None if one is to be built."""
        config = self.config.tokenizer
        file = load_tokenizer(config.vocabulary_file) if config.vocabulary_file else None
        if source is None:
            return file
        if isinstance(source, Published):
            return file or source.tokenizer
        tokenizer = tokenizer_from_json(source.asset(VOCABULARY_FILE), source.path)
        if file is not None and file.to_json() != tokenizer.to_json():
            raise UserError.expected(
                f"the vocabulary of {source.path} ({tokenizer.vocabulary_size} symbols)",
                f"a different one in {config.vocabulary_file} ({file.vocabulary_size} symbols)",
                "Leave tokenizer.vocabulary_file out, or train without that checkpoint",
            )
        return tokenizer

    def _built(self, utterances: list[Utterance]) -> Tokenizer:
        """Returns a vocabulary that is built from transcripts."""
        config, transcripts = self.config.tokenizer, [u.transcript for u in utterances]
        if config.kind == "characters":
            return CharacterTokenizer.from_transcripts(transcripts)
        return SentencePieceTokenizer.train(transcripts, config.vocabulary_size)

    def _learnable(self, utterances: list[Utterance]) -> list[Utterance]:
        """Leaves out transcripts with more labels than the configuration or the sound allows."""
        config = self.config
        counts = self.tokenizer.count_labels([u.transcript for u in utterances])
        step_samples = config.features.frame_step_ms * config.features.sample_rate_hz / 1000
        frames = np.array([u.num_samples for u in utterances]) / step_samples
        frames = frames / config.model.subsampling_factor
        decoding = config.decoding
        per_frame = 1 if decoding.head == "ctc" else decoding.max_symbols_per_frame
        most = np.minimum(config.data.max_labels, frames * per_frame)
        if config.loss.kind == "pruned":
            self._check_s_range(counts, frames)
            s_range = config.loss.pruning.s_range
            shortest = frames / (1.0 + config.waveform_augment.max_speed_change)
            most = np.minimum(most, shortest * (s_range - 1))
        return self.keep_fitting(utterances, counts, most)

    def _check_s_range(self, counts: np.ndarray, frames: np.ndarray) -> None:
        """Checks that the transcripts fit the pruned loss.

        Args:
            counts: `[N]` labels of each transcript.
            frames: `[N]` encoder frames of each utterance.

        Raises:
            UserError: every utterance has more labels than the states of its frames allow, or no
                transcript has as many states as s_range.
        """
        s_range = self.config.loss.pruning.s_range
        if s_range > max(counts) + 1:
            raise UserError.expected(
                f"loss.pruning.s_range up to {max(counts) + 1}, the labels of the longest "
                "transcript + 1",
                s_range,
                "Lower it, or set loss.kind: fused",
            )
        if np.all(counts > frames * (s_range - 1)):
            raise UserError.expected(
                f"transcripts with at most {s_range - 1} labels per encoder frame, which "
                f"loss.pruning.s_range {s_range} allows",
                f"more in all {len(counts)}",
                "Raise loss.pruning.s_range, or set loss.kind: fused",
            )

    def texts(self, waveforms: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Returns the texts `[B]` of waveforms `[B, S]` with lengths `[B]`, by greedy search."""
        durations = self.config.model.durations
        hypotheses = greedy(
            self.model, waveforms, lengths, self.config.decoding, durations=durations
        )
        return detokenize(hypotheses, self.tokenizer.surfaces)
