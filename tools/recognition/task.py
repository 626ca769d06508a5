"""The part of training tasks that all recognizers share: reading of corpora, error rates."""

import functools
import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tools.errors import UserError
from tools.files import one_line
from tools.recognition.characters import Unknown, lacking_characters
from tools.recognition.training_data import TrainingSet, training_data
from tools.speech.audio import AudioLimits
from tools.speech.augmentation import WaveformAugmentation
from tools.speech.config import DataConfig, WaveformAugmentConfig
from tools.speech.corpus import Manifest, Utterance, read_corpus
from tools.speech.reading import evaluation_limits, read_batches, training_limits
from tools.speech.scoring import score
from tools.speech.sound_bank import read_bank
from tools.speech.transcripts import normalize_transcript
from tools.training.distributed import Processes, from_first_rank
from tools.training.resuming import data_digest
from tools.training.task import Position, Shard, TrainData

_LONGEST_SOUNDS = {"noise_dirs": math.inf, "impulse_response_dirs": 2.0}  # in seconds

# Function of waveforms `[B, S]` and lengths `[B]` that returns texts `[B]`; called in a graph.
Recognize = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_log = logging.getLogger(__name__)


class SpeechTask:
    """Base class for the training tasks of recognizers; see `tools.training.task.Task`.

    A family's task calls `train_on` and, unless evaluation is skipped, `evaluate_splits`. It
    implements the rest of the protocol, and `config`, `vocabulary_size` and `example_logits` for
    `--dry_run`.

    Args:
        data: section `data` of the config.
        rate_hz: sampling rate of the model.
        processes: processes of the run; rank 0 reads the corpora and sends them to the others.

    Attributes:
        training_set: argument of `train_on`.
        report: lines about the data, for the log.
        skipped: what training and evaluation skip, as `REASON<TAB>DETAIL`.
        evaluators: functions `() -> {metric: value}` by name.
        data_digest: hash of the training set.
    """

    def __init__(self, data: DataConfig, rate_hz: int, processes: Processes):
        self.data, self.rate_hz, self.processes = data, rate_hz, processes
        self.report: list[str] = []
        self.skipped: list[str] = []
        self._left_out: set[str] = set()  # files of evaluation that were warned about
        self.evaluators: dict[str, Callable[[], dict[str, float]]] = {}

    def read_training_set(self, normalize=normalize_transcript) -> list[Utterance]:
        """Reads the training splits.

        Args:
            normalize: function applied to every transcript.

        Raises:
            UserError: the corpus cannot be read.
        """
        limits = training_limits(self.data, self.rate_hz)
        return self._manifest(self.data.train_splits, limits, normalize).utterances

    def check_characters(
        self, utterances: Sequence[Utterance], unknown: Unknown, remedy: str, *, most: float | None
    ) -> None:
        """Reports characters of the training transcripts that are not in the vocabulary.

        Args:
            utterances: utterances with normalized transcripts.
            unknown: function that returns the characters of a transcript outside the vocabulary.
            remedy: how to get a suitable vocabulary, for the message.
            most: largest accepted share of transcripts with such characters; None uses that of the
                config.

        Raises:
            UserError: the share is larger.
        """
        share, received = lacking_characters((u.transcript for u in utterances), unknown)
        if share > (self.data.max_unknown_share if most is None else most):
            raise UserError.expected(
                f"transcripts that consist of the {self.vocabulary_size} symbols of the vocabulary",
                received,
                remedy,
            )
        if share:
            self.report.append(received)

    def augmentation(self, config: WaveformAugmentConfig) -> WaveformAugmentation:
        """Returns the waveform augmentation; reads noise and impulse responses from folders.

        Args:
            config: section `waveform_augment` of the config.

        Raises:
            UserError: a folder is missing or has no usable sound.
        """
        banks = {"noise_dirs": None, "impulse_response_dirs": None}
        for name in banks:
            folders = getattr(config, name)
            if folders:
                banks[name] = bank = read_bank(
                    folders,
                    self.rate_hz,
                    key=f"waveform_augment.{name}",
                    max_minutes=config.max_noise_minutes,
                    max_seconds=_LONGEST_SOUNDS[name],
                )
                self.report.append(bank.report)
                self.skipped += bank.skipped
        return WaveformAugmentation(config, self.rate_hz, *banks.values())

    def train_on(self, training_set: TrainingSet, seed: int) -> None:
        """Sets the training set for `train_data`, and the seed of its order and augmentation."""
        self.training_set, self._seed = training_set, seed
        rows = ((u.utterance_id, u.num_samples, u.transcript) for u in training_set.utterances)
        self.data_digest = data_digest(rows)

    def evaluate_splits(
        self,
        recognize: Recognize,
        normalize=normalize_transcript,
        unknown: Unknown = lambda transcript: "",
    ) -> None:
        """Reads the evaluation splits and adds the evaluator `eval`.

        Args:
            recognize: model with search; it is traced once for batches of any size.
            normalize: function applied to every transcript.
            unknown: function that returns the characters of a transcript outside the vocabulary.

        Raises:
            UserError: the corpus cannot be read.
        """
        limits = evaluation_limits(self.data, self.rate_hz)
        held_out = self._manifest(self.data.eval_splits, limits, normalize).utterances
        share, line = lacking_characters((u.transcript for u in held_out), unknown)
        if share:
            self.report.append(f"{line}; they count as errors of evaluation")
        held_out = sorted(held_out, key=lambda u: -u.num_samples)
        batch = [tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None], tf.int32)]
        graph = tf.function(recognize, input_signature=batch, autograph=False)
        self.evaluators["eval"] = functools.partial(self._evaluate, held_out, graph)

    def train_data(self, shard: Shard, position: Position, num_epochs: int) -> TrainData:
        """Returns the training batches of one process; see `Task.train_data`."""
        return training_data(
            self.training_set,
            self.data,
            rate_hz=self.rate_hz,
            seed=self._seed,
            shard=shard,
            position=position,
            num_epochs=num_epochs,
        )

    def keep_fitting(
        self,
        utterances: Sequence[Utterance],
        counts: np.ndarray,
        limits: np.ndarray,
        reason: str = "too_many_labels",
    ) -> list[Utterance]:
        """Returns the utterances within a limit; counts and lists the others as skipped.

        Args:
            utterances: N utterances.
            counts: `[N]` number of labels of each utterance, or number of frames that they need.
            limits: `[N]` largest accepted count of each utterance.
            reason: reason in the list of skipped utterances.

        Raises:
            UserError: no utterance is within its limit.
        """
        fits = counts <= limits
        kept = [u for u, one in zip(utterances, fits, strict=True) if one]
        if len(kept) < len(utterances):
            self.report.append(f"{len(utterances) - len(kept)} skipped: {reason}")
            self.skipped += [
                f"{reason}\t{one_line(u.path)}: {count} of at most {limit:g}"
                for u, count, limit in zip(utterances, counts, limits, strict=True)
                if count > limit
            ]
        if not kept:
            raise UserError.expected(
                f"utterances with at most {self.data.max_labels} labels and enough frames for them",
                f"none among {len(utterances)}",
                "Check the transcripts or raise data.max_labels",
            )
        return kept

    def _manifest(self, splits: Sequence[str], limits: AudioLimits, normalize) -> Manifest:
        """Reads splits on rank 0 and returns the manifest on every process."""
        manifest = from_first_rank(
            self.processes,
            lambda: read_corpus(self.data.data_dir, splits, limits, normalize=normalize),
        )
        for reason, details in manifest.skipped.items():
            self.skipped += [f"{reason}\t{one_line(detail)}" for detail in details]
        self.report.append(f"{', '.join(splits) or self.data.data_dir}: {manifest.summary()}")
        return manifest

    def _evaluate(self, utterances: Sequence[Utterance], recognize: Recognize) -> dict[str, float]:
        """Decodes the share of this process, and computes the error rates over all processes.

        Raises:
            UserError: no file can be read.
        """
        share = utterances[self.processes.rank :: self.processes.size]
        limits = evaluation_limits(self.data, self.rate_hz)
        # Transcript and recognized text of each utterance; None and the reason if it was skipped.
        heard: list[tuple[str | None, str]] = []
        for batch in read_batches(share, self.data.eval_batch_size, limits):
            texts = recognize(batch.waveforms, batch.lengths).numpy()
            for index, reason, text in zip(batch.indices, batch.reasons, texts, strict=True):
                utterance = share[index]
                why = f"{one_line(utterance.path)}: {reason}"
                heard.append((None, why) if reason else (utterance.transcript, text.decode()))
        gathered = [pair for some in self.processes.gather_objects(heard) for pair in some]
        pairs = [(said, text) for said, text in gathered if said is not None]
        left_out = [why for said, why in gathered if said is None]
        for why in left_out:
            if self.processes.rank == 0 and why not in self._left_out:
                _log.warning("evaluation skips %s", why)
        self._left_out.update(left_out)
        if not pairs:
            raise UserError.expected(
                "evaluation sounds that can be read",
                ", ".join(left_out[:5]) or "none",
                "Check the files, or add --skip_eval",
            )
        result = score([reference for reference, _ in pairs], [text for _, text in pairs])
        return {
            "wer": result.wer,
            "cer": result.cer,
            "num_utterances": len(pairs),
            "num_skipped": len(left_out),
        }
