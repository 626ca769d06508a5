"""Lazy imports: names of a package that are imported when they are first used."""

import importlib
from collections.abc import Callable, Mapping


def lazy_exports(package: str, places: Mapping[str, str]) -> Callable[[str], object]:
    """Returns a module-level `__getattr__` that imports names of a package on first use.

    Programs can then report a wrong flag without waiting for the import of a backend.

    Args:
        package: name of the package.
        places: exported name to the module that defines it. Other names are read as submodules.

    Returns:
        The function `__getattr__`. It raises AttributeError for an unknown name.
    """

    def find(name: str) -> object:
        if name in places:
            return getattr(importlib.import_module(places[name]), name)
        try:
            return importlib.import_module(f"{package}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{package}.{name}":
                raise
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None

    return find
