"""Makes the hot words and the beam searches of recognizers."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tools.decoding.hotwords import HotWord, read_hot_words, spelled_hot_words
from tools.decoding.options import BeamSearch, TransducerBeamSearch
from tools.decoding.protocol import BeamSearching, Call
from tools.errors import UserError

if TYPE_CHECKING:
    from tools.decoding.hot_graph import HotScores  # imports numba


def hot_words_of(
    pipeline: Mapping,
    source: str | Sequence[str] | None,
    normalization_of: Callable[[Mapping], Callable[[str], str]],
) -> list[HotWord]:
    """Returns the hot words that a model can write, and names the other ones on stderr.

    Args:
        pipeline: content of the model's `pipeline.json`.
        source: file or lines, see `read_hot_words`; None for no hot words.
        normalization_of: function of `pipeline.json` that returns the function which normalizes
            transcripts for the model's vocabulary.

    Raises:
        UserError: the file cannot be used, or the model can write none of its phrases.
    """
    if source is None:
        return []
    given = read_hot_words(source)
    surfaces, normalize = pipeline["vocabulary"]["surfaces"], normalization_of(pipeline)
    words, left_out = spelled_hot_words(given, surfaces, normalize)
    named = ", ".join(left_out)
    if not words:
        raise UserError.expected(
            "hot words that the vocabulary of the model can write", named, "Give other ones"
        )
    if left_out:
        message = "hot words that the vocabulary of the model cannot write are left out"
        print(f"{message}: {named}", file=sys.stderr)
    return [word for word in words if word.weight]


def hot_scores_of(pipeline: Mapping, words: Sequence[HotWord]) -> "HotScores | None":
    """Returns the scores of hot words for greedy searches; None without hot words."""
    if not words:
        return None
    from tools.decoding.hot_graph import HotScores

    return HotScores(words, pipeline["vocabulary"]["surfaces"], pipeline["blank"])


def ctc_beam_search(
    pipeline: Mapping,
    options: BeamSearch,
    n_best: int = 1,
    *,
    hot_words: Sequence[HotWord] = (),
) -> BeamSearching:
    """Returns the beam search over CTC logits, with the language model of the options.

    Args:
        pipeline: content of the model's `pipeline.json`.
        options: width, language model and weights.
        n_best: number of texts that will be asked for.
        hot_words: phrases with a higher score.

    Raises:
        UserError: the language model cannot be read, or has no word that the model can write.
    """
    # Importing numba takes a second, which greedy search does without.
    from tools.decoding.ctc_beam import CtcBeamSearch
    from tools.decoding.fusion import open_fusion

    fusion = None if options.language_model is None else open_fusion(options.language_model)
    surfaces, blank = pipeline["vocabulary"]["surfaces"], pipeline["blank"]
    return CtcBeamSearch(
        surfaces, blank, options, fusion, hot_words=hot_words, keeps_history=n_best > 1
    )


def beam_search_of(
    pipeline: Mapping,
    options: BeamSearch,
    n_best: int,
    *,
    norm_score: bool = False,
    hot_words: Sequence[HotWord] = (),
    threads: int = 1,
) -> Callable[[Call], BeamSearching]:
    """Returns a function of a `Call` that makes the beam search of a Conformer.

    Args:
        pipeline: content of the model's `pipeline.json`, which names the decoded head.
        options: width, language model and weights.
        n_best: number of texts that will be asked for.
        norm_score: see `TransducerBeamSearch`.
        hot_words: phrases with a higher score.
        threads: number of calls of a transducer's networks that may run at the same time.

    Raises:
        UserError: the language model cannot be read, or has no word that the model can write.
    """
    if pipeline.get("head") == "ctc":
        search = ctc_beam_search(pipeline, options, n_best, hot_words=hot_words)
        return lambda call: search
    from tools.decoding.tdt_beam import TdtBeamSearch
    from tools.decoding.transducer_beam import TransducerBeamSearch as Search

    texts = None
    if options.language_model is not None or hot_words:
        from tools.decoding.fusion import open_fusion
        from tools.decoding.texts import Texts

        fusion = None if options.language_model is None else open_fusion(options.language_model)
        surfaces, blank = pipeline["vocabulary"]["surfaces"], pipeline["blank"]
        texts = Texts(surfaces, blank, options, fusion, hot_words=hot_words)

    def make(call: Call) -> BeamSearching:
        common = {
            "blank": pipeline["blank"],
            "state_shape": pipeline["state_shape"],
            "max_symbols_per_frame": pipeline["max_symbols_per_frame"],
            "blank_penalty": pipeline.get("blank_penalty", 0.0),
            "options": TransducerBeamSearch(options.width, norm_score),
            "texts": texts,
            **network_options(pipeline),
        }
        if pipeline.get("durations"):
            return TdtBeamSearch(call, durations=pipeline["durations"], **common)
        return Search(call, threads=threads, **common)

    return make


def network_options(pipeline: Mapping) -> dict[str, int | bool]:
    """Returns `projects` and `max_window` of a transducer; see `tools.decoding.networks.Networks`.

    Args:
        pipeline: content of the model's `pipeline.json`. Exports of earlier versions have the
            signature `join` in place of `project` and `join_projected`.
    """
    converted = pipeline.get("convert", {})
    projects = "project" in converted
    ranges = converted.get("project" if projects else "join", {}).get("dim_range", {})
    return {"projects": projects, "max_window": ranges.get("encoded", [[1, 1]])[0][1]}
