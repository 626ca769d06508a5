"""Configuration of the vision Conformer. The keys have the names of the MindSpore recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from tools.config.loader import COMMAND_LINE, leaf_keys, leaf_values, load, read_mapping
from tools.errors import UserError
from tools.ranges import number
from tools.training.config import (
    CheckpointConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainingConfig,
    check_best_metric,
)
from vision.augmentation_config import AugmentationConfig
from vision.recipe_keys import in_flat_words, read_flat, to_dotted, to_flat

METRICS = ("acc_head1", "acc_head2", "acc_heads", "acc_heads_top5", "loss")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The model. The defaults of the switches are those of the PyTorch implementation."""

    arch: str = "conformer_tiny_patch16"
    num_classes: int = number(1000, at_least=1, at_most=1 << 20)
    drop: float = number(0.0, at_least=0, below=1)  # dropout rate in the transformer branch
    # Dropout rate of the attention weights. The recipe gives it this misleading name.
    drop_block: float = number(0.0, at_least=0, below=1)
    drop_path: float = number(0.1, at_least=0, below=1)
    disable_approximate_gelu: bool = True  # false: tanh approximation of GELU, as in MindSpore
    fusion_drop_path: bool = False  # true: stochastic depth in convolution blocks (mmpretrain)
    zero_init_last_batch_norm: bool = False  # true: residual branches start at 0 (mmpretrain)
    use_pytorch_maxpool: bool = True  # false: max pooling pads right and bottom only (MindSpore)


@dataclass(frozen=True, slots=True)
class PreprocessingConfig:
    """Resizing, cropping and normalization of images."""

    image_size: int = number(224, at_least=1, at_most=1 << 14)
    # Side of the center crop / short side of the resized image (MindSpore: 0.96).
    crop_pct: float = number(0.875, above=0, at_most=1)
    interpolation: Literal["bicubic", "bilinear", "lanczos", "nearest"] = "bicubic"
    mean: tuple[float, ...] = number((0.485, 0.456, 0.406), at_least=-1000, at_most=1000)
    std: tuple[float, ...] = number((0.229, 0.224, 0.225), above=0, at_most=1000)
    exif_orientation: bool = False  # true: rotate images by the orientation in their EXIF data

    def validate(self) -> None:
        """Checks that mean and std have three values; raises UserError otherwise."""
        if len(self.mean) != 3 or len(self.std) != 3:
            raise UserError.expected(
                "a mean and a std for each of three channels",
                f"mean {list(self.mean)} and std {list(self.std)}",
                "Correct the preprocessing",
            )

    @property
    def resized_size(self) -> int:
        """Short side of the resized image before cropping, in pixels."""
        return int(self.image_size / self.crop_pct)


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Image data: directories in ImageFolder layout, `CLASS/image`."""

    dataset: str = "ImageNet"  # name of the data set for logs
    data_url: str = ""  # folder that contains both directories; empty: --data_url or IMAGENET_DIR
    train_dir: str = "train"
    val_dir: str = "val"
    # Number of images to use, chosen at random by the seed; -1: all.
    train_num_samples: int = number(-1, at_least=-1)
    val_num_samples: int = number(-1, at_least=-1)
    # Number of images read in parallel; 0: one for each core.
    num_parallel_workers: int = number(0, at_least=0, at_most=10_000)
    eval_batch_size: int = number(0, at_least=0, at_most=1 << 20)  # 0: batch size of training
    # Use a small data set that is drawn once, unless data_url is set on the command line.
    synthesize: bool = False

    def validate(self) -> None:
        """Checks the numbers of images; raises UserError if one is 0 or below -1."""
        for name in ("train_num_samples", "val_num_samples"):
            if getattr(self, name) == 0:
                raise UserError.expected(
                    f"{name} of at least 1, or -1 for all", getattr(self, name), f"Correct {name}"
                )


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Initial weights, devices and output folders of a run."""

    pretrained: str = ""  # file or checkpoint with initial weights
    # true: load the averaged weights of pretrained, false: the others, null: those that it has.
    use_ema: bool | None = None
    # false: continue the run of which pretrained is a checkpoint, with its optimizer and epoch.
    exclude_epoch_state: bool = True
    start_epoch: int = number(0, at_least=0)  # number of epochs that count as completed
    heads_loss: Literal["mean", "sum"] = "mean"  # mean or sum of the cross-entropies of both heads
    device_target: Literal["GPU", "CPU"] = "GPU"  # GPU: use a GPU if one is available
    device_id: int = number(0, at_least=0, at_most=1000)  # GPU of a run with a single process
    # Number of processes. If above 1, it must equal the number of started processes.
    device_num: int = number(1, at_least=1)
    pynative_mode: bool = False  # true: run eagerly (without graphs), for debugging
    file_format: Literal["SAVEDMODEL", "ONNX", "KERAS", "MINDIR", "AIR"] = (
        "SAVEDMODEL"  # file format of vision.export
    )
    summary_root_dir: str = ""  # this and the next two: empty: a folder in runs/
    ckpt_root_dir: str = ""
    best_ckpt_root_dir: str = ""
    model_postfix: str = ""  # postfix of the names of the run's folders; 0: none

    def validate(self) -> None:
        """Checks that the postfix contains no `/`; raises UserError otherwise."""
        if "/" in self.model_postfix:
            raise UserError.expected(
                "a model_postfix without /", self.model_postfix, "Set other folders by *_root_dir"
            )


def _training() -> TrainingConfig:
    """Returns the training defaults of the MindSpore recipe."""
    return TrainingConfig(
        batch_size=100,
        num_epochs=300,
        log_every_steps=20,
        print_every_steps=100,
        evaluate_unaveraged=True,
        best_metric="eval/acc_heads",
        larger_is_better=True,
        optimizer=OptimizerConfig(
            beta_2=0.999, epsilon=1e-8, weight_decay=0.05, clip_norm=1.0, average_decay=None
        ),
        schedule=ScheduleConfig(
            name="cosine", peak=1e-3, final=1e-5, warmup_epochs=2.0, warmup_initial=7e-6
        ),
        checkpoint=CheckpointConfig(every_seconds=1800.0, keep_last=10, keep_best=5),
    )


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """Configuration of a model, its preprocessing and its training."""

    model: ModelConfig = field(default_factory=ModelConfig)
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    run: RunConfig = field(default_factory=RunConfig)
    training: TrainingConfig = field(default_factory=_training)

    def validate(self) -> None:
        """Checks that evaluation computes the metric that selects the best checkpoint."""
        check_best_metric(self.training, METRICS)


def load_config(
    path: str | Path | None = None,
    overrides: Mapping[str, object] | None = None,
    flags: Mapping[str, object] | None = None,
) -> VisionConfig:
    """Returns the configuration in a YAML file, which has sections or flat keys.

    Args:
        path: YAML file; None returns the defaults (Conformer-tiny).
        overrides: values by dotted key, such as `{"model.num_classes": 10}`. They take precedence
            over the flags.
        flags: values as text by flat key, such as `{"num_classes": "10"}`. They take precedence
            over the file.

    Raises:
        UserError: a key is unknown, or a value has the wrong type or is out of range. The message
            names the key, and for an unknown key the most similar valid one.
    """
    leaves = leaf_keys(VisionConfig)
    sections = {key.partition(".")[0] for key in leaves}
    flat, known_flat = {}, set()
    if path is not None:
        given = read_mapping(Path(path), [*sections])
        if not sections & given.keys():
            flat, path = read_flat(given, leaves, f"in {path}", textual=False), None
            known_flat = leaves.keys() - flat.keys()
    flat |= read_flat(flags or {}, leaves, COMMAND_LINE, textual=True)
    dotted = to_dotted(flat, leaves)
    known_flat |= dotted.keys() - flat.keys()
    try:
        return load(VisionConfig, path, {**dotted, **(overrides or {})})
    except UserError as error:
        raise UserError(in_flat_words(str(error), known_flat - (overrides or {}).keys())) from error


def all_arguments(config: VisionConfig) -> dict[str, object]:
    """Returns all values by flat key. Written as YAML or JSON, they load as the same config."""
    return to_flat(leaf_values(config))


@dataclass(frozen=True, slots=True)
class ConfigOptions:
    """The sources of a configuration.

    Attributes:
        config: YAML file with sections or flat keys; None: the defaults (Conformer-tiny).
        set: values by dotted key. They take precedence over `words`.
        words: values as text by flat key. They take precedence over the file.
    """

    config: str | Path | None = None
    set: Mapping[str, object] = field(default_factory=dict)
    words: Mapping[str, object] = field(default_factory=dict)

    def load(self) -> VisionConfig:
        """Returns the configuration; see `load_config`."""
        return load_config(self.config, self.set, self.words)

    def with_words(self, **words: object) -> "ConfigOptions":
        """Returns a copy of the options with other values by flat key."""
        return replace(self, words={**self.words, **words})


def preprocessing_of(
    known: Mapping[str, object], words: Mapping[str, object]
) -> PreprocessingConfig:
    """Returns the preprocessing of an exported model, with the values that the user overrides.

    Args:
        known: preprocessing of the model by key.
        words: `words` of `ConfigOptions`. Keys of other sections are ignored.

    Raises:
        UserError: a value has the wrong type or is out of range.
    """
    asked = {name: words[name] for name in leaf_keys(PreprocessingConfig) if name in words}
    return load(PreprocessingConfig, None, preprocessing_words(known) | asked)


def preprocessing_words(known: Mapping[str, object]) -> dict[str, str]:
    """Returns the preprocessing of a `pipeline.json` as text by flat key, like flags."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for name, value in known.items()
    }
