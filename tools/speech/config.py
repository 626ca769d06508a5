"""Config sections for speech data: `data` and `waveform_augment` of the speech families."""

from dataclasses import dataclass
from typing import Literal

from tools.errors import UserError
from tools.files import one_line
from tools.ranges import number

SPEECH_METRICS = ("wer", "cer")
MAX_SECONDS = 86_400.0  # longest sound in any config


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Training and evaluation data, and how they are batched."""

    data_dir: str = ""  # root folder of the corpus; --data_dir or DATA_DIR set it
    train_splits: tuple[str, ...] = ("train-clean-100",)
    eval_splits: tuple[str, ...] = ("dev-clean",)
    min_seconds: float = number(0.1, at_least=0)
    # Longer training utterances or transcripts are dropped and counted.
    max_seconds: float = number(20.0, above=0, at_most=MAX_SECONDS)
    max_eval_seconds: float = number(60.0, above=0, at_most=MAX_SECONDS)
    max_labels: int = number(400, at_least=1)
    # Largest share of training transcripts with characters outside the vocabulary.
    max_unknown_share: float = number(0.5, at_least=0, at_most=1)
    num_buckets: int = number(8, at_least=1, at_most=1000)
    # Buckets by the number of labels inside each of the num_buckets buckets by length.
    num_label_buckets: int = number(1, at_least=1, at_most=1000)
    # Largest product of the utterances in a batch of a process and the seconds of the longest one.
    # training.batch_size is the largest number of utterances then. 0: no limit.
    max_batch_seconds: float = number(0.0, at_least=0)
    eval_batch_size: int = number(16, at_least=1, at_most=1 << 20)
    # Number of parallel decoders; 0 for the number of cores.
    num_parallel_calls: int = number(0, at_least=0, at_most=10_000)
    # Use a small corpus that is synthesized once, unless data_dir is set on the command line.
    synthesize: bool = False

    def validate(self) -> None:
        """Raises UserError if there is no training split or the limits contradict each other."""
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
    """Random augmentations of training waveforms, drawn for every utterance and epoch."""

    # 0.1 gives speed factors from 0.9 to 1.1.
    max_speed_change: float = number(0.0, at_least=0, at_most=0.5)
    # Noise from noise_dirs or, without folders, synthesized noise of noise_kinds. SNR relative to
    # the RMS of the speech.
    noise_probability: float = number(0.0, at_least=0, at_most=1)
    min_noise_snr_db: float = number(10.0, at_least=-100, at_most=100)
    max_noise_snr_db: float = number(40.0, at_least=-100, at_most=100)
    noise_kinds: tuple[Literal["white", "pink", "hum"], ...] = ("white",)
    noise_dirs: tuple[str, ...] = ()
    # Total length of the noise in memory; a minute at 16 kHz takes 2 MB. Each file is cut to an
    # equal share of it.
    max_noise_minutes: float = number(60.0, above=0, at_most=10_000)
    # Folders with impulse responses of rooms, of which the first 2 s are used.
    impulse_response_dirs: tuple[str, ...] = ()
    impulse_response_probability: float = number(0.5, at_least=0, at_most=1)
    # Silence (zeros) before and after the utterance, drawn separately.
    silence_probability: float = number(0.0, at_least=0, at_most=1)
    max_silence_seconds: float = number(3.0, at_least=0, at_most=60)
    # Silence (zeros) between two words.
    pause_probability: float = number(0.0, at_least=0, at_most=1)
    max_pause_seconds: float = number(1.0, at_least=0, at_most=60)
    min_gain_db: float = number(0.0, at_least=-100, at_most=100)
    max_gain_db: float = number(0.0, at_least=-100, at_most=100)
    max_dc_offset: float = number(0.0, at_least=0, at_most=1)
    clipping_probability: float = number(0.0, at_least=0, at_most=1)
    max_clipping_db: float = number(20.0, at_least=0, at_most=100)
    # Limits the band to that of a telephone.
    band_limit_probability: float = number(0.0, at_least=0, at_most=1)
    # Share of utterances that are replaced by noise with an empty transcript.
    empty_share: float = number(0.0, at_least=0, at_most=0.5)

    def longest_seconds(self, seconds: float) -> float:
        """Returns the largest length in seconds that a waveform can have after augmentation."""
        slowed = seconds / (1.0 - self.max_speed_change)
        pause = self.max_pause_seconds if self.pause_probability > 0 else 0.0
        around = 2 * self.max_silence_seconds if self.silence_probability > 0 else 0.0
        return slowed + pause + around

    def validate(self) -> None:
        """Raises UserError if a lower limit is above its upper limit, or no noise kind is given."""
        for low, high in (("min_noise_snr_db", "max_noise_snr_db"), ("min_gain_db", "max_gain_db")):
            if getattr(self, low) > getattr(self, high):
                raise UserError.expected(
                    f"waveform_augment.{low} up to {high}",
                    f"{getattr(self, low)} and {getattr(self, high)}",
                    "Change one of them",
                )
        for kind in ("noise", "impulse_response"):
            folders = getattr(self, f"{kind}_dirs")
            if folders and getattr(self, f"{kind}_probability") == 0:
                raise UserError.expected(
                    f"waveform_augment.{kind}_probability above 0 with {kind}_dirs",
                    f"0 and {', '.join(map(one_line, folders))}",
                    f"Set {kind}_probability, for example 0.5",
                )
        if not self.noise_kinds:
            raise UserError.expected(
                "a kind in waveform_augment.noise_kinds", "none", "Set noise_probability: 0 instead"
            )
