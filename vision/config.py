"""Configuration of the vision Conformer; the keys have the names of the MindSpore recipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tools.config.command_line import CommandLine
from tools.config.loader import leaf_keys, load
from tools.errors import UserError

INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "nearest")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Which model; the switches are set as the PyTorch weights need them."""

    arch: str = "conformer_tiny_patch16"
    num_classes: int = 1000
    drop: float = 0.0  # dropout in the transformer branch
    drop_block: float = 0.0  # dropout on attention weights, whatever the name says
    drop_path: float = 0.1
    disable_approximate_gelu: bool = True  # false: GELU in its tanh form, as in MindSpore
    use_pytorch_maxpool: bool = True  # false: the stem pads the far side only, as in MindSpore


@dataclass(frozen=True, slots=True)
class PreprocessingConfig:
    """How an image file becomes the input of the model."""

    image_size: int = 224
    crop_pct: float = 0.875  # the side of the crop in that of the resized image; MindSpore: 0.96
    interpolation: Literal["bicubic", "bilinear", "lanczos", "nearest"] = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def validate(self) -> None:
        """Checks that there is something to crop, and three channels to scale."""
        if self.image_size < 1 or not 0 < self.crop_pct <= 1:
            raise UserError.expected(
                "image_size >= 1 and crop_pct above 0 and up to 1",
                f"{self.image_size} and {self.crop_pct}",
                "Correct the preprocessing",
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UserError.expected(
                "a mean and a positive std for each of three channels",
                f"{list(self.mean)} and {list(self.std)}",
                "Correct the preprocessing",
            )

    @property
    def resized_size(self) -> int:
        """The short side before cropping."""
        return int(self.image_size / self.crop_pct)


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """Everything that defines a model and its input."""

    model: ModelConfig = field(default_factory=ModelConfig)
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)


def load_config(
    path: str | Path | None = None, overrides: Mapping[str, object] | None = None
) -> VisionConfig:
    """Reads a YAML file.

    Args:
        path: the file; None takes the defaults (Conformer-tiny).
        overrides: values by dotted key, such as `{"model.num_classes": 10}`.

    Raises:
        UserError: unknown key, wrong type or value, naming the key and the nearest valid one.
    """
    return load(VisionConfig, path, overrides or {})


def add_config_flags(flags: CommandLine, *sections: str) -> None:
    """Adds a flag for every key of the config, or of some of its sections.

    Args:
        flags: of the program; `--config` and `--set` are added as well.
        sections: of `VisionConfig`; none means all.
    """
    flags.string("config", None, "YAML file of configs/vision.", default_text="Conformer-tiny")
    flags.settings()
    for key in leaf_keys(VisionConfig):
        section, name = key.split(".")
        if not sections or section in sections:
            short = {"short_name": "a"} if name == "arch" else {}
            flags.string(name, None, f"{section}.{name} of the config.", **short)


def preprocessing_of(known: Mapping[str, object], values) -> PreprocessingConfig:
    """The preprocessing that a model was exported with; flags of `add_config_flags` win."""
    words = {
        name: ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        for name, value in known.items()
    }
    given = {key: getattr(values, key, None) for key in leaf_keys(PreprocessingConfig)}
    words |= {key: value for key, value in given.items() if value is not None}
    return load(PreprocessingConfig, None, words)


def config_of(values) -> VisionConfig:
    """Reads the config that the flags of `add_config_flags` ask for; flags win over the file."""
    overrides = dict(values.set)
    for key in leaf_keys(VisionConfig):
        given = getattr(values, key.split(".")[1], None)
        if given is not None:
            overrides[key] = given
    return load_config(values.config, overrides)
