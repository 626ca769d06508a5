"""Times the CTC beam search beside pyctcdecode, on the same logits in one process."""

import importlib.util
import logging
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from string import ascii_uppercase

# Before any runtime.
from tools.benchmark.turns import time_in_turn, timed, use_cores  # isort: skip

import numpy as np

from tools.config.command_line import CommandLine, run
from tools.conversion.machine import machine, processor
from tools.decoding.arpa import read_arpa
from tools.decoding.ctc_beam import CtcBeamSearch
from tools.decoding.fusion import Fusion
from tools.decoding.kneser_ney import arpa_lines, count_ngrams, estimate
from tools.decoding.ngrams import NgramModel
from tools.decoding.options import BeamSearch
from tools.decoding.text import text_of
from tools.errors import UserError
from tools.files import check_writable, to_json, write_text

SEED = 1
OURS, PEER = "ours", "pyctcdecode"
SURFACES = ["", *ascii_uppercase, "'", " "]  # the blank is symbol 0
_NUM_WORDS, _NUM_SENTENCES, _ORDER = 2000, 5000, 4
_SURE = 6.0  # logit of the right symbol, beside noise of a standard deviation of 1 to 2


def sentences_of(rng: np.random.Generator, num_words: int, count: int) -> list[str]:
    """Returns random sentences of made-up words, some of which are frequent."""
    letters = [*ascii_uppercase]
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(num_words)]
    shares = 1 / np.arange(1, num_words + 1)
    shares /= shares.sum()
    return [" ".join(rng.choice(words, rng.integers(5, 16), p=shares)) for _ in range(count)]


def logits_of(rng: np.random.Generator, text: str) -> np.ndarray:
    """Returns noisy logits `[T, V]` of a text: one or two frames a letter, and blanks between."""
    path: list[int] = []
    for letter in text:
        path += [SURFACES.index(letter)] * rng.integers(1, 3) + [0] * rng.integers(1, 3)
    logits = rng.uniform(1, 2) * rng.normal(size=(len(path), len(SURFACES)))
    logits[np.arange(len(path)), path] += _SURE
    return logits.astype(np.float32)


def searches(
    width: int, model: NgramModel | None, arpa: Path
) -> dict[str, Callable[[np.ndarray], str]]:
    """Returns functions from logits `[T, V]` to the best text, by side; the peer if it is there.

    Args:
        width: number of beams.
        model: language model; None for none.
        arpa: its file.
    """
    search = CtcBeamSearch(SURFACES, 0, BeamSearch(width), model and Fusion(model))

    def ours(logits: np.ndarray) -> str:
        state = search.advance(search.start(1), logits[None], np.array([len(logits)]))
        (found,) = search.finish(state)
        return " ".join(text_of(found.tokens, SURFACES).split())

    found = {OURS: ours}
    needed = ("pyctcdecode", *(["kenlm"] if model else []))
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"no {missing[0]}: our side runs alone", file=sys.stderr)
        return found
    import pyctcdecode

    logging.getLogger("pyctcdecode").setLevel(logging.ERROR)
    peer_model = None
    if model:
        import kenlm

        peer_model = pyctcdecode.LanguageModel(kenlm.Model(str(arpa)), model.vocabulary())
    alphabet = pyctcdecode.Alphabet.build_alphabet(SURFACES)
    decoder = pyctcdecode.BeamSearchDecoderCTC(alphabet, peer_model)
    found[PEER] = lambda logits: decoder.decode(logits, beam_width=width)
    return found


def score_of(logits: np.ndarray, text: str, model: NgramModel | None = None) -> float:
    """Returns the score of a text, which both searches look for the largest value of.

    Args:
        logits: `[T, V]`.
        text: words with single spaces between them.
        model: language model, with the default weights; None for none.

    Returns:
        Log-probability of the text, summed over all paths, plus the scores of its words.
    """
    scores = logits.astype(np.float64)
    scores -= np.logaddexp.reduce(scores, axis=-1, keepdims=True)
    path = np.array([0, *(x for letter in text for x in (SURFACES.index(letter), 0))])
    skips = np.append([False, False], (path[2:] != 0) & (path[2:] != path[:-2]))[: len(path)]
    ends = np.where(np.arange(len(path)) < 2, scores[0, path], -np.inf)
    for frame in scores[1:]:
        before = np.append(-np.inf, ends[:-1])
        skipped = np.where(skips, np.append([-np.inf, -np.inf], ends[:-2])[: len(path)], -np.inf)
        ends = np.logaddexp.reduce([ends, before, skipped]) + frame[path]
    total = float(np.logaddexp.reduce(ends[-2:]))
    if model is None:
        return total
    options, words = BeamSearch(), text.split()
    log10 = model.score_sentence(text)
    log10 += options.unknown_offset * sum(word not in model for word in words)
    return total + options.weight * log10 * np.log(10) + options.word_bonus * len(words)


def measure(
    sides: Mapping[str, Callable[[np.ndarray], str]],
    logits: Sequence[np.ndarray],
    loop: int,
    score: Callable[[np.ndarray, str], float],
    *,
    in_turn: Callable[..., Mapping] = time_in_turn,
) -> dict[str, object]:
    """Times the searches on all logits.

    Args:
        sides: result of `searches`.
        logits: `[T, V]` each.
        loop: number of rounds.
        score: function of logits and a text; see `score_of`.
        in_turn: see `tools.benchmark.turns.time_in_turn`.

    Returns:
        Milliseconds of each side for all logits, and if the peer is there, its time divided by
        ours, and the numbers of our texts that are equal, and that have a better or a worse score.
    """
    texts = {name: [decode(x) for x in logits] for name, decode in sides.items()}

    def all_of(decode: Callable[[np.ndarray], str]) -> None:
        for one in logits:
            decode(one)

    calls = {name: timed(all_of, decode) for name, decode in sides.items()}
    times = in_turn(calls, len(logits), loop, 0.0, warmup_calls=1)
    row: dict[str, object] = {name: time["median_ms"] for name, time in times.items()}
    if PEER in sides:
        row["speedup"] = times[PEER]["median_ms"] / times[OURS]["median_ms"]
        found = list(zip(logits, texts[OURS], texts[PEER], strict=True))
        gains = [score(x, own) - score(x, peer) for x, own, peer in found]
        row["equal_texts"] = sum(own == peer for _, own, peer in found)
        row["better_texts"] = sum(gain > 0 for gain in gains)
        row["worse_texts"] = sum(gain < 0 for gain in gains)
    return row


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "tools.benchmark.ctc_decoding",
        "Times the CTC beam search beside pyctcdecode, without and with a 4-gram.",
        example="--beam_width=100 --json=ctc.json",
    )
    flags.group("Input")
    flags.integer("num_sentences", 20, "Sentences whose logits are made up.")
    flags.group("Decoding")
    flags.integer("beam_width", 100, "Number of beams.")
    flags.group("Measurement")
    flags.integer("loop", 5, "Rounds, after a warm-up.")
    flags.group("Runtime")
    flags.integer("threads", 2, "Cores to use.")
    flags.group("Output")
    flags.string("json", None, "Report to write.", default_text="none")
    values, rest = flags.parse(argv)
    if rest or values.loop < 1 or values.num_sentences < 1:
        raise UserError.expected(
            "flags alone, with --loop >= 1 and --num_sentences >= 1", " ".join(argv), "See --help"
        )
    BeamSearch(values.beam_width)  # checks it
    if values.json:
        check_writable(Path(values.json))
    use_cores(values.threads)
    rng = np.random.default_rng(SEED)
    known = sentences_of(rng, _NUM_WORDS, _NUM_SENTENCES)
    logits = [logits_of(rng, text) for text in known[: values.num_sentences]]
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        arpa = Path(temporary) / "words.arpa"
        names, ngrams = count_ngrams([text.split() for text in known], _ORDER)
        arpa.write_text("".join(arpa_lines(names, ngrams, estimate(ngrams))))
        for name, model in (("no language model", None), ("4-gram", read_arpa(arpa))):
            sides = searches(values.beam_width, model, arpa)
            row = measure(sides, logits, values.loop, partial(score_of, model=model))
            results[name] = row
            line = ", ".join(f"{side} {row[side]:.1f} ms" for side in (OURS, PEER) if side in row)
            if "speedup" in row:
                line += f", {row['speedup']:.1f} x; {row['equal_texts']} of {len(logits)} texts are"
                line += f" the same, {row['better_texts']} of ours have a better score and"
                line += f" {row['worse_texts']} a worse one"
            print(f"{name}: {line}")
    report = {
        "machine": machine(),
        "processor": processor(),
        "beam_width": values.beam_width,
        "frames": sum(map(len, logits)),
        "results": results,
    }
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
