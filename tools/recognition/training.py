"""The part of training programs that the speech families share."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.config.command_line import CommandLine
from tools.config.loader import leaf_values, to_yaml
from tools.config.making_options import from_flags
from tools.errors import UserError
from tools.files import alone_in, alone_in_new, environment_path, to_json, user_cache, write_text
from tools.recognition.task import SpeechTask
from tools.training.checkpoint import Checkpoint, RunFolders
from tools.training.distributed import Processes
from tools.training.program import ProgramOptions, add_program_flags, run_training
from tools.training.resuming import check_config
from tools.training.run_log import provenance
from tools.training.task import Position, Shard, group_sizes

CONFIG_FILE = "config.yml"  # in a run directory and in each of its checkpoints
_MOST_NAMED = 20  # number of skipped utterances that `--dry_run` lists
PROJECT = Path(__file__).resolve().parent.parent.parent

# Flags that set a key of the config. A flag that is not given leaves the value of the YAML file.
_CONFIG_FLAGS = {
    "data_dir": "data.data_dir",
    "batch_size": "training.batch_size",
    "epochs": "training.num_epochs",
    "seed": "training.seed",
}


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingProgram:
    """A family's training program.

    Attributes:
        name: name of the program's module.
        description: first sentence of `--help`.
        default_config: default config file, relative to `configs/`.
        pretrained_help: help text of `--pretrained`.
        load_config: function of a YAML file and values by dotted key that returns the config, with
            the sections `data` and `training`.
        make_task: function that creates the task. Its arguments are the config, the processes, the
            value of `--pretrained` (or ""), the checkpoint from which the run continues (or None),
            and whether there will be evaluation.
        example: arguments for the example line of `--help`.
        defines_a_run: dotted keys of sections or values of the config that a resumed run must not
            change.
    """

    name: str
    description: str
    default_config: str
    pretrained_help: str
    load_config: Callable[[str | Path | None, Mapping[str, object]], Any]
    make_task: Callable[[Any, Processes, str, Checkpoint | None, bool], SpeechTask]
    example: str = "--data_dir=LibriSpeech --output_dir=runs/m"
    defines_a_run: tuple[str, ...] = ()

    @property
    def default_path(self) -> Path:
        """Path of the default config file."""
        return PROJECT / "configs" / self.default_config

    def command_line(self) -> CommandLine:
        """Returns the flags of the program."""
        flags = CommandLine(self.name, self.description, example=self.example)
        flags.group("Config")
        default = f"configs/{self.default_config}"
        flags.string("config", None, "YAML file of the config.", default_text=default)
        flags.settings()
        flags.group("Input")
        about = "Root folder of the corpus."
        flags.string("data_dir", None, about, default_text="from the config, else $DATA_DIR")
        flags.group("Output")
        flags.string("output_dir", None, "Run directory.", default_text="runs/CONFIG-DATE")
        flags.boolean("resume", False, "Continues the run in --output_dir.")
        flags.group("Model")
        flags.string("pretrained", None, self.pretrained_help, default_text="none")
        flags.group("Training")
        flags.integer("batch_size", None, "Utterances in a batch of one process.")
        flags.integer("epochs", None, "Passes over the training set.")
        flags.integer("seed", None, "Seed of weights, shuffling, augmentation and dropout.")
        about = "Trains in float16 mixed precision, or with --nomxp in float32."
        flags.boolean("mxp", None, about)
        add_program_flags(flags)
        about = "Requires GPUs, or with --nouse_gpu hides them."
        flags.boolean("use_gpu", None, about, default_text="GPUs if there are enough")
        return flags

    def main(self, argv: list[str]) -> int:
        """Runs the program."""
        values = self.command_line().parse_flags(argv)
        options = from_flags(RunOptions, values)
        config = values.config or options.saved_config or self.default_path
        options = dataclasses.replace(options, config=config)
        return run_training(
            lambda: SpeechRun(self, self.read_config(options), options),
            from_flags(ProgramOptions, values),
        )

    def read_config(self, options: "RunOptions") -> Any:
        """Returns the config: the command line takes precedence over the YAML file.

        If both give no corpus, uses that of the resumed run, or DATA_DIR for a new run. With
        `data.synthesize`, only a corpus on the command line replaces the synthesized one.
        """
        overrides = dict(options.set)
        for flag, key in _CONFIG_FLAGS.items():
            if getattr(options, flag) is not None:
                overrides[key] = getattr(options, flag)
        if options.mxp is not None:
            overrides["training.precision"] = "mixed_float16" if options.mxp else "float32"
        config = self.load_config(options.config, overrides)
        if config.data.synthesize and "data.data_dir" not in overrides:
            from tools.speech.synthetic_corpus import cached_corpus  # needs librosa

            folder = str(cached_corpus(user_cache()))
            data = dataclasses.replace(config.data, data_dir=folder)
            config = dataclasses.replace(config, data=data)
        elif config.data.synthesize:  # a resumed run reads its corpus from the stored config
            data = dataclasses.replace(config.data, synthesize=False)
            config = dataclasses.replace(config, data=data)
        if not config.data.data_dir:
            if options.saved_config is not None:
                found = self.load_config(options.saved_config, {}).data.data_dir
            else:
                found = environment_path("DATA_DIR")
            data = dataclasses.replace(config.data, data_dir=found)
            config = dataclasses.replace(config, data=data)
        if not config.data.data_dir:
            raise UserError.expected(
                "a corpus",
                "none",
                "Give --data_dir, or set DATA_DIR in env.sh and source it. For a trial on "
                f"synthesized data, add --config configs/{self.name.partition('.')[0]}/smoke.yml",
            )
        return config


@dataclasses.dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of a training run. A value of None uses that of the config.

    Attributes:
        config: YAML file, which also gives a new run directory its name. Without it, a resumed run
            uses its own config.
        data_dir: root folder of the corpus.
        batch_size: number of utterances in the batch of each process.
        epochs: number of passes over the training set.
        seed: seed of weights, shuffling, augmentation and dropout.
        mxp: True for mixed precision in float16, False for float32.
        set: values of the config by dotted key.
        output_dir: run directory; None creates a new one.
        resume: whether to continue the run in `output_dir`.
        pretrained: weights to start from; see the family's help of `--pretrained`.
        use_gpu: True requires GPUs, False hides them, None uses them if there are enough.
    """

    config: str | Path = ""
    data_dir: str | None = None
    batch_size: int | None = None
    epochs: int | None = None
    seed: int | None = None
    mxp: bool | None = None
    set: Mapping[str, str] = dataclasses.field(default_factory=dict)
    output_dir: str | None = None
    resume: bool = False
    pretrained: str | None = None
    use_gpu: bool | None = None

    @property
    def saved_config(self) -> Path | None:
        """Path of the config of the resumed run, or None."""
        if not (self.resume and self.output_dir):
            return None
        directory = Path(self.output_dir)
        saved = sorted(directory.glob(f"checkpoints/step-*/{CONFIG_FILE}"), reverse=True)
        return next((x for x in (directory / CONFIG_FILE, *saved) if x.is_file()), None)


class SpeechRun:
    """A training run of a recognizer; implements `tools.training.program.TrainingRun`.

    Args:
        program: training program of the family.
        config: config of the run.
        options: options of the run.
    """

    start_epoch, run_eagerly = 0, False

    def __init__(self, program: TrainingProgram, config: Any, options: RunOptions):
        self._program, self._config, self._options = program, config, options
        self.training, self.use_gpu = config.training, options.use_gpu

    def check(self, processes: Processes) -> None:
        """Does nothing: any number of processes is accepted."""

    @contextlib.contextmanager
    def folders(self) -> Iterator[RunFolders]:
        """Creates and locks the run directory during the block; see `TrainingRun.folders`.

        Raises:
            UserError: `--resume` and the content of `--output_dir` contradict each other.
        """
        options = self._options
        if not options.output_dir:
            if options.resume:
                raise UserError.expected(
                    "an --output_dir to --resume", "none", "Add --output_dir DIR"
                )
            name = f"{Path(options.config).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
            with alone_in_new(name, PROJECT / "runs") as [directory]:
                yield RunFolders.inside(directory)
            return
        directory = Path(options.output_dir).resolve()
        with alone_in(directory):
            has_checkpoints = any(directory.glob("checkpoints/step-*"))
            if has_checkpoints and not options.resume:
                raise UserError.expected(
                    "an --output_dir without checkpoints",
                    directory,
                    "Add --resume or choose another",
                )
            if options.resume and not has_checkpoints:
                raise UserError.expected(
                    "an --output_dir with checkpoints to --resume",
                    directory,
                    "Leave --resume out",
                )
            yield RunFolders.inside(directory)

    def resumed(self, folders: RunFolders | None) -> Checkpoint | None:
        """Returns the newest complete checkpoint to resume from, or None."""
        return folders.store().latest_whole() if self._options.resume and folders else None

    def make_task(
        self, processes: Processes, resumed: Checkpoint | None, needs_evaluation: bool
    ) -> SpeechTask:
        """Creates the family's task; see `TrainingRun.make_task`."""
        pretrained = self._options.pretrained or ""
        return self._program.make_task(
            self._config, processes, pretrained, resumed, needs_evaluation=needs_evaluation
        )

    def check_resumed(self, resumed: Checkpoint, task: SpeechTask) -> None:
        """Checks that the config agrees with that of the checkpoint in `defines_a_run`.

        The task may have replaced values of the config by those of the checkpoint, so its config is
        compared first. Then the values that the user has set are compared. Default values may
        differ, and with `--pretrained` also the values of the YAML file.

        Raises:
            UserError: a value differs.
        """
        keys, load_config = self._program.defines_a_run, self._program.load_config
        if not keys:
            return
        before = load_config(resumed.path / CONFIG_FILE, {})
        check_config(resumed, before, task.config, keys=keys)
        defaults, asked = (leaf_values(x) for x in (load_config(None, {}), self._config))
        is_free = bool(self._options.pretrained)
        unset = {x for x in asked if is_free or asked[x] == defaults[x]} - self._options.set.keys()
        check_config(resumed, before, self._config, keys=keys, unset=unset)

    def describe(self, task: SpeechTask, processes: Processes) -> str:
        """Returns the text that `--dry_run` prints."""
        return describe(task, self._config, processes)

    def prepare(self, folders: RunFolders, task: SpeechTask) -> None:
        """Writes config, vocabulary, versions and skipped utterances before the first step."""
        files = {
            **task.assets,
            "versions.json": to_json(provenance(), indent=1),
            "skipped.tsv": "\n".join(["REASON\tDETAIL", *task.skipped, ""]),
        }
        for name, text in files.items():
            write_text(folders.records / name, text)

    def log_file(self, folders: RunFolders, processes: Processes) -> Path | None:
        """Returns None: there is no log file besides `metrics.jsonl`."""
        return None


def describe(task: SpeechTask, config, processes: Processes) -> str:
    """Returns the text that `--dry_run` prints: shapes, sizes, report and config."""
    accumulate_steps = config.training.accumulate_steps
    shard = Shard(processes.rank, processes.size, config.training.batch_size)
    data = task.train_data(shard, Position(), config.training.num_epochs)
    batch = next(iter(data.dataset))
    lines = [f"{name}: {value.dtype.name} {tuple(value.shape)}" for name, value in batch.items()]
    lines += [
        f"logits: {tuple(task.example_logits(batch).shape)}",
        f"parameters: {task.model.count_params():,}",
        f"vocabulary: {task.vocabulary_size}",
        f"steps per epoch: {len(group_sizes(data.num_steps(0), accumulate_steps))}",
        f"global batch: {shard.global_batch_size * accumulate_steps}",
        *task.report,
        *_skipped_lines(task.skipped),
        to_yaml(task.config),
    ]
    return "\n".join(lines)


def _skipped_lines(skipped: Sequence[str]) -> Iterator[str]:
    """Yields lines for the first skipped utterances; `skipped.tsv` of a run lists all of them."""
    for line in skipped[:_MOST_NAMED]:
        yield "skipped: " + line.replace("\t", " ", 1)
    if len(skipped) > _MOST_NAMED:
        yield f"skipped: {len(skipped) - _MOST_NAMED} more, in skipped.tsv of a run"
