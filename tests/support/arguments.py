"""Arguments of programs."""

from collections.abc import Sequence


def joined(defaults: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Returns arguments behind those defaults `--flag=value` whose flags they do not give."""
    given = {word.partition("=")[0] for word in arguments}
    return [*(word for word in defaults if word.partition("=")[0] not in given), *arguments]
