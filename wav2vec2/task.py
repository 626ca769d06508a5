"""Training task for fine-tuning wav2vec 2.0: corpus, vocabulary, model, CTC loss, evaluation."""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tools.config.loader import to_yaml
from tools.errors import UserError
from tools.files import to_json
from tools.recognition.task import SpeechTask
from tools.recognition.training_data import TrainingSet, prepare
from tools.recognition.trial import Objective
from tools.speech.corpus import Utterance
from tools.speech.ctc import ctc_loss
from tools.speech.transcripts import normalize_transcript
from tools.training.checkpoint import Checkpoint
from tools.training.distributed import Processes, from_first_rank
from tools.training.task import LossSums
from wav2vec2.checkpoint import CONFIG_FILE, Origin, load_weights, read_origin
from wav2vec2.config import Wav2Vec2Config
from wav2vec2.input_pipeline import frames_needed, label_lookup, label_pieces
from wav2vec2.model import Wav2Vec2, build_model
from wav2vec2.signatures import best_path_text, frame_logits, normalized
from wav2vec2.vocabulary import Vocabulary, vocabulary_of_letters
from wav2vec2.vocabulary_files import load_vocabulary, vocabulary_files


def loss_sums(
    model: Wav2Vec2, config: Wav2Vec2Config, batch: Mapping, training: bool, *, blank: int
) -> LossSums:
    """Sums the CTC losses of the utterances of a batch; see `Wav2Vec2Task.loss`."""
    lengths, label_lengths = batch["lengths"], batch["label_lengths"]
    inside = tf.sequence_mask(lengths, tf.shape(batch["waveforms"])[1])
    x = normalized(batch["waveforms"], inside, config.preprocessing)
    logits = model(x, lengths, batch["uniforms"], training=training)
    frames = model.logit_lengths(lengths)
    losses, fits = ctc_loss(logits, batch["labels"], frames, label_lengths, blank=blank)
    heard = lengths > 0
    sums = {
        "weight": heard & fits,
        "dropped_share": (batch["index"] >= 0) & ~heard,
        # 0, unless a file has become shorter after its header was read.
        "too_short_share": heard & ~fits,
    }
    sums = {name: tf.reduce_sum(tf.cast(rows, tf.float32)) for name, rows in sums.items()}
    labels = tf.cast(tf.reduce_sum(label_lengths), tf.float32)
    return LossSums(
        tf.reduce_sum(losses),
        sums.pop("weight"),
        losses,
        {"labels_per_utterance": labels, **sums},
    )


def make_objective(config: Wav2Vec2Config, vocabulary_size: int) -> Objective:
    """Returns a new model and its loss, for trials without data."""
    sizes = dataclasses.replace(config.model, vocabulary_size=vocabulary_size)
    model = build_model(sizes, config.training.precision)
    return Objective(
        model,
        functools.partial(loss_sums, model, config, blank=0),
        model.encoder.blocks,
        model.num_uniforms,
    )


class Wav2Vec2Task(SpeechTask):
    """Training task of wav2vec 2.0; implements `tools.training.task.Task`.

    Args:
        config: configuration of the run.
        processes: the processes of the run. Rank 0 reads corpora, vocabulary and weights, the
            other ranks wait for it.
        pretrained: Hugging Face folder, run or checkpoint whose weights training starts with;
            empty: initial weights.
        resumed: checkpoint from which the run continues, or None. Its vocabulary is used.
        needs_evaluation: whether to read the evaluation set.

    Raises:
        UserError: the corpus, the vocabulary or the weights do not fit the configuration.

    Source: Baevski et al., wav2vec 2.0 (2020), section 4.3.
    """

    def __init__(
        self,
        config: Wav2Vec2Config,
        processes: Processes,
        pretrained: str = "",
        resumed: Checkpoint | None = None,
        *,
        needs_evaluation: bool = True,
    ):
        source = pretrained if resumed is None else resumed.path
        origin, vocabulary = from_first_rank(
            processes, lambda: _sources(config, source, resumed is not None)
        )
        if origin is not None:
            config = origin.adopted_by(config)
        super().__init__(config.data, config.preprocessing.sample_rate_hz, processes)
        normalize = normalize_transcript if vocabulary is None else vocabulary.normalize
        utterances = self.read_training_set(normalize)
        self.vocabulary = vocabulary or vocabulary_of_letters(u.transcript for u in utterances)
        self.vocabulary_size = len(self.vocabulary)
        model = dataclasses.replace(config.model, vocabulary_size=self.vocabulary_size)
        self.config = config = dataclasses.replace(config, model=model)
        self.check_characters(
            utterances,
            self.vocabulary.unknown_characters,
            "Set vocabulary.source: letters, select weights for this language, or raise "
            "data.max_unknown_share",
            # Without an unknown symbol, a transcript with unknown characters has no labels.
            most=0.0 if self.vocabulary.unknown_id is None else None,
        )
        utterances = self._learnable(utterances)
        pieces = label_pieces(self.vocabulary, (u.transcript for u in utterances))
        keras.utils.set_random_seed(config.training.seed)
        self.model = build_model(model, config.training.precision)
        longest = config.waveform_augment.longest_seconds(config.data.max_seconds) * self.rate_hz
        augment = self.augmentation(config.waveform_augment)
        prepared = functools.partial(
            prepare, augment=augment, num_uniforms=self.model.num_uniforms(math.ceil(longest))
        )
        training_set = TrainingSet(
            utterances, label_lookup(pieces), prepared, augment.added_samples
        )
        self.train_on(training_set, config.training.seed)
        if origin is not None and resumed is None:
            same = self.vocabulary == origin.vocabulary
            fresh = from_first_rank(processes, lambda: load_weights(self.model, origin, not same))
            head = f", with a new head of {self.vocabulary_size} symbols" if fresh else ""
            self.report.append(f"weights and sizes of {origin.path}{head}")
        files = vocabulary_files(self.vocabulary)
        self.assets = {CONFIG_FILE: to_yaml(config)} | {
            name: to_json(content, ensure_ascii=False, indent=2) + "\n"
            for name, content in files.items()
        }
        if needs_evaluation:
            self.evaluate_splits(self.texts, normalize, self.vocabulary.unknown_characters)

    @property
    def blocks(self) -> list[keras.Layer]:
        """The blocks of the encoder, for `training.rematerialize`."""
        return self.model.encoder.blocks

    def layer_depth(self, path: str) -> int:
        """Returns the depth of a variable, for learning rates that depend on depth.

        Feature encoder and positional convolution have depth 0, then the blocks follow, then the
        head.
        """
        block = re.search(r"/encoder/block_(\d+)/", path)
        if block:
            return 1 + int(block[1])
        last = "/head/" in path or ("/encoder/norm/" in path and self.config.model.pre_norm)
        return 1 + self.config.model.num_layers if last else 0

    def loss(self, batch: Mapping[str, tf.Tensor], training: bool) -> LossSums:
        """Sums the CTC losses of the utterances of a batch. Rows of length 0 have weight 0."""
        blank = self.vocabulary.blank_id
        return loss_sums(self.model, self.config, batch, training, blank=blank)

    def example_logits(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the logits `[B, T, V]` of a batch."""
        arguments = (batch["waveforms"], batch["lengths"])
        return frame_logits(self.model, self.config.preprocessing, *arguments)[0]

    def texts(self, waveforms: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Returns the texts `[B]` of waveforms `[B, S]` with lengths `[B]`, by greedy search."""
        logits, frames = frame_logits(self.model, self.config.preprocessing, waveforms, lengths)
        path = tf.argmax(logits, axis=-1, output_type=tf.int32)
        return best_path_text(path, frames, self.vocabulary)

    def _learnable(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Leaves out transcripts with more labels than the configuration or the sound allows."""
        labels = [self.vocabulary.ids(u.transcript) for u in utterances]
        counts = np.array([*map(len, labels)])
        needed = np.array([*map(frames_needed, labels)])
        most = np.full(len(labels), self.data.max_labels)
        fits = counts <= most
        utterances = self.keep_fitting(utterances, counts, most)
        fastest = 1.0 + self.config.waveform_augment.max_speed_change
        shortest = [int(u.num_samples / fastest) for u in utterances]
        frames = np.array([self.config.model.num_frames(samples) for samples in shortest])
        return self.keep_fitting(utterances, needed[fits], frames, "too_few_frames")


def _sources(
    config: Wav2Vec2Config, source: str, resumed: bool
) -> tuple[Origin | None, Vocabulary | None]:
    """Returns the origin of the weights, and the vocabulary if it does not depend on the corpus."""
    origin = read_origin(source) if source else None
    wanted = load_vocabulary(config.vocabulary.folder) if config.vocabulary.folder else None
    if resumed:
        if wanted not in (None, origin.vocabulary):
            raise UserError.expected(
                f"the vocabulary of {origin.path} ({len(origin.vocabulary)} symbols)",
                f"a different one in {config.vocabulary.folder} ({len(wanted)} symbols)",
                "Leave vocabulary.folder out, or start a new run with --pretrained",
            )
        return origin, origin.vocabulary
    if wanted is None and origin is not None and config.vocabulary.source == "pretrained":
        wanted = origin.vocabulary
    return origin, wanted
