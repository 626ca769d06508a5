"""Configuration of a corpus: the `data` section of the speech families' configs."""

from dataclasses import dataclass
from typing import Literal

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


@dataclass(frozen=True, slots=True)
class WaveformAugmentConfig:
    """Changes of the training waveform, drawn anew for every utterance and epoch."""

    # 0.1: speed factors from 0.9 to 1.1
    max_speed_change: float = number(0.0, at_least=0, at_most=0.5)
    # Noise: of folders, else synthesized. Ratios are against the RMS of the speech.
    noise_probability: float = number(0.0, at_least=0, at_most=1)
    min_noise_snr_db: float = number(10.0, at_least=-100, at_most=100)
    max_noise_snr_db: float = number(40.0, at_least=-100, at_most=100)
    noise_kinds: tuple[Literal["white", "pink", "hum"], ...] = ("white",)
    noise_dirs: tuple[str, ...] = ()
    # Of noise in memory, for all files together: a minute at 16 kHz is 2 MB.
    max_noise_minutes: float = number(60.0, above=0, at_most=10_000)
    # Rooms: folders of impulse responses.
    impulse_response_dirs: tuple[str, ...] = ()
    impulse_response_probability: float = number(0.5, at_least=0, at_most=1)
    # Digital silence before, and behind.
    silence_probability: float = number(0.0, at_least=0, at_most=1)
    max_silence_seconds: float = number(3.0, at_least=0, at_most=60)
    # Digital silence between two words.
    pause_probability: float = number(0.0, at_least=0, at_most=1)
    max_pause_seconds: float = number(1.0, at_least=0, at_most=60)
    min_gain_db: float = number(0.0, at_least=-100, at_most=100)
    max_gain_db: float = number(0.0, at_least=-100, at_most=100)
    max_dc_offset: float = number(0.0, at_least=0, at_most=1)
    clipping_probability: float = number(0.0, at_least=0, at_most=1)
    max_clipping_db: float = number(20.0, at_least=0, at_most=100)
    # The band of a telephone.
    band_limit_probability: float = number(0.0, at_least=0, at_most=1)
    # Utterances in which noise takes the place of the words, with an empty transcript.
    empty_share: float = number(0.0, at_least=0, at_most=0.5)

    def longest_seconds(self, seconds: float) -> float:
        """Gives the most that a waveform of some length can become."""
        slowed = seconds / (1.0 - self.max_speed_change)
        pause = self.max_pause_seconds if self.pause_probability > 0 else 0.0
        around = 2 * self.max_silence_seconds if self.silence_probability > 0 else 0.0
        return slowed + pause + around

    def validate(self) -> None:
        """Checks that lower limits are below upper ones, and that there is a kind of noise."""
        for low, high in (("min_noise_snr_db", "max_noise_snr_db"), ("min_gain_db", "max_gain_db")):
            if getattr(self, low) > getattr(self, high):
                raise UserError.expected(
                    f"waveform_augment.{low} up to {high}",
                    f"{getattr(self, low)} and {getattr(self, high)}",
                    "Change one of them",
                )
        if not self.noise_kinds:
            raise UserError.expected(
                "a kind in waveform_augment.noise_kinds", "none", "Set noise_probability: 0 instead"
            )
