"""Numbers with their nouns."""

import pytest

from tools.amounts import counted


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [
        (0, "utterance", "0 utterances"),
        (1, "utterance", "1 utterance"),
        (2, "utterance", "2 utterances"),
        (1, "class", "1 class"),
        (7, "class", "7 classes"),
        (1, "CPU thread", "1 CPU thread"),
        (2, "batch", "2 batches"),
        (2, "epoch", "2 epochs"),
    ],
)
def test_one_is_singular(count, noun, text):
    assert counted(count, noun) == text
