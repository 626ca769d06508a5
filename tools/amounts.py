"""Numbers with their nouns, for messages."""


def counted(count: int, noun: str) -> str:
    """Returns a number with its noun, such as "1 utterance" or "3 utterances".

    Args:
        count: the number.
        noun: the noun in the singular. The plural ends in `es` after `s`, `x` or `tch`, otherwise
            in `s`.
    """
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}{'es' if noun.endswith(('s', 'x', 'tch')) else 's'}"
