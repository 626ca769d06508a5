"""The model families: the interface of a family and the table of their names."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tools.conversion.pipeline import describe
from tools.conversion.protocol import FOREIGN, Examples
from tools.errors import UserError
from tools.inference.opening import open_runner
from tools.inference.options import RunnerOptions
from tools.inference.session import Session
from tools.training.checkpoint import Checkpoint

# Family name to the module that implements `Family`. To add a family, add a line.
FAMILIES = {"conformer": "conformer", "vision": "vision", "wav2vec2": "wav2vec2"}
_DEFAULTS = RunnerOptions()


class Family(Protocol):
    """Interface of a family's module, used by the programs that work with every family."""

    def load_config(self, path: str | Path | None, overrides: Mapping[str, str]) -> Any:
        """Reads a config of the family.

        Args:
            path: YAML file; None uses the defaults.
            overrides: values by dotted key, such as `{"training.num_epochs": "10"}`.

        Returns:
            A config. Its section `training` is a `tools.training.config.TrainingConfig`.

        Raises:
            UserError: the file is not a config of this family.
        """

    def export_checkpoint(self, checkpoint: Checkpoint, output_dir: Path) -> None:
        """Exports a training checkpoint as a SavedModel.

        Args:
            checkpoint: checkpoint of this family.
            output_dir: new folder; it appears only after the export has succeeded.

        Raises:
            UserError: the checkpoint is damaged, or the folder cannot be written.
        """

    def calibration_examples(
        self, pipeline: Mapping, data_dir: Path, num_samples: int, judged: bool
    ) -> Examples:
        """Reads samples of a data set, preprocessed as for inference, in batches of 1.

        Args:
            pipeline: content of the model's `pipeline.json`.
            data_dir: folder of the data set.
            num_samples: number of samples, taken at equal distances over the data set.
            judged: whether the caller also measures accuracy on the samples.
        """

    def open_session(self, model_dir: str | Path, options: RunnerOptions) -> Session:
        """Opens an exported or converted model of the family.

        Args:
            model_dir: folder of the model.
            options: runtime, precision and devices.

        Raises:
            UserError: the model cannot be opened.
        """


def family(name: str) -> Family:
    """Imports and returns the module of a family.

    Raises:
        UserError: no family has this name.
    """
    if name not in FAMILIES:
        raise UserError.expected(
            f"a model of one of the families {', '.join(FAMILIES)}", name, "Export the model again"
        )
    return importlib.import_module(FAMILIES[name])


def open_session(model_dir: str | Path, options: RunnerOptions = _DEFAULTS) -> Session:
    """Opens an exported or converted model with the session of its family.

    Args:
        model_dir: folder of the model.
        options: runtime, precision and devices.

    Returns:
        The family's session, or a plain `Session` if the model names no known family.

    Raises:
        UserError: the model cannot be opened.
    """
    name = describe(model_dir).get("family")
    if name in FAMILIES:
        return family(name).open_session(model_dir, options)
    return Session(open_runner(model_dir, options, read_examples))


def read_examples(pipeline: Mapping, data_dir: Path, num_samples: int, judged: bool) -> Examples:
    """Reads calibration samples with the family that the model names.

    For the arguments see `Family.calibration_examples`.
    """
    if pipeline.get("family") == FOREIGN:
        raise UserError.expected(
            "an ONNX file with a description for 8 bits, which tells how to read the data",
            "one without",
            "Use --quant_precision=fp32 or fp16, or export it with python -m vision.export",
        )
    of_family = family(pipeline.get("family"))
    return of_family.calibration_examples(pipeline, data_dir, num_samples, judged)


def family_of_checkpoint(checkpoint: Checkpoint) -> Family:
    """Returns the family that can read the config of a checkpoint.

    Raises:
        UserError: no family can read it; the message lists the error of each family.
    """
    reasons = []
    for name in FAMILIES:
        candidate = family(name)
        try:
            candidate.load_config(checkpoint.path / "config.yml", {})
        except UserError as error:
            reasons.append(f"{name}: {error}")
        else:
            return candidate
    raise UserError.expected(
        "a checkpoint of this project", "; ".join(reasons), "Choose another checkpoint"
    )
