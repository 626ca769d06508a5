"""Fine-tuning of wav2vec 2.0 as a training task: corpus, vocabulary, model, CTC and evaluation."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tools.config.loader import to_yaml
from tools.errors import UserError
from tools.recognition.task import SpeechTask
from tools.recognition.training_data import TrainingSet
from tools.speech.corpus import Utterance
from tools.speech.ctc import ctc_loss
from tools.speech.transcripts import normalize_transcript
from tools.training.checkpoint import Checkpoint
from tools.training.distributed import Processes, from_first_rank
from tools.training.task import LossSums
from wav2vec2.checkpoint import CONFIG_FILE, Origin, load_weights, read_origin
from wav2vec2.config import Wav2Vec2Config
from wav2vec2.input_pipeline import character_ids, frames_needed, label_lookup
from wav2vec2.model import build_model
from wav2vec2.signatures import best_path_text, frame_logits, normalized
from wav2vec2.vocabulary import Vocabulary, load_vocabulary, vocabulary_of_letters

_MOST_UNKNOWN = 0.5  # share of the letters above which transcripts and vocabulary do not belong


class Wav2Vec2Task(SpeechTask):
    """Implements `tools.training.task.Task`.

    Args:
        config: of the run.
        processes: rank 0 reads corpora, vocabulary and weights, the others wait for it.
        pretrained: Hugging Face folder, run or checkpoint to start from; empty: initial weights.
        resumed: the checkpoint of this run that continues; its vocabulary stays in force.
        needs_evaluation: False leaves the evaluation set unread.

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
        self._ids = self._known_characters(utterances)
        training_set = TrainingSet(
            self._learnable(utterances), label_lookup(self._ids), self.prepare
        )
        self.train_on(training_set, config.training.seed)
        keras.utils.set_random_seed(config.training.seed)
        self.model = build_model(model, config.training.precision)
        if origin is not None and resumed is None:
            same = self.vocabulary == origin.vocabulary
            fresh = from_first_rank(processes, lambda: load_weights(self.model, origin, not same))
            head = f", with a new head of {self.vocabulary_size} symbols" if fresh else ""
            self.report.append(f"weights and sizes of {origin.path}{head}")
        files = self.vocabulary.to_files()
        self.assets = {CONFIG_FILE: to_yaml(config)} | {
            name: json.dumps(content, ensure_ascii=False, indent=2) + "\n"
            for name, content in files.items()
        }
        if needs_evaluation:
            self.evaluate_splits(self.texts, normalize)

    def layer_depth(self, path: str) -> int:
        """Counts the layers below a variable: features and positions 0, the blocks, the head."""
        block = re.search(r"/encoder/block_(\d+)/", path)
        if block:
            return 1 + int(block[1])
        last = "/head/" in path or ("/encoder/norm/" in path and self.config.model.pre_norm)
        return 1 + self.config.model.num_layers if last else 0

    def loss(self, batch: Mapping[str, tf.Tensor], training: bool) -> LossSums:
        """Sums the CTC loss over the utterances of a batch; a masked row weighs nothing."""
        lengths, label_lengths = batch["lengths"], batch["label_lengths"]
        inside = tf.sequence_mask(lengths, tf.shape(batch["waveforms"])[1])
        x = normalized(batch["waveforms"], inside, self.config.preprocessing)
        logits = self.model(x, lengths, batch["uniforms"], training=training)
        frames = self.model.logit_lengths(lengths)
        losses, fits = ctc_loss(
            logits, batch["labels"], frames, label_lengths, blank=self.vocabulary.blank_id
        )
        heard = lengths > 0
        sums = {
            "weight": heard & fits,
            "dropped_share": (batch["index"] >= 0) & ~heard,
            # None but where a file has become shorter since its header was read.
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

    def example_logits(self, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Runs the model on a batch."""
        arguments = (batch["waveforms"], batch["lengths"])
        return frame_logits(self.model, self.config.preprocessing, *arguments)[0]

    def prepare(self, waveform: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Leaves the waveform as it is, and draws the random numbers of its masks."""
        longest = round(self.data.max_seconds * self.rate_hz)
        return waveform, tf.random.stateless_uniform([self.model.num_uniforms(longest)], seed)

    def texts(self, waveforms: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """Writes the best paths of waveforms `[B, S]` with lengths `[B]` as texts `[B]`."""
        logits, frames = frame_logits(self.model, self.config.preprocessing, waveforms, lengths)
        path = tf.argmax(logits, axis=-1, output_type=tf.int32)
        return best_path_text(path, frames, self.vocabulary)

    def _known_characters(self, utterances: Sequence[Utterance]) -> dict[str, int]:
        """Maps the characters of the transcripts to ids, and tells which the vocabulary lacks."""
        counts: dict[str, int] = {}
        for utterance in utterances:
            for character in utterance.transcript:
                counts[character] = counts.get(character, 0) + 1
        ids = character_ids(self.vocabulary, "".join(sorted(counts)))
        unknown = [x for x, number in ids.items() if number == self.vocabulary.unknown_id]
        if unknown:
            share = sum(counts[x] for x in unknown) / (sum(counts.values()) - counts.get(" ", 0))
            received = f"{share:.1%} of other characters: {' '.join(unknown[:40])}"
            if share > _MOST_UNKNOWN:
                raise UserError.expected(
                    f"transcripts in the {self.vocabulary_size} symbols of the vocabulary",
                    received,
                    "Set vocabulary.source: letters, or choose the weights of that language",
                )
            self.report.append(f"unknown to the vocabulary: {received}")
        return ids

    def _learnable(self, utterances: Sequence[Utterance]) -> list[Utterance]:
        """Leaves out transcripts too long for the configuration or for their sound."""
        labels = np.array([len(u.transcript) for u in utterances])
        most = np.full(len(labels), self.data.max_labels)
        utterances = self.keep_fitting(utterances, labels, most)
        needed = np.array([frames_needed(u.transcript, self._ids) for u in utterances])
        frames = np.array([self.config.model.num_frames(u.num_samples) for u in utterances])
        return self.keep_fitting(utterances, needed, frames, "too_few_frames")


def _sources(
    config: Wav2Vec2Config, source: str, resumed: bool
) -> tuple[Origin | None, Vocabulary | None]:
    """The weights to start from, and the vocabulary where it is known before the corpus is."""
    origin = read_origin(source) if source else None
    wanted = load_vocabulary(config.vocabulary.folder) if config.vocabulary.folder else None
    if resumed:
        if wanted not in (None, origin.vocabulary):
            raise UserError.expected(
                f"the vocabulary of {origin.path} ({len(origin.vocabulary)} symbols)",
                f"{config.vocabulary.folder} ({len(wanted)} symbols)",
                "Leave vocabulary.folder out, or start anew with --pretrained",
            )
        return origin, origin.vocabulary
    if wanted is None and origin is not None and config.vocabulary.source == "pretrained":
        wanted = origin.vocabulary
    return origin, wanted
