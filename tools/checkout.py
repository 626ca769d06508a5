"""Checks that the package `tools` that Python finds belongs to the same checkout as the family.

`tools` is a common name: Python may find a package of that name in the working directory, or in
another installed checkout. The families run this file by its path, before they import `tools`.
"""

import importlib.util
import os
import sys
from pathlib import Path

OWN = Path(__file__).resolve().parent


def other_tools() -> str | None:
    """Returns the folder of another `tools` that Python would import, or None if it is this one.

    Returns "nothing" if Python finds no package `tools`.
    """
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
    """Returns whether Python runs a program of this checkout, with `-m` or as a file."""
    words = sys.orig_argv
    if "-m" in words[:-1]:
        package = words[words.index("-m") + 1].partition(".")[0]
        return (OWN.parent / package / "__init__.py").is_file()
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    return program is not None and Path(program).resolve().is_relative_to(OWN.parent)


def check() -> None:
    """Checks that Python finds the `tools` of this checkout.

    Raises:
        SystemExit: in a program of this checkout, with code 2 after one line on stderr.
        ImportError: in any other importer.
    """
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
