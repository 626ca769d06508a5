"""The vision Conformers and the images of the vision benchmarks."""

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
BATCH = 16  # of all runs that are not timed
_SCALES = (4, 16, 64)  # cells per side of synthesized images


def made_images(count: int, size: int) -> np.ndarray:
    """Synthesizes normalized images `[B, H, W, 3]` of smooth cells of several sizes."""
    rng = np.random.default_rng(0)
    layers = [rng.standard_normal((count, x, x, CHANNELS)) for x in _SCALES]
    images = sum(tf.image.resize(x, (size, size), "bicubic").numpy() for x in layers)
    return (images / images.std()).astype(np.float32)


def read_images(data_dir: str | None, preprocessing: PreprocessingConfig, count: int) -> np.ndarray:
    """Returns images `[B, H, W, 3]` spread over a data set; synthesized ones without a data set.

    Raises:
        UserError: the data set has too few images.
    """
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
    """Sets the batch norm statistics of a model with initial weights from images.

    With the initial statistics the logits of one head are much larger than those of the other.

    Args:
        model: model with initial weights.
        batches: batches of images.
        kind: `running` sets the running statistics after one training step for each batch; after
            four steps they have moved a third of the way from their initial values. `mean` sets the
            means over the batches, which a long training approaches. With `mean` each layer of an
            untrained model amplifies the error of the layer before.
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
    """Returns the arguments with which the official class builds the same model."""
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
    """The files of one architecture: weights with the official names, and the SavedModel."""

    folder: Path

    @property
    def weights(self) -> Path:
        """File of the weights, with the official names."""
        return self.folder / "weights.safetensors"

    @property
    def native(self) -> Path:
        """Folder of the SavedModel, which has both heads as outputs."""
        return self.folder / "saved_model"

    @property
    def arguments(self) -> dict:
        """Arguments with which the official class builds the same model."""
        return json.loads((self.folder / "arguments.json").read_text())


def make_models(
    config, checkpoint: str | None, images: np.ndarray, kind: str, *, folder: Path
) -> Models:
    """Exports a model, unless the folder exists.

    Args:
        config: config of the model.
        checkpoint: weights; None uses initial weights with calibrated batch norm.
        images: images for the calibration.
        kind: see `calibrate_batch_norm`.
        folder: folder to write.
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
