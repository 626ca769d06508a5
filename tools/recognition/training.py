"""The body of the speech families' training programs."""

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
from tools.files import alone_in, alone_in_new, environment_path, to_json, write_text
from tools.recognition.task import SpeechTask
from tools.training.checkpoint import Checkpoint, RunFolders
from tools.training.distributed import Processes
from tools.training.program import ProgramOptions, add_program_flags, run_training
from tools.training.resuming import check_config
from tools.training.run_log import provenance
from tools.training.task import Position, Shard

CONFIG_FILE = "config.yml"  # in a run directory and in each of its checkpoints
_MOST_NAMED = 20  # left-out utterances that `--dry_run` names
PROJECT = Path(__file__).resolve().parent.parent.parent

# Flags that are short names of config keys; one that is not given leaves the YAML alone.
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
        name: of the program's module.
        description: what `--help` begins with.
        default_config: file under `configs/`.
        pretrained_help: what `--pretrained` takes.
        load_config: of a YAML file and values by dotted key; the config has the sections `data`
            and `training`.
        make_task: of the config, the processes, `--pretrained` ("" without), the checkpoint that
            continues, and whether there will be evaluation.
        example: arguments for the example line of `--help`.
        defines_a_run: sections or keys of the config that a resumed run cannot change.
    """

    name: str
    description: str
    default_config: str
    pretrained_help: str
    load_config: Callable[[str | Path | None, Mapping[str, object]], Any]
    make_task: Callable[[Any, Processes, str, Checkpoint | None, bool], SpeechTask]
    example: str = "--data_dir=LibriSpeech --output_dir=runs/m"
    defines_a_run: tuple[str, ...] = ()

    def command_line(self) -> CommandLine:
        """The program's flags."""
        flags = CommandLine(self.name, self.description, example=self.example)
        flags.group("Config")
        default = f"configs/{self.default_config}"
        flags.string("config", None, "YAML file.", default_text=default)
        flags.settings()
        flags.group("Input")
        about = "Root of the corpus."
        flags.string("data_dir", None, about, default_text="$DATA_DIR, else from the config")
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
        flags.boolean("use_gpu", None, about, default_text="uses GPUs where there are any")
        return flags

    def main(self, argv: list[str]) -> int:
        """Runs the program."""
        values, rest = self.command_line().parse(argv)
        if rest:
            raise UserError.expected("flags only", " ".join(rest), "See --help")
        options = from_flags(RunOptions, values)
        config = values.config or options.saved_config or PROJECT / "configs" / self.default_config
        options = dataclasses.replace(options, config=config)
        run = SpeechRun(self, self._config(options), options)
        return run_training(run, from_flags(ProgramOptions, values))

    def _config(self, options: "RunOptions") -> Any:
        """Merges command line over YAML over defaults.

        The corpus of a run that is resumed fills in for them, of another run DATA_DIR.
        """
        overrides = dict(options.set)
        for flag, key in _CONFIG_FLAGS.items():
            if getattr(options, flag) is not None:
                overrides[key] = getattr(options, flag)
        if options.mxp is not None:
            overrides["training.precision"] = "mixed_float16" if options.mxp else "float32"
        config = self.load_config(options.config, overrides)
        if not config.data.data_dir:
            if options.saved_config is not None:
                found = self.load_config(options.saved_config, {}).data.data_dir
            else:
                found = environment_path("DATA_DIR")
            data = dataclasses.replace(config.data, data_dir=found)
            config = dataclasses.replace(config, data=data)
        if not config.data.data_dir:
            raise UserError.expected(
                "a corpus", "none", "Give --data_dir, or set DATA_DIR in env.sh and source it"
            )
        return config


@dataclasses.dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run is made of, and where it writes.

    Attributes:
        config: YAML file; its name is that of a new run directory. A run that is resumed has its
            own where none is named.
        data_dir: root of the corpus.
        batch_size: utterances of one process's batch.
        epochs: passes over the training set.
        seed: of weights, shuffling, augmentation and dropout.
        mxp: mixed precision in float16, or float32; None: as the config says.
        set: values of the config by dotted key.
        output_dir: run directory; None: a new one.
        resume: continues the run in it.
        pretrained: what to start from.
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

    @property
    def saved_config(self) -> Path | None:
        """The config of the run that is resumed, where there is one."""
        if not (self.resume and self.output_dir):
            return None
        directory = Path(self.output_dir)
        saved = sorted(directory.glob(f"checkpoints/step-*/{CONFIG_FILE}"), reverse=True)
        return next((x for x in (directory / CONFIG_FILE, *saved) if x.is_file()), None)


class SpeechRun:
    """A run of a recognizer; implements `tools.training.program.TrainingRun`.

    Args:
        program: of the family.
        config: of the run.
        options: where it writes, and what it starts from.
    """

    start_epoch, run_eagerly = 0, False

    def __init__(self, program: TrainingProgram, config: Any, options: RunOptions):
        self._program, self._config, self._options = program, config, options
        self.training = config.training

    def check(self, processes: Processes) -> None:
        """Accepts any number of processes."""

    @contextlib.contextmanager
    def folders(self) -> Iterator[RunFolders]:
        """Takes the run directory."""
        options = self._options
        if not options.output_dir:
            if options.resume:
                raise UserError.expected("an --output_dir to --resume", "none", "Add it")
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
        """Finds the checkpoint that continues."""
        return folders.store().latest_whole() if self._options.resume and folders else None

    def make_task(
        self, processes: Processes, resumed: Checkpoint | None, needs_evaluation: bool
    ) -> SpeechTask:
        """Makes the family's task."""
        pretrained = self._options.pretrained or ""
        return self._program.make_task(
            self._config, processes, pretrained, resumed, needs_evaluation=needs_evaluation
        )

    def check_resumed(self, resumed: Checkpoint, task: SpeechTask) -> None:
        """Compares the config with that of the checkpoint.

        A task may have taken values of the checkpoint in place of those of the config. Then values
        that are set to something else are refused. Defaults are not; with `--pretrained`, as the
        run began, those of the YAML file are not either.
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
        """Says what `--dry_run` prints."""
        return describe(task, self._config, processes)

    def prepare(self, folders: RunFolders, task: SpeechTask) -> None:
        """Writes what the run is made with, before its first step."""
        files = {
            **task.assets,
            "versions.json": to_json(provenance(), indent=1),
            "skipped.tsv": "\n".join(["REASON\tDETAIL", *task.skipped, ""]),
        }
        for name, text in files.items():
            write_text(folders.records / name, text)

    def log_file(self, folders: RunFolders, processes: Processes) -> Path | None:
        """Returns None: `metrics.jsonl` holds the record."""
        return None


def describe(task: SpeechTask, config, processes: Processes) -> str:
    """What --dry_run prints."""
    shard = Shard(processes.rank, processes.size, config.training.batch_size)
    data = task.train_data(shard, Position(), config.training.num_epochs)
    batch = next(iter(data.dataset))
    lines = [f"{name}: {value.dtype.name} {tuple(value.shape)}" for name, value in batch.items()]
    lines += [
        f"logits: {tuple(task.example_logits(batch).shape)}",
        f"parameters: {task.model.count_params():,}",
        f"vocabulary: {task.vocabulary_size}",
        f"steps per epoch: {data.num_steps(0)}",
        f"global batch: {shard.global_batch_size}",
        *task.report,
        *_skipped_lines(task.skipped),
        to_yaml(task.config),
    ]
    return "\n".join(lines)


def _skipped_lines(skipped: Sequence[str]) -> Iterator[str]:
    """Names the first of what is left out, as `skipped.tsv` of a run names all of it."""
    for line in skipped[:_MOST_NAMED]:
        yield "skipped: " + line.replace("\t", " ", 1)
    if len(skipped) > _MOST_NAMED:
        yield f"skipped: {len(skipped) - _MOST_NAMED} more, in skipped.tsv of a run"
