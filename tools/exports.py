"""What a package offers under its own name, imported on first use."""

import importlib
from collections.abc import Callable, Mapping


def lazy_exports(package: str, places: Mapping[str, str]) -> Callable[[str], object]:
    """Makes the `__getattr__` of a package.

    A program that refuses its command line need not wait for the import of a backend.

    Args:
        package: name of the package.
        places: modules by the names that they define; other names are those of submodules.
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
