"""Times whole recognition with the transducer of a speech Conformer, beside TensorFlowASR.

Every side recognizes the same sound, from waveforms to texts. The models have random weights that
emit tokens at the rate of the sound; see `tools.benchmark.paced`.
"""

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

# Before any runtime.
from tools.benchmark.turns import time_in_turn, timed, use_cores  # isort: skip

import numpy as np
import soundfile

from conformer.session import BUNDLED_MODEL, open_session
from tools.amounts import counted
from tools.benchmark.comparison import described
from tools.benchmark.own_process import in_own_process
from tools.benchmark.paced import NUM_SYMBOLS, paced_sound
from tools.benchmark.paced_conformer import write_random_model
from tools.benchmark.peer import Peer, open_peer
from tools.benchmark.robustness import read_speech
from tools.config.command_line import CommandLine, run
from tools.decoding.options import BeamSearch
from tools.errors import UserError
from tools.files import check_writable, to_json, write_text
from tools.recognition.options import RecognitionOptions
from tools.recognition.session import SpeechSession
from tools.speech.scoring import score

PEER = "TensorFlowASR"
EAGER = "eager"
_RATE_HZ = 16000
_PRECISIONS = ("fp32", "int8_fp32")


def open_sessions(
    model_dir: Path, values: SimpleNamespace, calibration: Path
) -> dict[str, SpeechSession]:
    """Opens a model in TensorFlow and converted, the latter with greedy and beam search.

    Args:
        model_dir: SavedModel.
        values: values of the flags.
        calibration: folder of sounds for conversions to 8 bits.

    Returns:
        The sessions by the name of their side.
    """
    shared = {"batch_size": values.batch_size, "threads": values.threads}
    options = {EAGER: RecognitionOptions(run_eagerly=True, **shared)}
    for precision in values.precisions.split(","):
        converted = {
            **shared,
            "backend": values.backend,
            "quant_precision": precision,
            "calibration_data_dir": str(calibration),
        }
        options[f"converted {precision}"] = RecognitionOptions(**converted)
        beam = RecognitionOptions(**converted, beam_width=values.beam_width)
        options[f"converted {precision}, beam {values.beam_width}"] = beam
    return {name: open_session(model_dir, one) for name, one in options.items()}


def measure(
    sessions: Mapping[str, SpeechSession],
    peer: Peer | None,
    inputs: Mapping[str, np.ndarray],
    values: SimpleNamespace,
) -> dict[str, dict]:
    """Times the recognition of a batch, with all sides in turn.

    Args:
        sessions: result of `open_sessions`.
        peer: the peer with its model; None: our sides alone.
        inputs: `waveforms` `[B, S]` and `lengths` `[B]`.
        values: values of the flags.

    Returns:
        By side: milliseconds, seconds of sound per second, tokens of each sound, the speed relative
        to the peer, and the time relative to greedy search of the same model.
    """
    sides = {name: timed(session.recognize, inputs) for name, session in sessions.items()}
    tokens = {}
    for name, session in sessions.items():
        _say(name, "first batch, counting its tokens")
        tokens[name] = _num_tokens(session, inputs)
    if peer is not None:
        sides[PEER] = lambda: peer.ask("time", seconds=values.peer_seconds)
        _say(PEER, "first batch, counting its tokens")
        tokens[PEER] = peer.ask("tokens", seconds=values.peer_seconds)
    _say(f"{len(sides)} sides", f"{values.loop} rounds in turn, after a warm-up")
    rest = values.rest_seconds
    times = time_in_turn(
        sides, values.batch_size, values.loop, values.warmup_seconds, rest_seconds=rest
    )
    seconds = float(inputs["lengths"].sum()) / _RATE_HZ
    found = {}
    for name, time in times.items():
        row = {"whole_ms": time["median_ms"], "rtfx": 1e3 * seconds / time["median_ms"]}
        row["tokens"] = tokens[name]
        if peer is not None and name != PEER:
            row["against_peer"] = times[PEER]["median_ms"] / time["median_ms"]
        greedy = name.partition(",")[0]
        if greedy != name:
            row["against_greedy"] = time["median_ms"] / times[greedy]["median_ms"]
        found[name] = row
    return found


def _num_tokens(session: SpeechSession, inputs: Mapping[str, np.ndarray]) -> list[int]:
    """Returns the number of tokens of each sound; each one of the random model is a letter."""
    found = session.recognize(inputs)
    texts = (one.text if one.beam_text is None else one.beam_text for one in found)
    return [len(text.replace(" ", "")) for text in texts]


def unequal_tokens(rows: Mapping[str, Mapping]) -> str:
    """Describes sides with other numbers of tokens than the first side; empty if there are none.

    Args:
        rows: result of `measure`. Sides with other numbers of tokens do another amount of work.
    """
    first, *others = rows
    expected = np.array(rows[first]["tokens"])
    found = []
    for name in others:
        given = np.array(rows[name]["tokens"])
        if (given != expected).any():
            differ = counted(int((given != expected).sum()), "sound")
            found.append(f"{name}: {differ}, {given.sum()} tokens in all")
    if not found:
        return ""
    return f"other numbers of tokens than {first} ({expected.sum()}): {'; '.join(found)}"


def _say(side: str, step: str) -> None:
    print(f"{side}: {step}", file=sys.stderr, flush=True)


def word_errors(data_dir: str, values: SimpleNamespace, folder: Path) -> dict[str, float]:
    """Returns the word error rates of both searches of the bundled model's transducer."""
    model_dir = folder / "transducer"
    shutil.copytree(BUNDLED_MODEL, model_dir)
    path = model_dir / "assets" / "pipeline.json"
    pipeline = json.loads(path.read_text("utf-8")) | {"head": "transducer"}
    write_text(path, to_json(pipeline))
    options = RecognitionOptions(
        batch_size=values.batch_size,
        threads=values.threads,
        backend=values.backend,
        beam_width=values.beam_width,
    )
    with open_session(model_dir, options) as session:
        waveforms, texts = read_speech(session, data_dir)
        found = session.transcribe(list(waveforms), rate_hz=session.limits.rate_hz)
    return {
        "greedy": score(texts, [one.text for one in found]).wer,
        f"beam {values.beam_width}": score(texts, [one.beam_text for one in found]).wer,
    }


@contextlib.contextmanager
def _peer(
    values: SimpleNamespace, inputs: Mapping[str, np.ndarray], folder: Path, tokens: float
) -> Iterator[Peer | None]:
    """Starts the peer and builds its model. Without --peer_repo, says so and yields None."""
    with open_peer(
        "tools.benchmark.conformer_peer",
        [],
        f"--peer_repo={values.peer_repo}",
        f"--threads={values.threads}",
        absent="" if values.peer_repo else "no --peer_repo",
        python=values.peer_python,
    ) as peer:
        if peer is not None:
            path = folder / "waveforms.npy"
            np.save(path, inputs["waveforms"])
            _say(PEER, "building the model")
            peer.ask("build", NUM_SYMBOLS, str(path), tokens, seconds=values.peer_seconds)
        yield peer


def _show(rows: Mapping[str, Mapping]) -> None:
    width = max(map(len, rows))
    print(f"{'':{width}}  whole ms    RTFx  tokens   x {PEER}   time / greedy")
    for name, row in rows.items():
        ratios = [f"{row[x]:.2f}" if x in row else "-" for x in ("against_peer", "against_greedy")]
        print(
            f"{name:{width}}  {row['whole_ms']:8.1f}  {row['rtfx']:6.1f}  {sum(row['tokens']):6d}"
            f"{ratios[0]:>18}{ratios[1]:>16}"
        )


def _parse(argv: list[str]) -> SimpleNamespace:
    flags = CommandLine(
        "tools.benchmark.conformer_recognition",
        "Times whole recognition with a Conformer-S transducer of random weights, beside "
        "TensorFlowASR.",
        example="--peer_repo=CHECKOUT --peer_python=VENV/bin/python --json=recognition.json",
    )
    flags.group("Model")
    about = "Checkout of TensorSpeech/TensorFlowASR."
    flags.string("peer_repo", None, about, default_text="our sides alone")
    about = "Python of an environment in which TensorFlowASR runs."
    flags.string("peer_python", sys.executable, about, default_text="this one")
    flags.enum("backend", "openvino", ["openvino", "onnxruntime"], "Runtime of converted models.")
    flags.string("precisions", "fp32", f"Precisions to time, of {','.join(_PRECISIONS)}.")
    about = "Longest time for one request to the peer, such as building its model."
    flags.number("peer_seconds", 240.0, about)
    flags.group("Input")
    flags.integer("batch_size", 16, "Sounds of a batch.")
    flags.number("seconds", 10.0, "Length of the sounds.")
    flags.number("tokens_per_second", 5.0, "Tokens that the models emit.")
    about = "Data set on which the bundled digits model's transducer is scored with both searches."
    flags.string("data_dir", None, about, default_text="no word error rates")
    flags.group("Decoding")
    flags.integer("beam_width", 4, "Hypotheses of the beam search.")
    flags.group("Measurement")
    flags.integer("loop", 7, "Rounds, after a warm-up.")
    flags.number("warmup_seconds", 3.0, "Warm-up of each side.")
    flags.number("rest_seconds", 0.2, "Pause before each call, in which other threads stop.")
    flags.group("Runtime")
    flags.integer("threads", 2, "Threads.")
    flags.group("Output")
    about = "Folder in which the model with random weights is kept for another run."
    flags.string("work_dir", None, about, default_text="none is kept")
    flags.string("json", None, "Report to write.", default_text="none")
    values, rest = flags.parse(argv)
    if rest or values.loop < 1 or values.batch_size < 1 or not values.peer_seconds > 0:
        raise UserError.expected(
            "flags alone, with --loop >= 1, --batch_size >= 1 and --peer_seconds > 0",
            " ".join(argv),
            "See --help",
        )
    if not 1.0 <= values.seconds <= 60.0 or not 0.1 <= values.tokens_per_second <= 10.0:
        raise UserError.expected(
            "--seconds of 1 to 60 and --tokens_per_second of 0.1 to 10",
            f"{values.seconds:g} and {values.tokens_per_second:g}",
            "Correct them",
        )
    unknown = [x for x in values.precisions.split(",") if x not in _PRECISIONS]
    if unknown:
        raise UserError.expected(
            f"--precisions of {','.join(_PRECISIONS)}", unknown[0] or "none", "Correct the flag"
        )
    BeamSearch(values.beam_width)  # checks it
    return values


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    values = _parse(argv)
    if values.json:
        check_writable(Path(values.json))
    use_cores(values.threads)
    tokens = values.seconds * values.tokens_per_second
    inputs = paced_sound(values.batch_size, values.seconds, values.tokens_per_second, _RATE_HZ)
    with contextlib.ExitStack() as stack:
        temporary = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model_dir = (
            Path(values.work_dir or temporary)
            / f"paced_{values.batch_size}x{values.seconds:g}s_{tokens:g}"
        )
        if not model_dir.exists():
            _say("ours", "writing the model")
            # The eager side sets the threads of TensorFlow, which must not have run here before.
            write = partial(write_random_model, sound=inputs, tokens=tokens)
            in_own_process(write, model_dir)
        peer = stack.enter_context(_peer(values, inputs, temporary, tokens))
        _say("ours", "opening the sessions")
        # The ranges of 8 bits are those of this sound, as an application would calibrate.
        calibration = temporary / "calibration"
        calibration.mkdir()
        for number, waveform in enumerate(inputs["waveforms"]):
            soundfile.write(calibration / f"{number:03}.wav", waveform, _RATE_HZ, "FLOAT")
        sessions = open_sessions(model_dir, values, calibration)
        for session in sessions.values():
            stack.callback(session.close)
        report = described(values, peer.ask("versions") if peer else {})
        print(f"batch {values.batch_size}, {values.seconds:g} s, {tokens:g} tokens each")
        report["results"] = measure(sessions, peer, inputs, values)
        _show(report["results"])
        report["unequal_tokens"] = unequal_tokens(report["results"])
        if report["unequal_tokens"]:
            print(f"WARNING: {report['unequal_tokens']}")
        if values.data_dir:
            report["wer"] = word_errors(values.data_dir, values, temporary)
            rates = ", ".join(f"{name} {wer:.2%}" for name, wer in report["wer"].items())
            print(f"WER of the bundled model's transducer: {rates}")
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
