"""Word and character error rates of recognized text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jiwer

from tools.speech.transcripts import normalize_transcript, visible


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of a whole corpus; rates are fractions of the references' length, above 1 if need be.

    Attributes:
        wer: word errors divided by reference words.
        cer: character errors divided by reference characters, single spaces between words included.
        substitutions: words of the references that were recognized as another.
        deletions: words of the references that are missing.
        insertions: words that are in no reference.
        num_words: in the references.
        num_characters: in the references.
        character_substitutions: as above, in characters.
        character_deletions: as above, in characters.
        character_insertions: as above, in characters.
    """

    wer: float
    cer: float
    substitutions: int
    deletions: int
    insertions: int
    num_words: int
    num_characters: int
    character_substitutions: int
    character_deletions: int
    character_insertions: int


def _errors(process: Callable, pairs: Sequence[tuple[str, str]]) -> tuple[int, int, int]:
    """Returns substitutions, deletions and insertions that jiwer finds in non-empty references."""
    references, hypotheses = map(list, zip(*pairs, strict=True))
    result = process(references, hypotheses)
    return result.substitutions, result.deletions, result.insertions


def character_distance(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[int, int]:
    """Counts the edits between texts character by character, in NFC, every space as written.

    Returns:
        Edits of all pairs together, and characters of the references.
    """
    references, hypotheses = ([*map(visible, texts)] for texts in (references, hypotheses))
    errors = sum(len(text) for said, text in zip(references, hypotheses, strict=True) if not said)
    pairs = [pair for pair in zip(references, hypotheses, strict=True) if pair[0]]
    if pairs:
        transform = jiwer.ReduceToListOfListOfChars()
        errors += sum(
            _errors(
                lambda said, text: jiwer.process_characters(said, text, transform, transform), pairs
            )
        )
    return errors, sum(map(len, references))


def score(references: Sequence[str], hypotheses: Sequence[str]) -> Score:
    """Compares recognized texts with what was said.

    Texts are compared in the form of `tools.speech.transcripts`: Unicode NFC, no invisible
    characters, runs of whitespace as one space; case and punctuation count as written. Whatever is
    recognized where nothing was said is an insertion. Without a single reference word the rates are
    the numbers of errors.

    Args:
        references: what was said, one text for each utterance.
        hypotheses: what was recognized, in the same order.

    Raises:
        ValueError: the two differ in number.

    Source: jiwer 4.0.0, whose alignment this uses.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses.")
    references = [normalize_transcript(text, case=str) for text in references]
    hypotheses = [normalize_transcript(text, case=str) for text in hypotheses]
    # jiwer refuses empty references.
    said = [pair for pair in zip(references, hypotheses, strict=True) if pair[0]]
    noise = [text for reference, text in zip(references, hypotheses, strict=True) if not reference]
    words = characters = (0, 0, 0)
    if said:
        words = _errors(jiwer.process_words, said)
        characters = _errors(jiwer.process_characters, said)
    insertions = words[2] + sum(len(text.split()) for text in noise)
    character_insertions = characters[2] + sum(len(text) for text in noise)
    num_words = sum(len(text.split()) for text in references)
    num_characters = sum(len(text) for text in references)
    return Score(
        wer=(words[0] + words[1] + insertions) / max(num_words, 1),
        cer=(characters[0] + characters[1] + character_insertions) / max(num_characters, 1),
        substitutions=words[0],
        deletions=words[1],
        insertions=insertions,
        num_words=num_words,
        num_characters=num_characters,
        character_substitutions=characters[0],
        character_deletions=characters[1],
        character_insertions=character_insertions,
    )
