"""Plots the learning rate schedules of training configs."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from tools import families
from tools.amounts import counted
from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import write_bytes
from tools.training.config import TrainingConfig
from tools.training.schedule import learning_rate

_MAX_POINTS = 4000  # about the largest number of points in a curve


def read_training(path: str, family: str, settings: dict[str, str]) -> TrainingConfig:
    """Reads a config of a family and returns its section `training`."""
    return families.family(family).load_config(path, settings).training


def curve(config: TrainingConfig, steps_per_epoch: int) -> tuple[list[float], list[float]]:
    """Returns epochs and learning rates of a run; long runs are subsampled."""
    total = config.num_epochs * steps_per_epoch
    steps = range(1, total + 1, max(1, total // _MAX_POINTS))
    rates = [learning_rate(config.schedule, step, total, steps_per_epoch) for step in steps]
    return [step / steps_per_epoch for step in steps], rates


def draw(curves: Sequence[tuple[str, list[float], list[float]]]) -> bytes:
    """Plots curves `(name, epochs, rates)` and returns the PNG file as bytes."""
    figure = Figure((8, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, epochs, rates in curves:
        axes.plot(epochs, rates, label=name)
    axes.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    axes.legend()
    return png(figure)


def png(figure: Figure) -> bytes:
    """Returns a figure as the bytes of a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.cli.plot_schedule",
        "Plots the learning rates of one or more configs as a PNG.",
        "CONFIG... --output FILE.png [FLAGS]",
        example="configs/vision/conformer_tiny.yml --steps_per_epoch=1251 --output=schedule.png",
    )
    flags.group("Input")
    flags.enum(
        "family",
        None,
        tuple(families.FAMILIES),
        "Model family of the configs.",
        default_text="the name of the config's folder",
    )
    flags.integer("steps_per_epoch", 1000, "Steps in an epoch.")
    flags.settings()
    flags.group("Output")
    flags.string("output", "schedule.png", "PNG file to write.", short_name="o")
    values, configs = flags.parse(argv)
    if not configs:
        raise UserError.expected("a CONFIG", "none", "Give the path of a YAML file")
    if values.steps_per_epoch < 1:
        raise UserError.expected(
            "--steps_per_epoch >= 1", values.steps_per_epoch, "Correct the flag"
        )
    if Path(values.output).suffix.lower() != ".png":
        raise UserError.expected("an --output FILE.png", values.output, "Correct --output")
    curves = []
    for path in configs:
        family = values.family or Path(path).absolute().parent.name
        if family not in families.FAMILIES:
            raise UserError.expected(
                f"a config in a folder called {', '.join(families.FAMILIES)}", path, "Give --family"
            )
        training = read_training(path, family, values.set)
        epochs, rates = curve(training, values.steps_per_epoch)
        schedule = training.schedule
        curves.append((f"{Path(path).stem}: {schedule.name}", epochs, rates))
        print(
            f"{path}: {schedule.name}, {counted(training.num_epochs, 'epoch')}, "
            f"first {rates[0]:.3g}, highest {max(rates):.3g}, last {rates[-1]:.3g}",
            file=sys.stderr,
        )
    write_bytes(Path(values.output), draw(curves))
    return 0


if __name__ == "__main__":
    run(main)
