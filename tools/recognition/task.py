"""What the training tasks of recognizers have in common: corpora in, error rates out."""

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
from tools.speech.corpus import Manifest, Utterance, read_librispeech
from tools.speech.reading import evaluation_limits, read_batches, training_limits
from tools.speech.scoring import score
from tools.speech.sound_bank import read_bank
from tools.speech.transcripts import normalize_transcript
from tools.training.distributed import Processes, from_first_rank
from tools.training.resuming import data_digest
from tools.training.task import Position, Shard, TrainData

_LONGEST_SOUNDS = {"noise_dirs": math.inf, "impulse_response_dirs": 2.0}  # in seconds

# Waveforms `[B, S]` and their lengths `[B]` to texts `[B]`, in the graph.
Recognize = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_log = logging.getLogger(__name__)


class SpeechTask:
    """The part of `tools.training.task.Task` that no family of recognizers has for itself.

    A family calls `train_on` and, where there is evaluation, `evaluate_splits`. It adds the rest of
    the protocol, and for `--dry_run` `config`, `vocabulary_size` and `example_logits`.

    Args:
        data: the section of that name.
        rate_hz: sample rate of the model.
        processes: rank 0 reads the corpora, the others wait for it.

    Attributes:
        training_set: what `train_on` was given.
        report: lines about the data, for the log.
        skipped: what training and evaluation leave out, `REASON<TAB>DETAIL`.
        evaluators: by name.
        data_digest: of the training set.
    """

    def __init__(self, data: DataConfig, rate_hz: int, processes: Processes):
        self.data, self.rate_hz, self.processes = data, rate_hz, processes
        self.report: list[str] = []
        self.skipped: list[str] = []
        self._left_out: set[str] = set()  # of evaluation, as it was said
        self.evaluators: dict[str, Callable[[], dict[str, float]]] = {}

    def read_training_set(self, normalize=normalize_transcript) -> list[Utterance]:
        """Reads the training splits; `normalize` is applied to every transcript."""
        limits = training_limits(self.data, self.rate_hz)
        return self._manifest(self.data.train_splits, limits, normalize).utterances

    def check_characters(
        self, utterances: Sequence[Utterance], unknown: Unknown, remedy: str, *, most: float | None
    ) -> None:
        """Reports which characters of the training transcripts the vocabulary lacks.

        Args:
            utterances: with normalized transcripts.
            unknown: gives the characters of a transcript that the vocabulary lacks.
            remedy: how to get a vocabulary that has them.
            most: share of transcripts with such characters that is accepted; None: the
                configuration's.

        Raises:
            UserError: more of the transcripts have some.
        """
        share, received = lacking_characters((u.transcript for u in utterances), unknown)
        if share > (self.data.max_unknown_share if most is None else most):
            raise UserError.expected(
                f"transcripts in the {self.vocabulary_size} symbols of the vocabulary",
                received,
                remedy,
            )
        if share:
            self.report.append(received)

    def augmentation(self, config: WaveformAugmentConfig) -> WaveformAugmentation:
        """Makes the changes of the training waveforms; reads the sounds that they need.

        Raises:
            UserError: a folder is missing or has nothing that can be used.
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
        """Settles what `train_data` makes batches of, and the seed of their random numbers."""
        self.training_set, self._seed = training_set, seed
        rows = ((u.utterance_id, u.num_samples, u.transcript) for u in training_set.utterances)
        self.data_digest = data_digest(rows)

    def evaluate_splits(
        self,
        recognize: Recognize,
        normalize=normalize_transcript,
        unknown: Unknown = lambda transcript: "",
    ) -> None:
        """Reads the evaluation splits and makes an evaluator of them.

        Args:
            recognize: the model with its search; it becomes one graph for batches of any size.
            normalize: applied to every transcript.
            unknown: gives the characters of a transcript that the vocabulary lacks.
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
        """Gives the batches of one process."""
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
        """Leaves out the utterances with labels beyond a limit, counts and lists them.

        Args:
            utterances: N.
            counts: `[N]` labels of each, or frames that they need.
            limits: `[N]` the most of each.
            reason: what to list them under.

        Raises:
            UserError: nothing is left.
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
                f"utterances of at most {self.data.max_labels} labels, and long enough for them",
                f"none among {len(utterances)}",
                "Check the transcripts or raise data.max_labels",
            )
        return kept

    def _manifest(self, splits: Sequence[str], limits: AudioLimits, normalize) -> Manifest:
        """Reads splits on rank 0; every process gets the manifest, or the error."""
        manifest = from_first_rank(
            self.processes,
            lambda: read_librispeech(self.data.data_dir, splits, limits, normalize=normalize),
        )
        for reason, details in manifest.skipped.items():
            self.skipped += [f"{reason}\t{one_line(detail)}" for detail in details]
        self.report.append(f"{', '.join(splits) or self.data.data_dir}: {manifest.summary()}")
        return manifest

    def _evaluate(self, utterances: Sequence[Utterance], recognize: Recognize) -> dict[str, float]:
        """Decodes this process's share and scores the shares of all.

        Raises:
            UserError: none of the files can be read.
        """
        share = utterances[self.processes.rank :: self.processes.size]
        limits = evaluation_limits(self.data, self.rate_hz)
        heard: list[tuple[str | None, str]] = []  # what was said and heard; None: why not
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
                _log.warning("evaluation leaves out %s", why)
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
