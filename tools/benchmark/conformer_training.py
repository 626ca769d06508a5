"""Times a training step of the speech Conformer and measures its memory."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

# Before any runtime.
from tools.benchmark.turns import use_cores  # isort: skip

import numpy as np
from tqdm import tqdm

import conformer
from conformer.config import ConformerConfig
from tools.benchmark.conformer_step import Batch, OurStep, with_options
from tools.benchmark.own_process import OwnProcess, gemm_gflops, in_own_process
from tools.benchmark.peer import Peer
from tools.benchmark.transducer_loss import FORMS
from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import check_writable, to_json, write_text

# Products of a step of Conformer-S, (M, K, N), weighted by their share of its operations: those of
# the encoder and those of the joint network.
_PRODUCTS = {(1000, 144, 576): 0.43, (51000, 320, 1000): 0.57}
_PEER = "tools.benchmark.conformer_training_peer"
_PRECISIONS = ("float32", "mixed_bfloat16")
_REMATERIALIZE = ("none", "blocks")

Side = OwnProcess | Peer  # both have a method `ask`
Kind = tuple[str, str, str]  # loss.kind, training.precision, training.rematerialize


@contextlib.contextmanager
def open_sides(
    configs: Mapping[Kind, ConformerConfig], batch: Batch, peer_command: Sequence[str]
) -> Iterator[dict[Kind | str, Side]]:
    """Builds every side in its own process.

    Args:
        configs: configs of this project's sides.
        batch: sizes of the batch.
        peer_command: command of the peer; empty for none.
    """
    with contextlib.ExitStack() as stack:
        sides: dict[Kind | str, Side] = {}
        for kind, config in configs.items():
            sides[kind] = OwnProcess(OurStep, config, batch)
            stack.callback(sides[kind].close)
        if peer_command:
            sides["peer"] = peer = Peer(peer_command)
            stack.callback(peer.close)
            samples = batch.num_samples(next(iter(configs.values())).features.sample_rate_hz)
            peer.ask("build", batch.size, samples, batch.labels, batch.vocabulary)
        yield sides


def measure(sides: Mapping[Kind | str, Side], batch: Batch, rounds: int) -> list[dict]:
    """Measures the steps of all sides in turn.

    Args:
        sides: see `open_sides`.
        batch: sizes of the batch.
        rounds: number of timed steps of every side.

    Returns:
        For each side the times of a step and of its parts in seconds, utterances per second, and
        peak memory in bytes.
    """
    # The first step traces the graph; the second one still allocates memory.
    firsts = {name: side.ask("train")[0] for name, side in sides.items()}
    for side in sides.values():
        side.ask("train")
    seconds: dict[Kind | str, list[float]] = {name: [] for name in sides}
    for _ in tqdm(range(rounds), desc="rounds", file=sys.stderr):
        for name, side in sides.items():
            seconds[name].append(side.ask("train")[0])
    found = []
    for name, side in sides.items():
        step_s = float(np.median(seconds[name]))
        one = {
            "step_s": step_s,
            "first_step_s": firsts[name],
            "samples_per_second": batch.size / step_s,
            "peak_bytes": side.ask("peak_bytes"),
        }
        if name == "peer":
            found.append({"loss": "peer", "versions": side.ask("versions"), **one})
            continue
        parts = side.ask("part_seconds", rounds)
        shares = {part: value / step_s for part, value in parts.items()}
        shares["loss_and_update"] = 1.0 - shares["encoder_with_features"]
        names = dict(zip(("loss", "precision", "rematerialize"), name, strict=True))
        found.append({**names, **one, "shares": shares})
    return found


def compare(found: Sequence[dict]) -> None:
    """Adds the ratios to the peer, if there is one, to the results of all other sides."""
    peers = [one for one in found if one["loss"] == "peer"]
    for one in found:
        for peer in peers:
            keys = ("step_s", "first_step_s", "peak_bytes")
            one["against_peer"] = {key: one[key] / peer[key] for key in keys}


def line_of(one: Mapping) -> str:
    """Returns a line of text about a side."""
    names = [one[key] for key in ("loss", "precision") if key in one]
    if one.get("rematerialize") == "blocks":
        names.append("rematerialized")
    text = (
        f"{', '.join(names)}: {one['step_s']:.3f} s a step, first step {one['first_step_s']:.1f} "
        f"s, {one['peak_bytes'] / 2**30:.2f} GiB"
    )
    if "against_peer" in one and one["loss"] != "peer":
        ratios = one["against_peer"]
        text += (
            f"; against the peer {ratios['step_s']:.2f}, first step {ratios['first_step_s']:.2f}, "
            f"memory {ratios['peak_bytes']:.2f}"
        )
    return text


def _command_line() -> CommandLine:
    flags = CommandLine(
        "tools.benchmark.conformer_training",
        "Times a training step of the speech Conformer (features, forward, backward, update) on "
        "noise, each kind of loss in a process of its own and in turn.",
        example="--config=configs/conformer/conformer_s.yml --batch=4 --seconds=10 --loss=fused",
    )
    flags.group("Model")
    flags.string("config", None, "YAML config.", default_text="Conformer-S")
    flags.enum("loss", "plain", FORMS, "How the loss is computed: loss.kind of the config.")
    about = "Measures every kind of loss in float32 and mixed_bfloat16."
    flags.boolean("all", False, about)
    about = "Also measures every kind with training.rematerialize: blocks."
    flags.boolean("rematerialize", False, about)
    about = "Checkout of TensorSpeech/TensorFlowASR, whose Conformer-S is measured in turn."
    flags.string("peer_repo", None, about, default_text="no peer")
    about = "Python of an environment with the packages of --peer_repo."
    flags.string("peer_python", None, about, default_text="this Python")
    flags.group("Input")
    flags.integer("batch", 4, "Utterances of a batch.")
    flags.number("seconds", 10.0, "Length of each utterance.")
    flags.integer("labels", 50, "Labels of each utterance.")
    flags.integer("vocabulary", 1000, "Symbols of the vocabulary, the blank included.")
    flags.group("Runtime")
    flags.integer("threads", None, "Threads.", default_text="all cores")
    flags.group("Measurement")
    flags.integer("loop", 5, "Number of timed steps.")
    flags.group("Output")
    flags.string("json", None, "Report to write.", default_text="none")
    return flags


def _parse(argv: Sequence[str]):
    values, rest = _command_line().parse(argv)
    if rest or min(values.loop, values.batch, values.labels) < 1 or not 0 < values.seconds < 1e6:
        raise UserError.expected(
            "flags alone, with --loop, --batch and --labels >= 1 and --seconds > 0",
            " ".join(argv),
            "See --help",
        )
    if values.vocabulary < 2:
        raise UserError.expected("--vocabulary >= 2", values.vocabulary, "Correct --vocabulary")
    if values.peer_repo and not (Path(values.peer_repo) / "tensorflow_asr").is_dir():
        raise UserError.expected(
            "a checkout of TensorSpeech/TensorFlowASR in --peer_repo",
            values.peer_repo,
            "Clone github.com/TensorSpeech/TensorFlowASR",
        )
    return values


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    values = _parse(argv)
    config = conformer.load_config(values.config)
    losses = FORMS if values.all else (values.loss,)
    precisions = _PRECISIONS if values.all else (config.training.precision,)
    remade = _REMATERIALIZE if values.rematerialize else (config.training.rematerialize,)
    kinds = [(loss, name, blocks) for blocks in remade for name in precisions for loss in losses]
    if values.threads is not None:
        use_cores(values.threads)
    if values.json:
        check_writable(Path(values.json))
    batch = Batch(values.batch, values.seconds, values.labels, values.vocabulary)
    command = []
    if values.peer_repo:
        python = values.peer_python or sys.executable
        command = [python, "-m", _PEER, f"--peer_repo={values.peer_repo}"]
    rate = in_own_process(gemm_gflops, _PRODUCTS)
    report = {"gemm_gflops": rate, "batch": batch.size, "seconds": batch.seconds}
    configs = {kind: with_options(config, *kind) for kind in kinds}
    with open_sides(configs, batch, command) as sides:
        found = measure(sides, batch, values.loop)
    compare(found)
    print(f"matrix products: {rate:.0f} GFLOP/s")
    for one in found:
        print(line_of(one))
    report |= {"kinds": found} if len(found) > 1 else found[0]
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
