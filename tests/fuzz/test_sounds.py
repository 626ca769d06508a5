"""A few odd but valid sound files; `sounds.py` makes more of them, by the minute."""

import pytest

from tests.fuzz import sounds

NUM_FILES = 160
NUM_MAKERS = len(sounds.MAKERS)


@pytest.mark.parametrize("first", range(NUM_MAKERS), ids=lambda n: sounds.MAKERS[n].__name__)
def test_odd_files_are_read_as_the_plain_ones(tmp_path, first):
    for number in range(first, NUM_FILES, NUM_MAKERS):
        sound = sounds.odd_sound(0, number)
        assert not sounds.complaint(sound, tmp_path), f"{sound.name}, number {number}"
