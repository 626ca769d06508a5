"""What an exported model cannot write, by what its symbols write."""

import pytest

from tools.recognition.characters import never_written


@pytest.mark.parametrize(
    ("surfaces", "text", "lacks"),
    [
        (["", " ", *"ABC"], "AB CAD", "D"),
        ([" AB", "C"], "CAB B", ""),  # subwords
        (["\u0301", "E"], "\u00c9E\u00c8", "\u00c8"),  # by letter and acute accent
        (["E\u0301"], "\u00c9", ""),  # a symbol that is decomposed
        (["\u00c9"], "\u00c9E", "E"),
        (["\u11ab", "\u1161", "\u1112"], "\ud55c\uae00", "\uae00"),  # jamo
        ([], "A A", "AA"),
    ],
)
def test_a_character_is_written_as_a_whole_or_by_its_parts(surfaces, text, lacks):
    assert never_written(surfaces)(text) == lacks
