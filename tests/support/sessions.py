"""The check that a program closes what it opens."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.support.errors import refused
from tools.inference.session import Session


@contextlib.contextmanager
def sessions_are_closed(count: int) -> Iterator[None]:
    """Checks that the block opens so many sessions, and that none is open when it has ended."""
    opened, create = [], Session.__init__

    def note(session, runner):
        create(session, runner)
        opened.append(session)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "__init__", note)
        yield
    assert len(opened) == count
    for session in opened:
        with refused("an open session"):
            session.check_open()
