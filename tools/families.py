"""The model families: what each offers, and the only table of their names."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tools.conversion.pipeline import describe
from tools.conversion.protocol import Examples
from tools.errors import UserError
from tools.inference.opening import open_runner
from tools.inference.options import RunnerOptions
from tools.inference.session import Session
from tools.training.checkpoint import Checkpoint

# Names, and the module of each that is a `Family`. A further family is a further line.
FAMILIES = {"conformer": "conformer", "vision": "vision", "wav2vec2": "wav2vec2"}
_DEFAULTS = RunnerOptions()


class Family(Protocol):
    """What a family's module offers to the programs above all families."""

    def load_config(self, path: str | Path | None, overrides: Mapping[str, str]) -> Any:
        """Reads a config; its section `training` is a `tools.training.config.TrainingConfig`.

        Raises:
            UserError: the file is not a config of this family.
        """

    def export_checkpoint(self, checkpoint: Checkpoint, output_dir: Path) -> None:
        """Writes the SavedModel of a checkpoint of training, whole or not at all."""

    def calibration_examples(
        self, pipeline: Mapping, data_dir: Path, num_samples: int, judged: bool
    ) -> Examples:
        """Reads data as inference preprocesses them, one sample in a batch.

        Args:
            pipeline: `pipeline.json` of the model.
            data_dir: the data set.
            num_samples: how many of it, spread over the whole.
            judged: whether a model's accuracy on the data will be measured.
        """

    def open_session(self, model_dir: str | Path, options: RunnerOptions) -> Session:
        """Opens an exported or converted model of the family."""


def family(name: str) -> Family:
    """Loads a family.

    Raises:
        UserError: there is none of that name.
    """
    if name not in FAMILIES:
        raise UserError.expected(
            f"a model of {', '.join(FAMILIES)}", name, "Export the model again"
        )
    return importlib.import_module(FAMILIES[name])


def open_session(model_dir: str | Path, options: RunnerOptions = _DEFAULTS) -> Session:
    """Opens a model with the session of its family, or a plain `Session` where that is unknown."""
    name = describe(model_dir).get("family")
    if name in FAMILIES:
        return family(name).open_session(model_dir, options)
    return Session(open_runner(model_dir, options, read_examples))


def read_examples(pipeline: Mapping, data_dir: Path, num_samples: int, judged: bool) -> Examples:
    """Reads data to calibrate with, by the family of the model; see `Family`."""
    of_family = family(pipeline.get("family"))
    return of_family.calibration_examples(pipeline, data_dir, num_samples, judged)


def family_of_checkpoint(checkpoint: Checkpoint) -> Family:
    """Finds the family that can read the configuration of a checkpoint.

    Raises:
        UserError: no family can read it; the message lists the reason of each.
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
    raise UserError.expected("a checkpoint of this project", "; ".join(reasons), "Choose another")
