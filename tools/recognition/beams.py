"""Makes the beam searches of recognizers."""

from collections.abc import Callable, Mapping

from tools.decoding.options import BeamSearch, TransducerBeamSearch
from tools.decoding.protocol import BeamSearching, Call


def ctc_beam_search(pipeline: Mapping, options: BeamSearch, n_best: int = 1) -> BeamSearching:
    """Returns the beam search over CTC logits, with the language model of the options.

    Args:
        pipeline: content of the model's `pipeline.json`.
        options: width, language model and weights.
        n_best: number of texts that will be asked for.

    Raises:
        UserError: the language model cannot be read, or has no word that the model can write.
    """
    # Importing numba takes a second, which greedy search does without.
    from tools.decoding.ctc_beam import CtcBeamSearch
    from tools.decoding.fusion import open_fusion

    fusion = None if options.language_model is None else open_fusion(options.language_model)
    surfaces, blank = pipeline["vocabulary"]["surfaces"], pipeline["blank"]
    return CtcBeamSearch(surfaces, blank, options, fusion, keeps_history=n_best > 1)


def beam_search_of(
    pipeline: Mapping, options: BeamSearch, n_best: int, norm_score: bool
) -> Callable[[Call], BeamSearching]:
    """Returns a function of a `Call` that makes the beam search of a Conformer.

    Args:
        pipeline: content of the model's `pipeline.json`, which names the decoded head.
        options: width, language model and weights.
        n_best: number of texts that will be asked for.
        norm_score: see `TransducerBeamSearch`.

    Raises:
        UserError: the language model cannot be read, or has no word that the model can write.
    """
    if pipeline.get("head") == "ctc":
        search = ctc_beam_search(pipeline, options, n_best)
        return lambda call: search
    from tools.decoding.transducer_beam import TransducerBeamSearch as Search

    texts = None
    if options.language_model is not None:
        from tools.decoding.fusion import open_fusion
        from tools.decoding.texts import Texts

        fusion = open_fusion(options.language_model)
        texts = Texts(pipeline["vocabulary"]["surfaces"], pipeline["blank"], options, fusion)

    def make(call: Call) -> BeamSearching:
        return Search(
            call,
            blank=pipeline["blank"],
            state_shape=pipeline["state_shape"],
            max_symbols_per_frame=pipeline["max_symbols_per_frame"],
            blank_penalty=pipeline.get("blank_penalty", 0.0),
            options=TransducerBeamSearch(options.width, norm_score),
            texts=texts,
        )

    return make


def max_window(pipeline: Mapping) -> int:
    """Returns the largest number of frames in one call of a transducer's `join`.

    Args:
        pipeline: content of the model's `pipeline.json`.
    """
    ranges = pipeline.get("convert", {}).get("join", {}).get("dim_range", {})
    return ranges.get("encoded", [[1, 1]])[0][1]
