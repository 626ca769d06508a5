"""Vision Conformers to time, and images to time them with."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tools.errors import UserError
from tools.files import new_folder, to_json
from tools.inference.selection import spread
from vision.checkpoint import initial_model, load_model
from vision.config import PreprocessingConfig
from vision.convolution import BATCH_NORM_MOMENTUM
from vision.export import export_saved_model
from vision.model import CHANNELS, VisionConformer
from vision.session import calibration_examples
from vision.weights import save_pytorch_weights

NUM_JUDGED = 16  # images whose logits are compared
NUM_NORM_BATCHES = 4
BATCH = 16  # for all that is not timed
_SCALES = (4, 16, 64)  # cells of made-up images on a side


def made_images(count: int, size: int) -> np.ndarray:
    """Makes normalized images of cells of several sizes, smooth like photos: `[B, H, W, 3]`."""
    rng = np.random.default_rng(0)
    layers = [rng.standard_normal((count, x, x, CHANNELS)) for x in _SCALES]
    images = sum(tf.image.resize(x, (size, size), "bicubic").numpy() for x in layers)
    return (images / images.std()).astype(np.float32)


def read_images(data_dir: str | None, preprocessing: PreprocessingConfig, count: int) -> np.ndarray:
    """Reads images spread over a data set, `[B, H, W, 3]`; made-up ones where there is none."""
    if data_dir is None:
        return made_images(count, preprocessing.image_size)
    described = {"preprocessing": asdict(preprocessing), "layout": "NHWC", "input": "images"}
    found = calibration_examples(described, Path(data_dir), count, judged=False)
    images = np.concatenate([batch["images"] for batch in found.batches])
    if len(images) <= NUM_JUDGED:
        raise UserError.expected(
            f"more than {NUM_JUDGED} images in {data_dir}", len(images), "Choose other data"
        )
    return images


def calibrate_batch_norm(
    model: VisionConformer, batches: Sequence[np.ndarray], kind: str = "running"
) -> None:
    """Gives batch norms statistics of images; without, one head drowns the other one.

    Args:
        model: with initial weights.
        batches: of images.
        kind: `running`: what as many steps of training leave, a third of the way from the initial
            ones after four; `mean`: the means over the batches, as at the end of a training. With
            those an untrained model is chaotic: each layer enlarges the error of the one before.
    """
    if kind == "running":
        for images in batches:
            model(images, training=True)
        return
    moving = [x for x in model.weights if "/moving_" in x.path]
    sums = [np.zeros(x.shape, np.float32) for x in moving]
    for images in batches:
        for variable in moving:
            variable.assign(np.zeros(variable.shape))
        model(images, training=True)
        for total, variable in zip(sums, moving, strict=True):
            total += variable.numpy() / ((1 - BATCH_NORM_MOMENTUM) * len(batches))
    for total, variable in zip(sums, moving, strict=True):
        variable.assign(total)


def official_arguments(model: VisionConformer) -> dict:
    """What makes the official class the same model."""
    return {
        "patch_size": model.patch_size,
        "channel_ratio": model.channel_ratio,
        "embed_dim": model.hidden_dim,
        "depth": model.num_layers,
        "num_heads": model.num_heads,
        "mlp_ratio": model.feedforward_multiplier,
        "num_classes": model.num_classes,
        "qkv_bias": True,
    }


@dataclass(frozen=True, slots=True)
class Models:
    """One architecture in a folder: official weights and the SavedModel."""

    folder: Path

    @property
    def weights(self) -> Path:
        """In the official naming."""
        return self.folder / "weights.safetensors"

    @property
    def native(self) -> Path:
        """With both heads as outputs."""
        return self.folder / "saved_model"

    @property
    def arguments(self) -> dict:
        """What makes the official class the same model."""
        return json.loads((self.folder / "arguments.json").read_text())


def make_models(
    config, checkpoint: str | None, images: np.ndarray, kind: str, *, folder: Path
) -> Models:
    """Exports a model, unless the folder is there already.

    Args:
        config: of the model.
        checkpoint: its weights; None takes initial ones and calibrates their batch norms.
        images: to calibrate with.
        kind: see `calibrate_batch_norm`.
        folder: to write into.
    """
    models = Models(folder)
    if folder.exists():
        return models
    if checkpoint:
        model = load_model(config.model, checkpoint)
    else:
        model = initial_model(config.model, seed=0)
        some = spread(images, BATCH * NUM_NORM_BATCHES)
        calibrate_batch_norm(model, np.array_split(np.stack(some), NUM_NORM_BATCHES), kind)
    with new_folder(folder) as beside:
        new = Models(beside)
        (beside / "arguments.json").write_text(to_json(official_arguments(model)))
        save_pytorch_weights(model, new.weights)
        export_saved_model(model, config, new.native, outputs="heads")
    return models
