"""Error rates of recognized texts, as they are written and without case and punctuation."""

from collections.abc import Iterable, Sequence

from tools.inference.options import SCORE_TEXTS
from tools.inference.report import SpeechRow
from tools.speech.scoring import score
from tools.speech.transcripts import plain_words

_RATES = ("wer", "cer", "substitutions", "deletions", "insertions")


def scored_text(references: Iterable[str], surfaces: Iterable[str]) -> str:
    """Returns which texts of a data set are scored unless the user chooses.

    Args:
        references: transcripts.
        surfaces: text of each symbol of the model.

    Returns:
        `"normalized"` if the model writes letters of both cases, and the transcripts have letters
        of one case only and no punctuation; else `"raw"`.
    """
    if not _has_both_cases("".join(surfaces)):
        return "raw"
    said = " ".join(references)
    is_plain = not _has_both_cases(said) and plain_words(said).split() == said.lower().split()
    return "normalized" if is_plain else "raw"


def _has_both_cases(text: str) -> bool:
    return any(x.islower() for x in text) and any(x.isupper() for x in text)


def error_rates(rows: Sequence[SpeechRow], kind: str | None) -> dict:
    """Computes the error rates of a data set.

    Args:
        rows: recognized utterances, at least one.
        kind: one of `SCORE_TEXTS`; None without transcripts.

    Returns:
        `score_text`: the kind. `wer`, `cer`, `substitutions`, `deletions` and `insertions` of these
        texts, and with a beam search `beam_wer` and `beam_cer`. `raw` and `normalized`: the word
        and character error rates of both kinds. Without transcripts all are None.
    """
    if kind is None:
        return dict.fromkeys((*_RATES, "score_text", *SCORE_TEXTS))
    both = {name: _rates(rows, name) for name in SCORE_TEXTS}
    shown = {x: {k: v for k, v in both[x].items() if k.endswith("er")} for x in SCORE_TEXTS}
    return {**both[kind], "score_text": kind, **shown}


def _rates(rows: Sequence[SpeechRow], kind: str) -> dict:
    change = plain_words if kind == "normalized" else str
    references = [change(row.reference) for row in rows]
    result = score(references, [change(row.text) for row in rows])
    rates = {name: getattr(result, name) for name in _RATES}
    if rows[0].beam_text is not None:
        found = score(references, [change(row.beam_text) for row in rows])
        rates |= {"beam_wer": found.wer, "beam_cer": found.cer}
    return rates
