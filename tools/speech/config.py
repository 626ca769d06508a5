"""Configuration of a corpus: the `data` section of the speech families' configs."""

from dataclasses import dataclass

from tools.errors import UserError
from tools.ranges import number

SPEECH_METRICS = ("wer", "cer")
MAX_SECONDS = 86_400.0  # of a sound


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Where utterances come from and how they are batched."""

    data_dir: str = ""  # LibriSpeech root; --data_dir and DATA_DIR fill it
    train_splits: tuple[str, ...] = ("train-clean-100",)
    eval_splits: tuple[str, ...] = ("dev-clean",)
    min_seconds: float = number(0.1, at_least=0)
    # Longer training utterances, or transcripts, are dropped and counted.
    max_seconds: float = number(20.0, above=0, at_most=MAX_SECONDS)
    max_eval_seconds: float = number(60.0, above=0, at_most=MAX_SECONDS)
    max_labels: int = number(400, at_least=1)
    # Share of training transcripts with characters that the vocabulary lacks; more are refused.
    max_unknown_share: float = number(0.5, at_least=0, at_most=1)
    num_buckets: int = number(8, at_least=1, at_most=1000)
    eval_batch_size: int = number(16, at_least=1, at_most=1 << 20)
    # Decoders at once; 0: as many as cores.
    num_parallel_calls: int = number(0, at_least=0, at_most=10_000)

    def validate(self) -> None:
        """Checks that there is something to train on."""
        if not self.train_splits:
            raise UserError.expected("data.train_splits", "none", "Correct the data section")
        if self.min_seconds > min(self.max_seconds, self.max_eval_seconds):
            raise UserError.expected(
                "data.min_seconds up to data.max_seconds and data.max_eval_seconds",
                f"{self.min_seconds}, {self.max_seconds} and {self.max_eval_seconds}",
                "Correct the data section",
            )
