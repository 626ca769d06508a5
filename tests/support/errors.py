"""The check for bad input: one clear line."""

import contextlib
import re
from collections.abc import Iterator

import pytest

from tools.errors import UserError


@contextlib.contextmanager
def refused(
    message: str = "", *, match: str | None = None, error: type[UserError] = UserError
) -> Iterator[pytest.ExceptionInfo]:
    """Checks that the block raises a `UserError` whose text is one clear line.

    Args:
        message: text that the line contains.
        match: regular expression that is found in the line.
        error: class of the exception.

    Yields:
        pytest's record of the exception, filled when the block has ended.
    """
    with pytest.raises(error) as caught:
        yield caught
    line = str(caught.value)
    assert line.strip() and line.isprintable(), repr(line)
    assert message in line
    assert match is None or re.search(match, line), f"{match!r} is not found in {line!r}"
