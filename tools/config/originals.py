"""What became of the flags and programs of the four original pages.

A flag that only changed its name is accepted by the program that has it now, with one line that
names the new flag. A flag without a counterpart, a flag of another program and the old name of a
program are answered with the command to use.
"""

import os
import shlex
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.errors import UserError
from tools.launcher import launched_size

_PROJECT = Path(__file__).resolve().parents[2]
_BOOLEANS = {"true": "true", "1": "true", "false": "false", "0": "false"}


@dataclass(frozen=True, slots=True)
class Renamed:
    """A flag with another name.

    Attributes:
        new: name of today; `section.key` is a value of the config, set with --set.
        replaced: characters of the value and what they become today, such as `(":", "=")`.
    """

    new: str
    replaced: tuple[str, str] | None = None

    @property
    def flag(self) -> str:
        """The flag without its value, such as `--result_path`."""
        return f"--set {self.new}" if "." in self.new else f"--{self.new}"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A flag without an effect.

    Attributes:
        why: what happens instead.
        values: values that are accepted; empty for any value.
        do: what to do for another value, for the error.
        boolean: whether the flag may have no value.
    """

    why: str
    values: tuple[str, ...] = ()
    do: str = ""
    boolean: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """A flag that is refused.

    Attributes:
        do: what to do instead.
    """

    do: str


def _off(why: str, do: str) -> Accepted:
    """Returns a boolean flag of which only false is accepted."""
    return Accepted(why, ("false",), do, boolean=True)


_VOCABULARY = Accepted("the vocabulary is part of the model", boolean=True)
_UNPACK = "Run python -m tools.cli.unpack_tfrecords, then give its folder as --data_dir"
# Keys of the vision recipe that evaluation does not need.
_TRAINING_KEYS = tuple(
    "dataset train_dir train_num_samples auto_augment aa_interpolation re_mode re_prob re_count "
    "cutmix mixup mixup_prob mixup_mode mixup_off_epoch switch_prob label_smoothing min_crop "
    "optimizer beta eps base_lr min_lr lr_scheduler lr_adjust lr_gamma momentum weight_decay "
    "epochs is_dynamic_loss_scale loss_scale start_epoch warmup_length warmup_lr "
    "use_clip_grad_norm clip_grad_norm exclude_epoch_state with_ema ema_decay pynative_mode "
    "file_format device_num summary_root_dir ckpt_root_dir best_ckpt_root_dir ckpt_keep_num "
    "best_ckpt_num ckpt_save_every_step ckpt_save_every_seconds print_loss_every "
    "summary_loss_collect_freq model_postfix collect_input_data dump_graph".split()
)
FLAGS: dict[str, dict[str, Renamed | Accepted | Answered]] = {
    "conformer.train": {
        "private_threadpool_size": Renamed("data.num_parallel_calls"),
        "spx": Accepted("every step is one call", ("1",), "Leave --spx out"),
        "metadata": Accepted("lengths are read from the sound files"),
        "static_length": _off("batches are padded to buckets of lengths", "Leave it out"),
        "num_workers": Accepted(
            "one process uses one device", ("1",), "Run horovodrun -np N python -m conformer.train"
        ),
        "tfrecords": _off("sounds are read from files", _UNPACK),
        "sentence_piece": _off(
            "tokenizer.kind of the config decides", "Use --set tokenizer.kind=sentencepiece"
        ),
        "subwords": Accepted("tokenizer.vocabulary_file of the config decides", boolean=True),
    },
    "conformer.infer": {
        "saved": Renamed("native_savedmodel_dir"),
        "output": Renamed("result_path"),
        "device": Renamed("visible_devices"),
        "private_threadpool_size": Renamed("threads"),
        "config": Accepted("the model contains its config"),
        "sentence_piece": _VOCABULARY,
        "subwords": _VOCABULARY,
        "get_rtf": Accepted("the real-time factor is always printed", boolean=True),
        "use_gpu": Accepted("--visible_devices selects the devices", boolean=True),
        "mxp": _off("--quant_precision decides", "Use --quant_precision=fp16 with --run_eagerly=0"),
        "net_name": Accepted("the program runs one model"),
        "top_k": Accepted("a recognizer returns texts, no classes"),
        "imagenet_label_file": Accepted("a recognizer returns texts, no classes"),
    },
    "vision.eval": {
        **dict.fromkeys(_TRAINING_KEYS, Accepted("it is a key of the training")),
        "device_id": Renamed("visible_devices"),
    },
    "vision.export": {
        "output-file": Renamed("output_file"),
        "opset-version": Renamed("opset"),
        "dynamic-export": Accepted("the batch size is free unless --shape fixes it", boolean=True),
        "simplify": Accepted("the graph is always simplified", boolean=True),
        "show": Accepted("no graph is printed", boolean=True),
    },
    "tools.cli.convert": {  # the flags of ATC
        "model": Renamed("native_savedmodel_dir"),
        "output": Renamed("converted_savedmodel_dir"),
        "input_shape": Renamed("dim_range", (":", "=")),
        "framework": Accepted("the suffix tells the kind of file", ("5",), "Give an ONNX file"),
        "input_format": Accepted("the model tells its layout"),
        "log": Accepted("only results and problems are printed"),
        "soc_version": Accepted("the model is converted for this machine"),
        "insert_op_conf": Answered("Leave it out: python -m vision.preprocess prepares images"),
    },
}

# Flags by which a program is recognized when another one of its family gets them.
OWN_FLAGS: dict[str, tuple[str, ...]] = {
    "conformer.train": ("steps", "epochs", "pretrained", "skip_eval", "resume", "use_profiler"),
    "conformer.infer": ("native_savedmodel_dir", "run_eagerly", "quant_precision", "result_path"),
    "conformer.export": ("checkpoint",),
    "wav2vec2.train": ("steps", "epochs", "skip_eval", "resume", "use_profiler"),
    "wav2vec2.export": ("pytorch_model_dir",),
    "wav2vec2.compile": ("torchscript_path", "input_path", "output_path"),
    "wav2vec2.infer": ("run_eagerly", "quant_precision", "result_path", "data_dir"),
    "vision.export": ("file_format",),
    "vision.train": _TRAINING_KEYS,
    "vision.preprocess": ("src_path", "save_path"),
    "vision.postprocess": ("anno_file", "benchmark_out", "result_file"),
    "vision.infer": ("output", "top_k"),
    "vision.eval": ("onnx_path", "prefetch"),
}

# Old name of a program or script: the command, or the name in run_scripts, that replaces it.
PROGRAMS: dict[str, str] = {
    "conformer_train.py": "python -m conformer.train",
    "conformer_test.py": "python -m conformer.infer",
    "wav2vec2_preprocess.py": "python -m wav2vec2.preprocess",
    "wav2vec2_pth2ts.py": "python -m wav2vec2.export",
    "wav2vec2_postprocess.py": "python -m wav2vec2.postprocess",
    "Conformer-base_preprocess.py": "python -m vision.preprocess",
    "Conformer-base_postprocess.py": "python -m vision.postprocess",
    "pytorch2onnx.py": "python -m vision.export --layout=NCHW --outputs=probabilities "
    "--file_format=ONNX",
    "ais_infer.py": "python -m tools.cli.run_bins",
    "Horovod_Conformer_Float32_50E_8MLUs.sh": "Horovod_Conformer_Float32_50E_8GPUs.sh",
    "Horovod_Conformer_AMP_50E_8MLUs.sh": "Horovod_Conformer_AMP_50E_8GPUs.sh",
    "Conformer_Float32_50E_1MLU.sh": "Conformer_Float32_50E_1GPU.sh",
    "Infer_Conformer_Float32_1MLU.sh": "Infer_Conformer_Float32_1GPU.sh",
    "Infer_Conformer_AMP_1MLU.sh": "Infer_Conformer_AMP_1GPU.sh",
    "Conformer_Train_1MLU.sh": "ci/Conformer_Train_1GPU.sh",
    "Conformer_Infer_1MLU.sh": "ci/Conformer_Infer_1GPU.sh",
    "Conformer_Infer_1MLU_AMP.sh": "ci/Conformer_Infer_1GPU_AMP.sh",
    "prepare_env.sh": "setup.sh",
}

# Name of a config file of the originals: the file in configs/ that replaces it, and its flags.
CONFIGS: dict[str, tuple[str, str]] = {
    "conformer_tiny.yaml": ("vision/conformer_mindspore.yml", ""),
    "conformer_small.yaml": ("vision/conformer_mindspore.yml", "--arch=conformer_small"),
    "conformer_base.yaml": ("vision/conformer_mindspore.yml", "--arch=conformer_base"),
}


def of_today(
    module: str, argv: Sequence[str], known: Container[str]
) -> tuple[list[str], list[str]]:
    """Replaces the flags of the originals in the arguments of a program.

    Args:
        module: the program's module.
        argv: arguments after the program's name.
        known: flags of the program.

    Returns:
        The arguments of today, and a line for each replaced flag.

    Raises:
        UserError: a flag has a value that has no counterpart.
    """
    rules, words, lines = FLAGS.get(module, {}), list(argv), []
    today: list[str] = []
    while words:
        word = words.pop(0)
        if word == "--":
            return [*today, word, *words], lines
        name, equals, value = word.lstrip("-").partition("=")
        is_negated = name.startswith("no") and name not in rules
        rule = rules.get(name.removeprefix("no") if is_negated else name)
        if rule is None or not word.startswith("--") or name in known:
            today.append(word)
            continue
        if isinstance(rule, Answered):
            raise UserError.expected(f"a flag of {module}", word, rule.do)
        if isinstance(rule, Renamed):
            lines.append(f"--{name} is now {rule.flag}")
            if rule.replaced and not equals:
                equals, value = "=", words.pop(0) if words else ""
            if rule.replaced:
                value = value.replace(*rule.replaced)
            today.append(f"{rule.flag.replace(' ', '=')}{equals}{value}")
            if not equals and "." in rule.new:
                today[-1] += f"={words.pop(0)}" if words else ""
            continue
        if not equals:
            takes = words and (words[0].lower() in _BOOLEANS if rule.boolean else True)
            value = words.pop(0) if takes else "true"
        value = _BOOLEANS.get(value.lower(), value) if rule.boolean else value
        if rule.values and ("false" if is_negated else value) not in rule.values:
            accepted = f"{' or '.join(rule.values)} for --{name}, if it is given"
            raise UserError.expected(accepted, value, rule.do)
        lines.append(f"--{name} has no effect: {rule.why}")
    return today, lines


def owner(module: str, name: str) -> str | None:
    """Returns the program of the same family that has a flag, or None.

    Args:
        module: program that got the flag.
        name: flag, of today or of the original.
    """
    family = module.partition(".")[0]
    for other in dict.fromkeys((*OWN_FLAGS, *FLAGS)):
        names = (*OWN_FLAGS.get(other, ()), *FLAGS.get(other, ()))
        if other != module and other.startswith(f"{family}.") and name in names:
            return other
    return None


def config_answer(path: str | os.PathLike[str]) -> str | None:
    """Returns what to give instead of a config file of the originals that does not exist.

    Args:
        path: of the missing file; None is returned if no config of the originals has its name.
    """
    if Path(path).name not in CONFIGS:
        return None
    file, flags = CONFIGS[Path(path).name]
    do = f"Give your copy of {Path(path).name}, or {os.path.relpath(_PROJECT / 'configs' / file)}"
    return f"{do} with {flags}" if flags else do


def program_answer(name: str, argv: Sequence[str]) -> UserError:
    """Returns the answer to an old program name.

    Args:
        name: of the program.
        argv: its arguments, which are repeated in the new command.
    """
    command = PROGRAMS.get(name)
    if command is None:
        expected = "an old name of a program or script"
        return UserError.expected(expected, name, "See docs/from_the_originals.md")
    if command.endswith(".sh"):
        command = f"bash {os.path.relpath(_PROJECT / 'run_scripts' / command)}"
    elif launched_size() > 1:
        command = f"horovodrun -np {launched_size()} {command}"
    do = f"Run {command} {shlex.join(argv)}".rstrip() + " instead"
    return UserError.expected(f"{command}, the new name", f"the old name {name}", do)
