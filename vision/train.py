"""Trains a vision Conformer: `horovodrun -np N python vision/train.py --data_url ...`."""

import dataclasses
import json
import logging
import os
import shlex
import sys
import time
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from tools.config.command_line import CommandLine, run
from tools.config.loader import to_yaml
from tools.errors import UserError
from tools.files import write_text
from tools.training import distributed, run_log
from tools.training.checkpoint import Checkpoint, RunFolders, open_checkpoint
from tools.training.distributed import Processes, from_first_rank
from tools.training.loop import LoopOptions, train
from tools.training.run_log import provenance
from tools.training.step import freeze
from tools.training.task import Position, Shard
from vision.checkpoint import full_name
from vision.config import VisionConfig, add_training_flags, all_arguments, training_config_of
from vision.task import VisionTask

PROJECT = Path(__file__).resolve().parent.parent


def command_line() -> CommandLine:
    """The program's flags."""
    flags = CommandLine(
        "vision/train.py",
        "Trains a vision Conformer on ImageFolders, in one process or under horovodrun.",
    )
    flags.string(
        "checkpoint",
        None,
        "Continues from it: exactly from a checkpoint of this program, else from the weights.",
        default_text="",
    )
    flags.integer("steps", 0, "Ends after so many steps; 0: all epochs.")
    flags.boolean("use_horovod", None, "Several processes.", default_text="found out by itself")
    flags.boolean("use_profiler", False, "Traces steps 2 to 7 for TensorBoard.")
    flags.boolean("skip_eval", False, "Leaves the evaluation out.")
    flags.boolean("eval_at_start", False, "Evaluates once before the first step.")
    flags.boolean("dry_run", False, "Prints shapes, parameters, steps and the config, then ends.")
    add_training_flags(flags)
    return flags


def resolve_config(values: SimpleNamespace) -> VisionConfig:
    """Merges command line over YAML over defaults; IMAGENET_DIR fills in for the data."""
    if values.checkpoint:
        if values.pretrained:
            raise UserError.expected("--checkpoint or --pretrained", "both", "Leave one out")
        values.pretrained, values.exclude_epoch_state = values.checkpoint, False
    config = training_config_of(values)
    if not config.data.data_url:
        data = dataclasses.replace(config.data, data_url=os.environ.get("IMAGENET_DIR", ""))
        config = dataclasses.replace(config, data=data)
    if not config.data.data_url:
        raise UserError.expected(
            "a data set", "none", "Give --data_url, or set IMAGENET_DIR in env.sh and source it"
        )
    if config.run.start_epoch >= config.training.num_epochs:
        raise UserError.expected(
            f"start_epoch below the {config.training.num_epochs} epochs",
            config.run.start_epoch,
            "Correct it",
        )
    return config


def start(config: VisionConfig, use_horovod: bool | None) -> Processes:
    """Joins the processes and takes this one's device."""
    processes = distributed.start(use_horovod)
    wanted = config.run.device_num
    if wanted > 1 and wanted != processes.size:
        raise UserError.expected(
            f"{wanted} processes, of device_num",
            f"{processes.size} started",
            f"Start `horovodrun -np {wanted}` or run_scripts/run_distribute_train_gpu.sh",
        )
    if processes.local_size == 1 and config.run.device_id:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", str(config.run.device_id))
    return processes


def run_folders(config: VisionConfig, processes: Processes) -> RunFolders:
    """Names the three folders of the run, the same on every process; none may exist."""
    name = f"{time.strftime('%y-%m-%d_%H%M%S')}_{full_name(config.model.arch)}_0"
    if config.run.model_postfix not in ("", "0"):
        name += f"_{config.run.model_postfix}"
    run, roots = config.run, PROJECT / "runs"
    places = {
        "summaries": run.summary_root_dir,
        "checkpoints": run.ckpt_root_dir,
        "best_checkpoints": run.best_ckpt_root_dir,
    }
    paths = [Path(root or roots / kind).absolute() / name for kind, root in places.items()]
    paths = processes.broadcast_object(paths)
    if len(set(paths)) < len(paths):
        raise UserError.expected(
            "three different folders as summary_root_dir, ckpt_root_dir and best_ckpt_root_dir",
            ", ".join(str(path.parent) for path in paths),
            "Name three",
        )
    for path in paths:
        if path.exists():
            raise UserError.expected(
                "a folder that does not exist yet", path, "Wait a second, or set --model_postfix"
            )
    return RunFolders(*paths)


def prepare_folders(
    folders: RunFolders, config: VisionConfig, source: str | None, argv: list[str]
) -> None:
    """Writes what the run is made with, before its first step, beside its best checkpoints."""
    if source is None:
        recipe, name = to_yaml(config), "config.yml"
    else:
        recipe, name = Path(source).read_text(encoding="utf-8-sig"), Path(source).name
    files = {
        name: recipe,
        "all_args.json": json.dumps(all_arguments(config), indent=2),
        "cmd.txt": shlex.join(["python", "vision/train.py", *argv]) + "\n",
        "versions.json": json.dumps(provenance(), indent=1),
    }
    made: list[Path] = []
    for folder in dataclasses.astuple(folders):
        try:
            folder.mkdir(parents=True)
            made.append(folder)
        except OSError as error:
            for empty in made:
                empty.rmdir()
            raise UserError.expected(
                "room and permission for a new folder", f"{folder}: {error.strerror}", "Correct it"
            ) from error
    for file_name, text in files.items():
        write_text(folders.best_checkpoints / file_name, text)


def open_log(processes: Processes, folders: RunFolders) -> logging.Handler | None:
    """Writes what is logged to `train_log.log`, of other ranks `train_log_RANK.log`, if they log.

    Ranks of another machine that does not see the folder keep to their terminal.
    """
    if not folders.best_checkpoints.is_dir():
        return None
    suffix = f"_{processes.rank}" if processes.rank else ""
    path = folders.best_checkpoints / f"train_log{suffix}.log"
    handler = logging.FileHandler(
        path, encoding="utf-8", errors="surrogateescape", delay=processes.rank > 0
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(handler)
    run_log.logger.setLevel(logging.DEBUG)  # lines above the progress bar
    return handler


def describe(task: VisionTask, config: VisionConfig, processes: Processes) -> str:
    """What --dry_run prints."""
    shard = Shard(processes.rank, processes.size, config.training.batch_size)
    data = task.train_data(shard, Position(config.run.start_epoch), config.training.num_epochs)
    batch = next(iter(data.dataset))
    lines = [f"{name}: {value.dtype.name} {tuple(value.shape)}" for name, value in batch.items()]
    logits = task.model(batch["images"][:1])
    lines += [
        f"logits: {' and '.join(str(tuple(x.shape)) for x in logits)} of one image",
        f"steps per epoch: {data.num_steps(config.run.start_epoch)}",
        f"global batch: {shard.global_batch_size}",
        f"frozen variables: {len(freeze(task.model, config.training.freeze))}",
        *task.report,
        to_yaml(config),
    ]
    return "\n".join(lines)


def resumed_checkpoint(config: VisionConfig) -> Checkpoint | None:
    """The checkpoint that goes on exactly; None where only weights are taken, or nothing is."""
    source = config.run.pretrained
    if not source or config.run.exclude_epoch_state or Path(source).is_file():
        return None
    checkpoint = open_checkpoint(source, newest=True)
    epoch, start_epoch = checkpoint.state["position"]["epoch"], config.run.start_epoch
    if start_epoch not in (0, epoch):
        logging.warning("start_epoch %d: %s goes on in epoch %d", start_epoch, source, epoch)
    if epoch >= config.training.num_epochs:
        logging.info("%s has made all %d epochs", checkpoint.path, config.training.num_epochs)
    return checkpoint


def main(argv: list[str]) -> int:
    """Runs the program."""
    values, rest = command_line().parse(argv)
    if rest:
        raise UserError.expected("flags only", " ".join(rest), "See --help")
    if values.steps < 0:
        raise UserError.expected("--steps >= 0", values.steps, "Correct the flag")
    config = resolve_config(values)
    processes = start(config, values.use_horovod)
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.INFO)  # the progress bar prints its lines itself
    logging.basicConfig(format="%(message)s", handlers=[console])
    logging.getLogger().setLevel(logging.INFO if processes.rank == 0 else logging.WARNING)
    resumed = resumed_checkpoint(config)
    use_gpu = False if config.run.device_target == "CPU" else None
    logging.info(distributed.claim_devices(processes, use_gpu))
    if config.training.deterministic:
        tf.keras.utils.set_random_seed(config.training.seed)
        tf.config.experimental.enable_op_determinism()
    pretrained = "" if resumed else config.run.pretrained
    task = VisionTask(config, processes, pretrained, not values.skip_eval)
    if values.dry_run:
        if processes.rank == 0:
            print(describe(task, config, processes))
        return 0
    folders = run_folders(config, processes)
    from_first_rank(processes, lambda: prepare_folders(folders, config, values.config, argv))
    handler = open_log(processes, folders)
    logging.info(
        "summaries, checkpoints, best: %s", ", ".join(map(str, dataclasses.astuple(folders)))
    )
    options = LoopOptions(
        resumed=resumed,
        start_epoch=config.run.start_epoch,
        max_steps=values.steps,
        skip_eval=values.skip_eval,
        eval_at_start=values.eval_at_start,
        use_profiler=values.use_profiler,
    )
    tf.config.run_functions_eagerly(config.run.pynative_mode)
    try:
        results = train(task, config.training, processes, folders, options)
    finally:
        tf.config.run_functions_eagerly(False)
        if handler is not None:
            logging.getLogger().removeHandler(handler)
            handler.close()
    if processes.rank == 0:
        print(json.dumps(results))
    return 0


if __name__ == "__main__":
    run(main)
