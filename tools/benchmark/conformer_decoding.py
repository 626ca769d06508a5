"""Times the searches of a converted speech Conformer's transducer beside its encoder."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

# Before any runtime.
from tools.benchmark.turns import batch_sizes, time_in_turn, timed, use_cores  # isort: skip

import numpy as np

from conformer.session import calibration_examples
from tools.benchmark.paced import SEED, rhythm
from tools.benchmark.paced_conformer import write_random_model
from tools.config.command_line import CommandLine, run
from tools.conversion import backends
from tools.conversion.machine import machine, processor
from tools.decoding.arpa import read_arpa
from tools.decoding.fusion import Fusion
from tools.decoding.greedy import GreedySearch
from tools.decoding.hot_graph import HotScores
from tools.decoding.hotwords import HotWord
from tools.decoding.kneser_ney import arpa_lines, count_ngrams, estimate
from tools.decoding.options import BeamSearch, TransducerBeamSearch
from tools.decoding.protocol import Search
from tools.decoding.texts import Texts
from tools.decoding.transducer_beam import TransducerBeamSearch as Beam
from tools.errors import UserError
from tools.files import check_writable, to_json, write_text
from tools.inference.opening import open_runner
from tools.inference.options import RunnerOptions
from tools.inference.runner import Runner
from tools.recognition.beams import network_options
from tools.recognition.windows import calibration_limits
from tools.speech.audio import load

_NUM_WORDS, _ORDER = 2000, 4  # of the language model
_NUM_HOT_WORDS = 20


class Counted:
    """The signatures of a model, with a count of the calls.

    Args:
        runner: an opened model.

    Attributes:
        steps: calls since it was set to 0.
    """

    def __init__(self, runner: Runner):
        self._runner, self.steps = runner, 0

    def __call__(self, inputs: Mapping[str, np.ndarray], signature: str) -> dict[str, np.ndarray]:
        """Runs a signature."""
        self.steps += 1
        return self._runner.run(inputs, signature)


def language_model(pipeline: Mapping, folder: Path, num_words: int = _NUM_WORDS) -> Fusion:
    """Estimates an n-gram model on random sentences of a model's tokens."""
    rng = np.random.default_rng(SEED)
    parts = [text.strip() for text in pipeline["vocabulary"]["surfaces"] if text.strip()]
    words = ["".join(rng.choice(parts, rng.integers(1, 4))) for _ in range(num_words)]
    sentences = [list(rng.choice(words, rng.integers(3, 12))) for _ in range(num_words)]
    names, ngrams = count_ngrams(sentences, _ORDER)
    path = folder / "random.arpa"
    path.write_text("".join(arpa_lines(names, ngrams, estimate(ngrams))))
    return Fusion(read_arpa(path))


def searches_of(
    runner: Runner, call: Counted, width: int, fusion: Fusion, *, threads: int = 1
) -> dict[str, Search]:
    """Returns the searches to time by name; `width` is that of the beams."""
    pipeline = runner.pipeline
    surfaces, blank = pipeline["vocabulary"]["surfaces"], pipeline["blank"]
    shape = {
        "blank": blank,
        "state_shape": pipeline["state_shape"],
        "max_symbols_per_frame": pipeline["max_symbols_per_frame"],
    }
    rng = np.random.default_rng(SEED)
    parts = [text.strip() for text in surfaces if text.strip()]
    hot_words = [HotWord("".join(rng.choice(parts, 3))) for _ in range(_NUM_HOT_WORDS)]
    options = TransducerBeamSearch(width)
    shape |= {**network_options(pipeline), "threads": threads}
    greedy = {**shape, "vocabulary_size": len(surfaces)}

    def beam(texts: Texts | None) -> Beam:
        return Beam(call, **shape, options=options, texts=texts)

    def texts(**known) -> Texts:
        return Texts(surfaces, blank, BeamSearch(width), **known)

    name = f"beam {width}"
    return {
        "greedy": GreedySearch(call, **greedy),
        "greedy, hot words": GreedySearch(
            call, **greedy, hot_scores=HotScores(hot_words, surfaces, blank)
        ),
        name: beam(None),
        f"{name}, hot words": beam(texts(hot_words=hot_words)),
        f"{name}, language model": beam(texts(fusion=fusion)),
    }


def _searched(search: Search, heard: Mapping[str, np.ndarray]) -> list:
    encoded = heard["encoded"]
    return search.finish(search.advance(search.start(len(encoded)), encoded, heard["lengths"]))


def measure(
    runner: Runner,
    call: Counted,
    searches: Mapping[str, Search],
    inputs: Mapping[str, np.ndarray],
    *,
    in_turn: Callable[[Mapping[str, Callable[[], float]]], Mapping],
    tokens_per_second: float | None = None,
) -> dict:
    """Times the encoder and all searches on a batch.

    Args:
        runner: an opened model.
        call: the model, for the searches.
        searches: searches by name, `greedy` among them.
        inputs: waveforms and their lengths.
        in_turn: times functions by name; see `tools.benchmark.turns.time_in_turn`.
        tokens_per_second: rate at which a model of `write_random_model` emits tokens; None leaves
            the encoded frames as they are.

    Returns:
        Milliseconds, the calls of signatures, tokens, the share of the search in the whole, and
        seconds of sound per second, of each search.
    """
    outputs = runner.run(inputs, "listen")
    heard = {"encoded": outputs["encoded"].copy(), "lengths": outputs["encoded_lengths"]}
    if tokens_per_second is not None:
        seconds = float(inputs["lengths"][0]) / runner.pipeline["sample_rate_hz"]
        batch, frames = heard["encoded"].shape[:2]
        tokens = np.arange(frames) * (tokens_per_second * seconds / heard["lengths"][0])
        heard["encoded"][..., 0] = rhythm(np.tile(tokens, (batch, 1)))
    sides = {"encoder": timed(runner.run, inputs, "listen")}
    sides |= {name: timed(_searched, search, heard) for name, search in searches.items()}
    times = in_turn(sides)
    encoder_ms = times["encoder"]["median_ms"]
    seconds = float(inputs["lengths"].sum()) / runner.pipeline["sample_rate_hz"]
    found = {}
    for name, search in searches.items():
        call.steps = 0
        tokens = sum(len(x.tokens) for x in _searched(search, heard))
        search_ms = times[name]["median_ms"]
        whole_ms = encoder_ms + search_ms
        found[name] = {
            "search_ms": search_ms,
            "whole_ms": whole_ms,
            "share_of_search": search_ms / whole_ms,
            "rtfx": 1e3 * seconds / whole_ms,
            "steps": call.steps,
            "tokens": tokens,
        }
    for row in found.values():
        row["against_greedy"] = row["whole_ms"] / found["greedy"]["whole_ms"]
    return {"encoder_ms": encoder_ms, "searches": found}


def _inputs(
    pipeline: Mapping, sound: np.ndarray | None, batch: int, seconds: float
) -> dict[str, np.ndarray]:
    """Returns a batch of noise, or of a sound that is repeated, each row from another place on."""
    samples = round(seconds * pipeline["sample_rate_hz"])
    rng = np.random.default_rng(SEED)
    if sound is None:
        waveforms = rng.normal(0, 0.1, (batch, samples)).astype("float32")
    else:
        places = rng.integers(0, len(sound), (batch, 1)) + np.arange(samples)
        waveforms = sound[places % len(sound)]
    return {"waveforms": waveforms, "lengths": np.full(batch, samples, np.int32)}


def _show(batch: int, seconds: float, row: Mapping) -> None:
    print(f"\nbatch {batch}, {seconds:g} s: encoder {row['encoder_ms']:.1f} ms")
    width = max(map(len, row["searches"]))
    print(f"{'':{width}}  search ms   share   steps  tokens    RTFx   x greedy, whole")
    for name, found in row["searches"].items():
        print(
            f"{name:{width}}  {found['search_ms']:9.1f}  {found['share_of_search']:6.1%}"
            f"  {found['steps']:6d}  {found['tokens']:6d}  {found['rtfx']:6.1f}"
            f"   {found['against_greedy']:.2f}"
        )


def _parse(argv: list[str]) -> SimpleNamespace:
    flags = CommandLine(
        "tools.benchmark.conformer_decoding",
        "Times greedy and beam search of a transducer beside its encoder, converted.",
        example="--batch_sizes=1,4,16 --json=decoding.json",
    )
    flags.group("Model")
    about = "Exported SavedModel."
    default = "a Conformer-S with random weights"
    flags.string("native_savedmodel_dir", None, about, default_text=default)
    flags.enum("backend", "openvino", [*backends.NAMES], "Runtime of the converted model.")
    flags.group("Input")
    flags.string("batch_sizes", "1,4,16", "Batch sizes to time.")
    about = "Lengths of the sounds in seconds; the batch sizes are timed with the first one."
    flags.string("seconds", "10,5,20", about)
    about = "Tokens that the model with random weights emits."
    flags.number("tokens_per_second", 5.0, about)
    about = "Sound file for an exported model, repeated to the lengths."
    flags.string("sound", None, about, default_text="noise")
    flags.group("Decoding")
    flags.integer("beam_width", 4, "Hypotheses of the beam searches.")
    flags.group("Measurement")
    flags.integer("loop", 5, "Rounds, after a warm-up.")
    flags.number("warmup_seconds", 1.0, "Warm-up of each side.")
    flags.group("Runtime")
    flags.integer("threads", 2, "Threads.")
    flags.group("Output")
    about = "Folder in which the model with random weights is kept for another run."
    flags.string("work_dir", None, about, default_text="none is kept")
    flags.string("json", None, "Report to write.", default_text="none")
    values, rest = flags.parse(argv)
    if rest or values.loop < 1 or not values.tokens_per_second > 0:
        raise UserError.expected(
            "flags alone, with --loop >= 1 and --tokens_per_second > 0",
            " ".join(argv),
            "See --help",
        )
    try:
        lengths = [float(x) for x in values.seconds.split(",")]
    except ValueError:
        lengths = [0.0]
    if not all(0.1 <= x <= 60.0 for x in lengths):
        raise UserError.expected("--seconds like 10,5,20", values.seconds, "Correct --seconds")
    batches = batch_sizes(values.batch_sizes)
    return SimpleNamespace(**vars(values) | {"lengths": lengths, "batches": batches})


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    values = _parse(argv)
    BeamSearch(values.beam_width)  # checks it
    if values.json:
        check_writable(Path(values.json))
    use_cores(values.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(values.work_dir or temporary)
        model_dir, rate = values.native_savedmodel_dir, None
        if model_dir is None:
            rate = values.tokens_per_second
            model_dir = folder / "random"
            if not model_dir.exists():
                write_random_model(model_dir)
        options = RunnerOptions(
            backend=values.backend, batch_size=max(values.batches), threads=values.threads
        )
        runner = open_runner(model_dir, options, calibration_examples)
        call, sound = Counted(runner), None
        if values.sound:
            sound = load(values.sound, calibration_limits(runner.pipeline))
        fusion = language_model(runner.pipeline, Path(temporary))
        searches = searches_of(runner, call, values.beam_width, fusion, threads=values.threads)
        first = values.lengths[0]
        rows = []
        sizes = [(batch, first) for batch in values.batches]
        sizes += [(values.batches[0], seconds) for seconds in values.lengths[1:]]
        for batch, seconds in sizes:
            inputs = _inputs(runner.pipeline, sound, batch, seconds)

            def in_turn(sides, batch=batch):
                return time_in_turn(sides, batch, values.loop, values.warmup_seconds)

            row = measure(runner, call, searches, inputs, in_turn=in_turn, tokens_per_second=rate)
            _show(batch, seconds, row)
            rows.append({"batch": batch, "seconds": seconds, **row})
    report = {
        "machine": machine(),
        "processor": processor(),
        "threads": values.threads,
        "backend": runner.backend,
        "model": str(values.native_savedmodel_dir or "random weights"),
        "tokens_per_second": rate,
        "beam_width": values.beam_width,
        "loop": values.loop,
        "results": rows,
    }
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
