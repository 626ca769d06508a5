"""Trains a vision Conformer: `horovodrun -np N python vision/train.py --data_url ...`."""

import contextlib
import dataclasses
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tools.config.command_line import CommandLine, run
from tools.config.loader import to_yaml
from tools.config.making_options import from_flags
from tools.errors import UserError
from tools.files import alone_in_new, environment_path, to_json, user_cache, write_text
from tools.training.checkpoint import Checkpoint, RunFolders, open_checkpoint
from tools.training.distributed import Processes
from tools.training.program import ProgramOptions, add_program_flags, run_training
from tools.training.resuming import check_config
from tools.training.run_log import provenance
from tools.training.step import freeze
from tools.training.task import Position, Shard, group_sizes
from tools.weights.hub import local_source
from vision.checkpoint import full_name
from vision.config import ConfigOptions, VisionConfig, all_arguments, load_config
from vision.flags import add_training_flags, run_config_options
from vision.recipe import CONFIG_FILE
from vision.synthesis import cached_images
from vision.task import VisionTask

# A run can be resumed only if these keys and the training images are unchanged. Other keys, such
# as dropout rates, may change.
_SWITCHES = "arch num_classes disable_approximate_gelu fusion_drop_path use_pytorch_maxpool".split()
DEFINES_A_RUN = ("preprocessing", *(f"model.{name}" for name in _SWITCHES))
PROJECT = Path(__file__).resolve().parent.parent


def command_line() -> CommandLine:
    """Returns the flags of the program."""
    flags = CommandLine(
        "vision.train",
        "Trains a vision Conformer on ImageFolders, in one process or with horovodrun.",
        example="--config=configs/vision/conformer_tiny.yml --data_url=ImageNet",
    )
    flags.group("Checkpoints")
    flags.string(
        "checkpoint",
        None,
        "Checkpoint or run of this program to continue exactly, or file of initial weights.",
        default_text="none",
    )
    add_program_flags(flags)
    add_training_flags(flags)
    return flags


def resolve_config(options: ConfigOptions) -> VisionConfig:
    """Returns the configuration of a run.

    If the run is resumed and no config file is given, the config file of the resumed run is used.
    If no data set is given, that of the resumed run is used, or that of IMAGENET_DIR. With
    `data.synthesize`, only a data set on the command line replaces the drawn one.

    Raises:
        UserError: the configuration is invalid, no data set is given, or `start_epoch` is not
            below the number of epochs.
    """
    config = options.load()
    named = "data_url" in options.words or "data.data_url" in options.set
    if config.data.synthesize and not named:
        options = options.with_words(data_url=str(cached_images(user_cache())))
        config = options.load()
    resumed = None if options.config and config.data.data_url else resumed_checkpoint(config)
    if resumed is not None and not options.config:
        config = dataclasses.replace(options, config=resumed.path / CONFIG_FILE).load()
    if not config.data.data_url:
        before = None if resumed is None else load_config(resumed.path / CONFIG_FILE)
        found = before.data.data_url if before else environment_path("IMAGENET_DIR")
        data = dataclasses.replace(config.data, data_url=found)
        config = dataclasses.replace(config, data=data)
    if not config.data.data_url:
        raise UserError.expected(
            "a data set",
            "none",
            "Give --data_url, or set IMAGENET_DIR in env.sh and source it. For a trial on drawn "
            "images, add --config configs/vision/smoke.yml",
        )
    if config.run.start_epoch >= config.training.num_epochs:
        raise UserError.expected(
            f"start_epoch below the {config.training.num_epochs} epochs",
            config.run.start_epoch,
            "Correct start_epoch",
        )
    return config


@contextlib.contextmanager
def run_folders(config: VisionConfig) -> Iterator[RunFolders]:
    """Creates the three folders of a run under a new name, and locks them for this run."""
    name = f"{time.strftime('%y-%m-%d_%H%M%S')}_{full_name(config.model.arch)}_0"
    if config.run.model_postfix not in ("", "0"):
        name += f"_{config.run.model_postfix}"
    run, default = config.run, PROJECT / "runs"
    places = {
        "summaries": run.summary_root_dir,
        "checkpoints": run.ckpt_root_dir,
        "best_checkpoints": run.best_ckpt_root_dir,
    }
    roots = [Path(root or default / kind).absolute() for kind, root in places.items()]
    if len(set(roots)) < len(roots):
        raise UserError.expected(
            "three different folders as summary_root_dir, ckpt_root_dir and best_ckpt_root_dir",
            ", ".join(map(str, roots)),
            "Set three different folders",
        )
    with alone_in_new(name, *roots) as made:
        yield RunFolders(*made)


def prepare_folders(
    folders: RunFolders, config: VisionConfig, source: str | None, argv: list[str]
) -> None:
    """Writes config, command line and versions to the folder of the best checkpoints."""
    if source is None:
        recipe, name = to_yaml(config), "config.yml"
    else:
        recipe, name = Path(source).read_text(encoding="utf-8-sig"), Path(source).name
    files = {
        name: recipe,
        "all_args.json": to_json(all_arguments(config), indent=2),
        "cmd.txt": shlex.join(["python", "vision/train.py", *argv]) + "\n",
        "versions.json": to_json(provenance(), indent=1),
    }
    for file_name, text in files.items():
        write_text(folders.best_checkpoints / file_name, text)


def describe(task: VisionTask, config: VisionConfig, processes: Processes) -> str:
    """Returns the text that --dry_run prints."""
    shard = Shard(processes.rank, processes.size, config.training.batch_size)
    data = task.train_data(shard, Position(config.run.start_epoch), config.training.num_epochs)
    num_batches = data.num_steps(config.run.start_epoch)
    accumulate_steps = config.training.accumulate_steps
    batch = next(iter(data.dataset))
    lines = [f"{name}: {value.dtype.name} {tuple(value.shape)}" for name, value in batch.items()]
    logits = task.model(batch["images"][:1])
    lines += [
        f"logits: {' and '.join(str(tuple(x.shape)) for x in logits)} of one image",
        f"steps per epoch: {len(group_sizes(num_batches, accumulate_steps))}",
        f"global batch: {shard.global_batch_size * accumulate_steps}",
        f"frozen variables: {len(freeze(task.model, config.training.freeze))}",
        *task.report,
        to_yaml(config),
    ]
    return "\n".join(lines)


def resumed_checkpoint(config: VisionConfig) -> Checkpoint | None:
    """Returns the checkpoint whose run continues; None if a new run starts."""
    source = config.run.pretrained
    if not source or config.run.exclude_epoch_state or local_source(source).is_file():
        return None
    checkpoint = open_checkpoint(source, newest=True)
    epoch, start_epoch = checkpoint.state["position"]["epoch"], config.run.start_epoch
    if start_epoch not in (0, epoch):
        logging.warning("start_epoch %d is ignored: %s is in epoch %d", start_epoch, source, epoch)
    if epoch >= config.training.num_epochs:
        logging.info("%s: all %d epochs are completed", checkpoint.path, config.training.num_epochs)
    return checkpoint


class VisionRun:
    """A training run of a classifier; implements `tools.training.program.TrainingRun`.

    Args:
        config: configuration of the run.
        source: path of the YAML file; None if there is none.
        argv: the command line, which is saved with the run.
    """

    def __init__(self, config: VisionConfig, source: str | None, argv: Sequence[str]):
        self._config, self._source, self._argv = config, source, list(argv)
        self.training, self.start_epoch = config.training, config.run.start_epoch
        self.run_eagerly = config.run.pynative_mode
        self.use_gpu = False if config.run.device_target == "CPU" else None

    def check(self, processes: Processes) -> None:
        """Checks the number of processes against `device_num`, and selects GPU `device_id`."""
        wanted = self._config.run.device_num
        if wanted > 1 and wanted != processes.size:
            raise UserError.expected(
                f"{wanted} processes, as in device_num",
                f"{processes.size} started",
                f"Start `horovodrun -np {wanted}` or run_scripts/run_distribute_train_gpu.sh",
            )
        if processes.local_size == 1 and self._config.run.device_id:
            os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(self._config.run.device_id))

    def folders(self) -> AbstractContextManager[RunFolders]:
        """Returns a context manager that creates and locks the three folders of the run."""
        return run_folders(self._config)

    def resumed(self, folders: RunFolders | None) -> Checkpoint | None:
        """Returns the checkpoint whose run continues; None if a new run starts."""
        return resumed_checkpoint(self._config)

    def make_task(
        self, processes: Processes, resumed: Checkpoint | None, needs_evaluation: bool
    ) -> VisionTask:
        """Returns the training task."""
        pretrained = "" if resumed else self._config.run.pretrained
        return VisionTask(
            self._config, processes, pretrained, resumed, needs_evaluation=needs_evaluation
        )

    def check_resumed(self, resumed: Checkpoint, task: VisionTask) -> None:
        """Raises UserError if model or preprocessing differ from those of the checkpoint."""
        before = load_config(resumed.path / CONFIG_FILE)
        check_config(resumed, before, self._config, keys=DEFINES_A_RUN)

    def describe(self, task: VisionTask, processes: Processes) -> str:
        """Returns the text that `--dry_run` prints."""
        return describe(task, self._config, processes)

    def prepare(self, folders: RunFolders, task: VisionTask) -> None:
        """Writes config, command line and versions to the run; see `prepare_folders`."""
        prepare_folders(folders, self._config, self._source, self._argv)

    def log_file(self, folders: RunFolders, processes: Processes) -> Path | None:
        """Returns the path of `train_log.log`, for other ranks `train_log_RANK.log`.

        Returns None for ranks on machines without access to the folder, which log to the terminal
        only.
        """
        if not folders.best_checkpoints.is_dir():
            return None
        suffix = f"_{processes.rank}" if processes.rank else ""
        return folders.best_checkpoints / f"train_log{suffix}.log"


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    values = command_line().parse_flags(argv)
    return run_training(
        lambda: VisionRun(resolve_config(run_config_options(values)), values.config, argv),
        from_flags(ProgramOptions, values),
    )


def cli() -> NoReturn:
    """Runs the program from the shell and exits."""
    run(main)


if __name__ == "__main__":
    cli()
