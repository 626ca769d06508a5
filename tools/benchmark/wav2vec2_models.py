"""The wav2vec 2.0 models and the sounds of the wav2vec 2.0 benchmark."""

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

NUM_SAMPLES = 100000  # as in the batches of the original project
NUM_JUDGED = 8  # sounds whose logits are compared
_SYLLABLE_SAMPLES = 3200  # five in a second
_TILT_HZ = 500.0  # the power of speech falls above this frequency


@dataclass(frozen=True, slots=True)
class Models:
    """The files of one model: a Hugging Face folder and the SavedModel."""

    folder: Path

    @property
    def hugging_face(self) -> Path:
        """Hugging Face folder, which the peer loads."""
        return self.folder / "hugging_face"

    @property
    def native(self) -> Path:
        """The SavedModel."""
        return self.folder / "saved_model"


def make_models(name: str, pretrained: str | None, folder: Path) -> Models:
    """Exports a model, unless the folder exists.

    Args:
        name: architecture of a model with initial weights.
        pretrained: Hugging Face folder to use instead.
        folder: folder to write.
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
    """Synthesizes noise `[S]` with the spectral tilt and the syllables of speech."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    rate_hz = PreprocessingConfig().sample_rate_hz
    tilted = spectrum / (1.0 + np.fft.rfftfreq(num_samples, 1 / rate_hz) / _TILT_HZ)
    places = np.arange(0, num_samples + _SYLLABLE_SAMPLES, _SYLLABLE_SAMPLES)
    envelope = np.interp(np.arange(num_samples), places, rng.uniform(0.05, 1.0, len(places)))
    return normalized(np.fft.irfft(tilted, num_samples) * envelope)


def normalized(sound: np.ndarray) -> np.ndarray:
    """Normalizes a sound to zero mean and unit variance, as the peer needs it; returns float32."""
    sound = sound - sound.mean()
    variance = sound.var() + PreprocessingConfig().variance_epsilon
    return (sound / np.sqrt(variance)).astype(np.float32)


def read_sounds(data_dir: str | None, pipeline: dict, count: int) -> np.ndarray:
    """Reads sounds spread over a data set, cut or repeated to the same length.

    Args:
        data_dir: a corpus or a folder of sounds; None synthesizes sounds.
        pipeline: `pipeline.json` of the export.
        count: largest number of sounds.

    Returns:
        Normalized sounds `[N, NUM_SAMPLES]`.

    Raises:
        UserError: the data set has too few sounds.
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
    """Returns the calibration with these sounds."""
    length = np.array([sounds.shape[1]], np.int32)
    return Calibration(
        data_dir or "made-up sounds",
        len(sounds),
        True,
        lambda: Examples([{"waveforms": x[None], "lengths": length} for x in sounds]),
    )
