"""Times the searches of a converted speech Conformer's transducer beside its encoder."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

# Before any runtime.
from tools.benchmark.turns import batch_sizes, time_in_turn, timed, use_cores  # isort: skip

import numpy as np

from conformer.session import calibration_examples
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
from tools.recognition.beams import max_window

SEED = 1
_NUM_TOKENS = 1000  # of the model with random weights
_NUM_WORDS, _ORDER = 2000, 4  # of the language model
_NUM_HOT_WORDS = 20
_BISECTIONS = 14  # to find the bias of the blank


class Biased:
    """The signatures `predict` and `join` of a model, with a number added to the blank's logit.

    Args:
        runner: an opened model.

    Attributes:
        bias: the number.
        steps: calls since it was set to 0.
    """

    def __init__(self, runner: Runner):
        self._runner, self._blank = runner, runner.pipeline["blank"]
        self.bias, self.steps = 0.0, 0

    def __call__(self, inputs: Mapping[str, np.ndarray], signature: str) -> dict[str, np.ndarray]:
        """Runs a signature."""
        self.steps += 1
        outputs = self._runner.run(inputs, signature)
        if signature == "join" and self.bias:
            outputs["logits"][..., self._blank] += self.bias
        return outputs


def write_random_model(folder: Path) -> None:
    """Exports a Conformer-S with random weights, whose tokens are beginnings and parts of words."""
    import keras

    from conformer.config import load_config
    from conformer.model import build_model
    from conformer.signatures import Signatures, exported_weights, pipeline_description
    from conformer.tokenizer import CharacterTokenizer
    from tools.conversion.saved_model import write_saved_model

    keras.utils.set_random_seed(SEED)
    config = load_config()
    letters = [chr(0x4E00 + number) for number in range(_NUM_TOKENS - 2)]
    tokenizer = CharacterTokenizer(letters)
    model = build_model(config, tokenizer.vocabulary_size)
    signatures = Signatures(model, tokenizer.surfaces, config)
    description = pipeline_description(config, tokenizer, model)
    write_saved_model(folder, signatures.functions, exported_weights(model, config), description)


def language_model(pipeline: Mapping, folder: Path) -> Fusion:
    """Estimates an n-gram model on random sentences of a model's tokens."""
    rng = np.random.default_rng(SEED)
    parts = [text.strip() for text in pipeline["vocabulary"]["surfaces"] if text.strip()]
    words = ["".join(rng.choice(parts, rng.integers(1, 4))) for _ in range(_NUM_WORDS)]
    sentences = [list(rng.choice(words, rng.integers(3, 12))) for _ in range(_NUM_WORDS)]
    names, ngrams = count_ngrams(sentences, _ORDER)
    path = folder / "random.arpa"
    path.write_text("".join(arpa_lines(names, ngrams, estimate(ngrams))))
    return Fusion(read_arpa(path))


def searches_of(runner: Runner, call: Biased, width: int, fusion: Fusion) -> dict[str, Search]:
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
    options, window = TransducerBeamSearch(width), max_window(pipeline)

    def beam(texts: Texts | None) -> Beam:
        return Beam(call, **shape, options=options, texts=texts)

    def texts(**known) -> Texts:
        return Texts(surfaces, blank, BeamSearch(width), **known)

    name = f"beam {width}"
    return {
        "greedy": GreedySearch(call, **shape, max_window=window),
        "greedy, hot words": GreedySearch(
            call,
            **shape,
            max_window=window,
            hot_scores=HotScores(hot_words, surfaces, blank),
        ),
        name: beam(None),
        f"{name}, hot words": beam(texts(hot_words=hot_words)),
        f"{name}, language model": beam(texts(fusion=fusion)),
    }


def set_emission_rate(call: Biased, search: Search, heard: Mapping, tokens: float) -> None:
    """Sets the bias of the blank so that greedy search writes so many tokens."""
    low, high = -40.0, 40.0
    for _ in range(_BISECTIONS):
        call.bias = (low + high) / 2
        count = sum(len(x.tokens) for x in _searched(search, heard))
        low, high = (call.bias, high) if count > tokens else (low, call.bias)


def _searched(search: Search, heard: Mapping[str, np.ndarray]) -> list:
    encoded = heard["encoded"]
    return search.finish(search.advance(search.start(len(encoded)), encoded, heard["lengths"]))


def measure(
    runner: Runner,
    call: Biased,
    searches: Mapping[str, Search],
    inputs: Mapping[str, np.ndarray],
    *,
    in_turn: Callable[[Mapping[str, Callable[[], float]]], Mapping],
) -> dict:
    """Times the encoder and all searches on a batch.

    Returns:
        Milliseconds, the calls of signatures, tokens, the share of the search in the whole, and
        seconds of sound per second, of each search.
    """
    outputs = runner.run(inputs, "listen")
    heard = {"encoded": outputs["encoded"], "lengths": outputs["encoded_lengths"]}
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


def _inputs(pipeline: Mapping, batch: int, seconds: float) -> dict[str, np.ndarray]:
    samples = round(seconds * pipeline["sample_rate_hz"])
    waveforms = np.random.default_rng(SEED).normal(0, 0.1, (batch, samples)).astype("float32")
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
        "Times greedy and beam search of a transducer beside its encoder, converted, on noise. The "
        "blank gets a bias with which greedy search writes tokens at a given rate.",
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
    flags.number("tokens_per_second", 5.0, "Tokens that greedy search writes.")
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
        model_dir = values.native_savedmodel_dir
        if model_dir is None:
            model_dir = folder / "random"
            if not model_dir.exists():
                write_random_model(model_dir)
        options = RunnerOptions(
            backend=values.backend, batch_size=max(values.batches), threads=values.threads
        )
        runner = open_runner(model_dir, options, calibration_examples)
        call = Biased(runner)
        fusion = language_model(runner.pipeline, Path(temporary))
        searches = searches_of(runner, call, values.beam_width, fusion)
        first = values.lengths[0]
        heard = runner.run(_inputs(runner.pipeline, 4, first), "listen")
        heard = {"encoded": heard["encoded"], "lengths": heard["encoded_lengths"]}
        set_emission_rate(call, searches["greedy"], heard, 4 * first * values.tokens_per_second)
        rows = []
        sizes = [(batch, first) for batch in values.batches]
        sizes += [(values.batches[0], seconds) for seconds in values.lengths[1:]]
        for batch, seconds in sizes:
            inputs = _inputs(runner.pipeline, batch, seconds)

            def in_turn(sides, batch=batch):
                return time_in_turn(sides, batch, values.loop, values.warmup_seconds)

            row = measure(runner, call, searches, inputs, in_turn=in_turn)
            _show(batch, seconds, row)
            rows.append({"batch": batch, "seconds": seconds, **row})
    report = {
        "machine": machine(),
        "processor": processor(),
        "threads": values.threads,
        "backend": runner.backend,
        "model": str(values.native_savedmodel_dir or "random weights"),
        "blank_bias": call.bias,
        "beam_width": values.beam_width,
        "loop": values.loop,
        "results": rows,
    }
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
