"""Word and character error rates of recognized text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jiwer

from tools.speech.transcripts import normalize_transcript, visible


@dataclass(frozen=True, slots=True)
class Score:
    """Word and character errors of a whole corpus. Rates are fractions and may exceed 1.

    Attributes:
        wer: word error rate: word errors divided by the number of reference words.
        cer: character error rate: character errors divided by the number of reference characters.
            A space between two words counts as a character.
        substitutions: reference words that were recognized as another word.
        deletions: reference words that were not recognized.
        insertions: recognized words that are not in the reference.
        num_words: number of words in the references.
        num_characters: number of characters in the references.
        character_substitutions: substituted characters.
        character_deletions: deleted characters.
        character_insertions: inserted characters.
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
    """Returns the substitutions, deletions and insertions of pairs with non-empty references."""
    references, hypotheses = map(list, zip(*pairs, strict=True))
    result = process(references, hypotheses)
    return result.substitutions, result.deletions, result.insertions


def character_distance(references: Sequence[str], hypotheses: Sequence[str]) -> tuple[int, int]:
    """Counts the character edits between texts, in Unicode NFC; every space counts as written.

    Args:
        references: reference texts.
        hypotheses: texts to compare, in the same order.

    Returns:
        The number of edits in all pairs, and the number of characters in the references.
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
    """Computes the error rates of recognized texts.

    Texts are normalized as in `tools.speech.transcripts` first: Unicode NFC, without invisible
    characters, with single spaces. Case and punctuation are compared as written. Words recognized
    for an empty reference count as insertions. If all references are empty, the rates are the
    numbers of errors.

    Args:
        references: transcript of each utterance.
        hypotheses: recognized text of each utterance, in the same order.

    Raises:
        ValueError: the numbers of references and hypotheses differ.

    Source: jiwer 4.0.0, which computes the alignment.
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses.")
    references = [normalize_transcript(text, case=str) for text in references]
    hypotheses = [normalize_transcript(text, case=str) for text in hypotheses]
    # jiwer does not accept empty references.
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
