"""wav2vec 2.0 to time, and sounds to time it with."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.conversion.protocol import Calibration, Examples
from tools.errors import UserError
from tools.files import new_folder
from wav2vec2.config import PreprocessingConfig
from wav2vec2.export import export_saved_model, named_model
from wav2vec2.session import calibration_examples
from wav2vec2.vocabulary import LIBRISPEECH, Vocabulary
from wav2vec2.weights import from_pretrained, save_pretrained

NUM_SAMPLES = 100000  # of the seed's batches
NUM_JUDGED = 8  # sounds whose logits are compared
_SYLLABLE_SAMPLES = 3200  # five in a second
_TILT_HZ = 500.0  # speech has less and less power above


@dataclass(frozen=True, slots=True)
class Models:
    """One model in a folder: as Hugging Face has it, and the SavedModel."""

    folder: Path

    @property
    def hugging_face(self) -> Path:
        """What the peer loads."""
        return self.folder / "hugging_face"

    @property
    def native(self) -> Path:
        """The SavedModel."""
        return self.folder / "saved_model"


def make_models(name: str, pretrained: str | None, folder: Path) -> Models:
    """Exports a model, unless the folder is there already.

    Args:
        name: of the architecture, with initial weights.
        pretrained: a folder of Hugging Face in place of it.
        folder: to write into.
    """
    models = Models(folder)
    if folder.exists():
        return models
    if pretrained:
        model = from_pretrained(pretrained)
    else:
        model = named_model(name, None, Vocabulary(LIBRISPEECH), seed=0)
    with new_folder(folder) as beside:
        save_pretrained(model, Models(beside).hugging_face)
        export_saved_model(model, Models(beside).native)
    return models


def made_sound(rng: np.random.Generator, num_samples: int) -> np.ndarray:
    """Makes noise with the spectral tilt and the syllables of speech, `[S]`."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    rate_hz = PreprocessingConfig().sample_rate_hz
    tilted = spectrum / (1.0 + np.fft.rfftfreq(num_samples, 1 / rate_hz) / _TILT_HZ)
    places = np.arange(0, num_samples + _SYLLABLE_SAMPLES, _SYLLABLE_SAMPLES)
    envelope = np.interp(np.arange(num_samples), places, rng.uniform(0.05, 1.0, len(places)))
    return normalized(np.fft.irfft(tilted, num_samples) * envelope)


def normalized(sound: np.ndarray) -> np.ndarray:
    """Gives zero mean and unit variance, float32: the peer's input, and no change to ours."""
    sound = sound - sound.mean()
    variance = sound.var() + PreprocessingConfig().variance_epsilon
    return (sound / np.sqrt(variance)).astype(np.float32)


def read_sounds(data_dir: str | None, pipeline: dict, count: int) -> np.ndarray:
    """Reads sounds spread over a data set, cut or repeated to the same length.

    Args:
        data_dir: a corpus or a folder of sounds; None makes sounds up.
        pipeline: of the export.
        count: at most so many.

    Returns:
        `[N, NUM_SAMPLES]`, normalized.
    """
    if data_dir is None:
        rng = np.random.default_rng(0)
        return np.stack([made_sound(rng, NUM_SAMPLES) for _ in range(count)])
    batches = calibration_examples(pipeline, Path(data_dir), count, judged=False).batches
    sounds = [batch["waveforms"][0, : batch["lengths"][0]] for batch in batches]
    if len(sounds) <= NUM_JUDGED:
        raise UserError.expected(
            f"more than {NUM_JUDGED} sounds in {data_dir}", len(sounds), "Choose other data"
        )
    return np.stack([normalized(np.resize(sound, NUM_SAMPLES)) for sound in sounds])


def calibration_of(sounds: np.ndarray, data_dir: str | None) -> Calibration:
    """Quantizes with these sounds."""
    length = np.array([sounds.shape[1]], np.int32)
    return Calibration(
        data_dir or "made-up sounds",
        len(sounds),
        True,
        lambda: Examples([{"waveforms": x[None], "lengths": length} for x in sounds]),
    )
