"""Training images to batches: the data plan, reading, augmentation, mixing and soft targets."""

from tools.training.task import Position, Shard, TrainData
from vision.augmentation_config import AugmentationConfig
from vision.config import PreprocessingConfig
from vision.input_pipeline import ImageFolder


def training_data(
    folder: ImageFolder,
    num_classes: int,
    preprocessing: PreprocessingConfig,
    augmentation: AugmentationConfig,
    seed: int,
    shard: Shard,
    position: Position,
    num_epochs: int,
    num_workers: int = 0,
) -> TrainData:
    """Makes one process's batches from a position to the end of the last epoch.

    Args:
        folder: the whole training set, the same on every process.
        num_classes: of the model.
        preprocessing: size and statistics of the model's input.
        augmentation: the recipe.
        seed: of the run.
        shard: this process's part.
        position: where to begin.
        num_epochs: where to end.
        num_workers: images prepared at once, 0 for a default.

    Returns:
        Batches of `images [B, S, S, 3]` float32, normalized; `targets [B, V]` float32, smoothed
        and mixed; `labels [B]` int32; `weights [B]` float32 (0: an image that could not be read);
        `indices [B]` int32 into the folder; `reason [B]` string (why it could not).
    """
    raise NotImplementedError
