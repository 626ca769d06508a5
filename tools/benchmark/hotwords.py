"""Measures hot words and a language model: names that are found, names put in wrongly, word errors.

The inputs are two corpora: sentences that each hold some of the hot words, and sentences without
any. `tools.benchmark.word_lists` and `tools.cli.synthesize_corpus` make them.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tools.amounts import counted
from tools.benchmark.robustness import open_speech, read_speech, transcript_form
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.config.making_options import from_flags
from tools.decoding.hotwords import read_hot_words
from tools.errors import UserError
from tools.files import check_writable, to_json, write_text
from tools.inference.flags import add_conversion_flags
from tools.inference.opening import restrict_devices
from tools.inference.report import runner_facts
from tools.recognition.options import RecognitionOptions
from tools.recognition.session import SpeechSession
from tools.speech.scoring import score

GREEDY = "greedy"


class Corpus(NamedTuple):
    """A corpus in memory.

    Attributes:
        waveforms: `[S]` each, at the rate of the model.
        texts: transcripts in the form that the model writes.
    """

    waveforms: Sequence[np.ndarray]
    texts: Sequence[str]


class Counts(NamedTuple):
    """Phrases in recognized texts.

    Attributes:
        num_said: phrases in the transcripts.
        num_found: those of them that were recognized.
        num_wrong: recognized phrases that are not in the transcript.
        num_wrong_texts: texts with such a phrase.
    """

    num_said: int
    num_found: int
    num_wrong: int
    num_wrong_texts: int


def count_phrases(said: Sequence[str], found: Sequence[str], phrases: Sequence[str]) -> Counts:
    """Compares the phrases of recognized texts with those of the transcripts.

    Args:
        said: transcripts.
        found: recognized texts in the same order.
        phrases: whole words with single spaces between them.
    """
    num_said = num_found = num_wrong = num_wrong_texts = 0
    for reference, text in zip(said, found, strict=True):
        pairs = [(_occurrences(reference, x), _occurrences(text, x)) for x in phrases]
        num_said += sum(before for before, _ in pairs)
        num_found += sum(min(pair) for pair in pairs)
        wrong = sum(max(0, after - before) for before, after in pairs)
        num_wrong, num_wrong_texts = num_wrong + wrong, num_wrong_texts + (wrong > 0)
    return Counts(num_said, num_found, num_wrong, num_wrong_texts)


def _occurrences(text: str, phrase: str) -> int:
    return f" {' '.join(text.split())} ".replace(" ", "  ").count(f" {phrase.replace(' ', '  ')} ")


def recognized(session: SpeechSession, corpus: Corpus) -> list[str]:
    """Returns the texts of a corpus: of the beam search if there is one, else of greedy search."""
    heard = session.transcribe([*corpus.waveforms], rate_hz=session.limits.rate_hz)
    return [one.text if one.beam_text is None else one.beam_text for one in heard]


def measure(
    open_model: Callable[..., SpeechSession],
    *,
    names: str,
    corpora: Callable[[SpeechSession], tuple[Corpus, Corpus]],
    beam_width: int,
    lm_path: str | None = None,
) -> dict:
    """Recognizes both corpora with and without hot words, and with a language model.

    Args:
        open_model: function of search options (`beam_width`, `hotwords`, `lm_path`) that opens the
            model.
        names: file of the hot words.
        corpora: function of a session that returns the corpus with names, and the one without.
        beam_width: hypotheses of the beam search.
        lm_path: language model; None to leave these rows out.

    Returns:
        The report: facts about the runtime, and a row for each search.
    """
    beam = {"beam_width": beam_width}
    searches = {
        GREEDY: {},
        f"{GREEDY}, hot words": {"hotwords": names},
        f"beam {beam_width}": beam,
        f"beam {beam_width}, hot words": beam | {"hotwords": names},
    }
    if lm_path is not None:
        fused = beam | {"lm_path": lm_path}
        searches[f"beam {beam_width}, language model"] = fused
        searches[f"beam {beam_width}, language model, hot words"] = fused | {"hotwords": names}
    report: dict = {"rows": []}
    for name, options in tqdm(searches.items(), "searches", file=sys.stderr):
        with open_model(**options) as session:
            with_names, without = corpora(session)
            normalize = transcript_form(session.pipeline)
            phrases = [normalize(word.text) for word in read_hot_words(names)]
            texts = recognized(session, with_names), recognized(session, without)
            report |= runner_facts(session.runner)
        found = count_phrases(with_names.texts, texts[0], phrases)
        wrong = count_phrases(without.texts, texts[1], phrases)
        errors = [score(x.texts, y) for x, y in zip((with_names, without), texts, strict=True)]
        report["rows"].append(
            {
                "search": name,
                "num_names": found.num_said,
                "num_found": found.num_found,
                "recall": found.num_found / max(1, found.num_said),
                "num_wrong_beside_names": found.num_wrong,
                "num_without_names": len(without.texts),
                "num_wrong": wrong.num_wrong_texts,
                "wer_with_names": errors[0].wer,
                "wer_without_names": errors[1].wer,
                "texts": {"with_names": texts[0], "without_names": texts[1]},
            }
        )
    return report


def lines(report: dict) -> list[str]:
    """Returns the table of a report as lines, and the effect of the language model."""
    rows = report["rows"]
    found = [
        f"{row['search']}: {row['num_found']} of {counted(row['num_names'], 'name')} found "
        f"({row['recall']:.0%}); names in {row['num_wrong']} of {row['num_without_names']} "
        f"utterances without names; WER {row['wer_with_names']:.2%} with names, "
        f"{row['wer_without_names']:.2%} without"
        for row in rows
    ]
    if len(rows) > 4:
        plain, fused = rows[2]["wer_without_names"], rows[4]["wer_without_names"]
        change = (plain - fused) / plain if plain else 0.0
        found.append(f"the language model: {change:.0%} fewer word errors in sentences")
    return found


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.benchmark.hotwords",
        "Measures how many names a recognizer finds with and without hot words, how many it puts "
        "in wrongly, and the word errors with and without a language model.",
        "--model=DIR --names=FILE --with_names=DIR --without_names=DIR [FLAGS]",
        example="--model=exports/m --names=names.txt --with_names=A --without_names=B",
    )
    flags.group("Model")
    about = "SavedModel or converted model of a speech family."
    flags.string("model", None, about, default_text=REQUIRED)
    flags.group("Input")
    about = "File of the hot words, one a line, as for --hotwords."
    flags.string("names", None, about, default_text=REQUIRED)
    about = "LibriSpeech-layout data set in which these names are said."
    flags.string("with_names", None, about, default_text=REQUIRED)
    about = "Data set in which they are not said."
    flags.string("without_names", None, about, default_text=REQUIRED)
    about = "N-gram language model, for word errors with and without it."
    flags.string("lm_path", None, about, default_text="none")
    flags.group("Output")
    flags.string("json", None, "Report to write.")
    flags.group("Decoding")
    flags.integer("beam_width", 8, "Number of hypotheses of the beam search.")
    flags.group("Runtime")
    flags.integer("batch_size", 16, "Sounds run together.")
    about = "Runs the SavedModel in TensorFlow; by default the model is converted."
    flags.boolean("run_eagerly", False, about)
    add_conversion_flags(flags)
    values, rest = flags.parse(argv)
    needed = (values.model, values.names, values.with_names, values.without_names)
    if rest or not all(needed):
        raise UserError.expected(
            "--model DIR --names FILE --with_names DIR --without_names DIR",
            " ".join(argv) or "nothing",
            "See --help",
        )
    if values.json:
        check_writable(Path(values.json))
    read_hot_words(values.names)  # before the model is opened
    # The search of each row is set below.
    options = from_flags(RecognitionOptions, values, beam_width=0, lm_path=None)
    restrict_devices(options.visible_devices)
    read: list[Corpus] = []

    def corpora(session: SpeechSession) -> tuple[Corpus, Corpus]:
        if not read:
            places = (values.with_names, values.without_names)
            read.extend(Corpus(*read_speech(session, place)) for place in places)
        return read[0], read[1]

    report = measure(
        lambda **search: open_speech(values.model, dataclasses.replace(options, **search)),
        names=values.names,
        corpora=corpora,
        beam_width=values.beam_width,
        lm_path=values.lm_path,
    )
    print("\n".join(lines(report)))
    if values.json:
        write_text(Path(values.json), to_json({"model": values.model, **report}, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
