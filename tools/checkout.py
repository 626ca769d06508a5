"""Checks that a family finds the `tools` of its own checkout; run by path, before `tools` is found.

`tools` is a common name: a package of that name in the working directory, or another checkout that
is installed, would be imported in its place.
"""

import importlib.util
import os
import sys
from pathlib import Path

OWN = Path(__file__).resolve().parent


def other_tools() -> str | None:
    """Gives the place of a `tools` that is not this one, "nothing" where there is none."""
    found = sys.modules.get("tools") or importlib.util.find_spec("tools")
    if found is None:
        return "nothing"
    places = list(
        getattr(found, "submodule_search_locations", None) or getattr(found, "__path__", ())
    )
    if any(os.path.realpath(place) == str(OWN) for place in places):
        return None
    return places[0] if places else str(getattr(found, "origin", found))


def _is_program() -> bool:
    """Tells whether Python was started with a module of this checkout, by `-m` or as a file."""
    words = sys.orig_argv
    if "-m" in words[:-1]:
        package = words[words.index("-m") + 1].partition(".")[0]
        return (OWN.parent / package / "__init__.py").is_file()
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    return program is not None and Path(program).resolve().is_relative_to(OWN.parent)


def check() -> None:
    """Ends a program with one line, and any other importer with an ImportError."""
    other = other_tools()
    if other is None:
        return
    message = (
        f"Expected the package tools in {OWN.parent}. Received: {other}. "
        f"Run the program from another folder, or set PYTHONPATH={OWN.parent}."
    )
    if _is_program():
        print("Error:", message, file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(message)


check()
