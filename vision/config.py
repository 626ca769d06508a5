"""Configuration of the vision Conformer; the keys have the names of the MindSpore recipe."""

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
    """Which model; the switches are set as the PyTorch weights need them."""

    arch: str = "conformer_tiny_patch16"
    num_classes: int = number(1000, at_least=1, at_most=1 << 20)
    drop: float = number(0.0, at_least=0, below=1)  # dropout in the transformer branch
    # Dropout on attention weights, whatever the name says.
    drop_block: float = number(0.0, at_least=0, below=1)
    drop_path: float = number(0.1, at_least=0, below=1)
    disable_approximate_gelu: bool = True  # false: GELU in its tanh form, as in MindSpore
    fusion_drop_path: bool = False  # true: also in convolution blocks, as in mmpretrain
    zero_init_last_batch_norm: bool = False  # true: convolution blocks start as shortcuts
    use_pytorch_maxpool: bool = True  # false: the stem pads the far side only, as in MindSpore


@dataclass(frozen=True, slots=True)
class PreprocessingConfig:
    """How an image file becomes the input of the model."""

    image_size: int = number(224, at_least=1, at_most=1 << 14)
    # The side of the crop in that of the resized image; MindSpore: 0.96.
    crop_pct: float = number(0.875, above=0, at_most=1)
    interpolation: Literal["bicubic", "bilinear", "lanczos", "nearest"] = "bicubic"
    mean: tuple[float, ...] = number((0.485, 0.456, 0.406), at_least=-1000, at_most=1000)
    std: tuple[float, ...] = number((0.229, 0.224, 0.225), above=0, at_most=1000)
    exif_orientation: bool = False  # true: turned as EXIF says; false: as the pixels are stored

    def validate(self) -> None:
        """Checks that there are three channels to scale."""
        if len(self.mean) != 3 or len(self.std) != 3:
            raise UserError.expected(
                "a mean and a std for each of three channels",
                f"{list(self.mean)} and {list(self.std)}",
                "Correct the preprocessing",
            )

    @property
    def resized_size(self) -> int:
        """The short side before cropping."""
        return int(self.image_size / self.crop_pct)


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Where images come from: ImageFolders, `CLASS/image` below each directory."""

    dataset: str = "ImageNet"  # a name for people
    data_url: str = ""  # the folder of both directories; --data_url and IMAGENET_DIR fill it
    train_dir: str = "train"
    val_dir: str = "val"
    # A random part, the same for the same seed; -1: all.
    train_num_samples: int = number(-1, at_least=-1)
    val_num_samples: int = number(-1, at_least=-1)
    # Images prepared at once; 0: by the cores.
    num_parallel_workers: int = number(0, at_least=0, at_most=10_000)
    eval_batch_size: int = number(0, at_least=0, at_most=1 << 20)  # 0: that of training

    def validate(self) -> None:
        """Checks that no set is empty."""
        for name in ("train_num_samples", "val_num_samples"):
            if getattr(self, name) == 0:
                raise UserError.expected(
                    f"{name} of at least 1, or -1 for all", getattr(self, name), f"Correct {name}"
                )


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What a run starts from, runs on, and where it writes."""

    pretrained: str = ""  # weights to start from
    use_ema: bool | None = None  # of pretrained: averaged weights or not; null: as it has them
    exclude_epoch_state: bool = True  # of pretrained: false continues a run of this project exactly
    start_epoch: int = number(0, at_least=0)  # epochs that count as done
    heads_loss: Literal["mean", "sum"] = "mean"  # of the two heads' cross-entropies
    device_target: Literal["GPU", "CPU"] = "GPU"  # GPU: where there is one
    device_id: int = number(0, at_least=0, at_most=1000)  # of a single process
    # Processes; above 1 it is checked against those that were started.
    device_num: int = number(1, at_least=1)
    pynative_mode: bool = False  # run without graphs, for debugging
    file_format: Literal["SAVEDMODEL", "ONNX", "KERAS", "MINDIR", "AIR"] = (
        "SAVEDMODEL"  # of exports
    )
    summary_root_dir: str = ""  # each empty: a folder in runs/
    ckpt_root_dir: str = ""
    best_ckpt_root_dir: str = ""
    model_postfix: str = ""  # of the run's folders; 0: none

    def validate(self) -> None:
        """Checks that the postfix makes no folder."""
        if "/" in self.model_postfix:
            raise UserError.expected(
                "a model_postfix without /", self.model_postfix, "Name other folders by *_root_dir"
            )


def _training() -> TrainingConfig:
    """The MindSpore recipe's."""
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
    """Everything that defines a model, its input and its training."""

    model: ModelConfig = field(default_factory=ModelConfig)
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    run: RunConfig = field(default_factory=RunConfig)
    training: TrainingConfig = field(default_factory=_training)

    def validate(self) -> None:
        """Checks that the metric of the best checkpoint is one that evaluation gives."""
        check_best_metric(self.training, METRICS)


def load_config(
    path: str | Path | None = None,
    overrides: Mapping[str, object] | None = None,
    flags: Mapping[str, object] | None = None,
) -> VisionConfig:
    """Reads a YAML file, in sections or flat.

    Args:
        path: the file; None takes the defaults (Conformer-tiny).
        overrides: values by dotted key, such as `{"model.num_classes": 10}`.
        flags: words of a command line by flat key, such as `{"num_classes": "10"}`.

    Raises:
        UserError: unknown key, wrong type or value, naming the key and the nearest valid one.
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
    """Every value by its flat name; as a JSON or YAML file it reads back to the same config."""
    return to_flat(leaf_values(config))


@dataclass(frozen=True, slots=True)
class ConfigOptions:
    """What a config is read from.

    Attributes:
        config: YAML file, in sections or flat; None: the defaults (Conformer-tiny).
        set: values by dotted key; they win over the others.
        words: values by flat key, as words of a command line; they win over the file.
    """

    config: str | Path | None = None
    set: Mapping[str, object] = field(default_factory=dict)
    words: Mapping[str, object] = field(default_factory=dict)

    def load(self) -> VisionConfig:
        """Reads the config; see `load_config`."""
        return load_config(self.config, self.set, self.words)

    def with_words(self, **words: object) -> "ConfigOptions":
        """Gives the same options with other values by flat key."""
        return replace(self, words={**self.words, **words})


def preprocessing_of(
    known: Mapping[str, object], words: Mapping[str, object]
) -> PreprocessingConfig:
    """Gives the preprocessing that a model was exported with, but for what is asked for.

    Args:
        known: of the model, by name.
        words: of `ConfigOptions`; what is none of the preprocessing does not count.

    Raises:
        UserError: a value of a wrong type or out of its range.
    """
    asked = {name: words[name] for name in leaf_keys(PreprocessingConfig) if name in words}
    return load(PreprocessingConfig, None, preprocessing_words(known) | asked)


def preprocessing_words(known: Mapping[str, object]) -> dict[str, str]:
    """Writes the preprocessing of a `pipeline.json` as words of a command line, by flat key."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        for name, value in known.items()
    }
