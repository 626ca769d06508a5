"""Configuration of a corpus: the `data` section of the speech families' configs."""

from dataclasses import dataclass

from tools.errors import UserError


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Where utterances come from and how they are batched."""

    data_dir: str = ""  # LibriSpeech root; --data_dir and DATA_DIR fill it
    train_splits: tuple[str, ...] = ("train-clean-100",)
    eval_splits: tuple[str, ...] = ("dev-clean",)
    min_seconds: float = 0.1
    max_seconds: float = 20.0  # longer training utterances are dropped and counted
    max_eval_seconds: float = 60.0
    max_labels: int = 400  # longer transcripts are dropped and counted
    # Share of training transcripts with characters that the vocabulary lacks; more are refused.
    max_unknown_share: float = 0.5
    num_buckets: int = 8
    eval_batch_size: int = 16
    num_parallel_calls: int = 0  # decoders at once; 0: as many as cores

    def validate(self) -> None:
        """Checks that there is something to train on, and buckets to put it in."""
        if not self.train_splits or self.num_buckets < 1 or self.eval_batch_size < 1:
            raise UserError.expected(
                "data.train_splits, data.num_buckets >= 1 and data.eval_batch_size >= 1",
                f"{list(self.train_splits)}, {self.num_buckets}, {self.eval_batch_size}",
                "Correct the data section",
            )
        if not 0 <= self.max_unknown_share <= 1:
            raise UserError.expected(
                "data.max_unknown_share of 0 to 1", self.max_unknown_share, "Correct it"
            )
