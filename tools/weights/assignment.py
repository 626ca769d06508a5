"""Strict assignment of named tensors to variables, and the inverse.

`check_tensors` decides for the whole project whether tensors fit a model.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tools.amounts import counted
from tools.errors import UserError

logger = logging.getLogger(__name__)

_LISTED = 5

Substitutions = Sequence[tuple[str, str]]


class Layout(NamedTuple):
    """Conversion between the tensors of a file and the value of a variable.

    Attributes:
        read: function of one or more tensors that returns the value of the variable.
        write: function of the variable's value that returns the tensors.
    """

    read: Callable[..., np.ndarray]
    write: Callable[[np.ndarray], tuple[np.ndarray, ...]]


def permuted(*axes: int) -> Layout:
    """Returns the layout of a single tensor whose axes are transposed.

    Args:
        axes: axes of the tensor in the order of the variable, as in `numpy.transpose`.
    """
    back = tuple(int(x) for x in np.argsort(axes))
    return Layout(lambda x: np.transpose(x, axes), lambda x: (np.transpose(x, back),))


AS_IS = Layout(lambda x: x, lambda x: (x,))
DENSE = permuted(1, 0)  # [out, in]
CONVOLUTION_1D = permuted(2, 1, 0)  # [out, in, time]
CONVOLUTION_2D = permuted(2, 3, 1, 0)  # [out, in, height, width]
# A 1x1 convolution in the file that is a dense layer in the model.
POINTWISE_2D = Layout(lambda x: x.squeeze((2, 3)).T, lambda x: (x.T[:, :, None, None],))


class Link(NamedTuple):
    """A variable and the tensors that define its value.

    Attributes:
        variable: Keras variable, or an object with `path`, `shape`, `dtype` and `assign`.
        keys: names of the tensors, in the order of the arguments of `layout.read`.
        layout: conversion between tensors and variable.
    """

    variable: Any
    keys: tuple[str, ...]
    layout: Layout = AS_IS

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the expected shapes of the tensors, by name."""
        parts = self.layout.write(np.empty(tuple(self.variable.shape), bool))
        return {key: part.shape for key, part in zip(self.keys, parts, strict=True)}


@dataclass(frozen=True, slots=True)
class Assignment:
    """Result of `assign`.

    Attributes:
        assigned: paths of the variables that were assigned.
        kept: sorted paths of the variables that keep their initial values.
        ignored: sorted names of the tensors that were not used.
    """

    assigned: tuple[str, ...]
    kept: tuple[str, ...]
    ignored: tuple[str, ...]


def rename(name: str, substitutions: Substitutions) -> str:
    """Renames a tensor: applies regular expressions with their replacements, in order.

    Args:
        name: name of the tensor.
        substitutions: pairs of pattern and replacement, as in `re.sub`.
    """
    for pattern, replacement in substitutions:
        name = re.sub(pattern, replacement, name)
    return name


def check_tensors(
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, np.ndarray],
    source: str = "",
    ignored: Collection[str] = (),
) -> None:
    """Checks that tensors have exactly the names and shapes that a model needs, and are finite.

    Args:
        shapes: expected shapes by name.
        tensors: arrays by name.
        source: where the tensors come from, for the message.
        ignored: names of tensors that are not checked.

    Raises:
        UserError: tensors are missing, unexpected, of another shape, or contain NaN or infinity.
            The message lists them, sorted.
    """
    difference: dict[str, Iterable[str]] = {
        "missing": shapes.keys() - tensors.keys(),
        "unexpected": tensors.keys() - shapes.keys() - set(ignored),
        "another shape": [
            f"{name} {list(tensors[name].shape)} for {list(shape)}"
            for name, shape in shapes.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ],
    }
    if any(difference.values()):
        tensors_of_model = f"the {len(shapes)} tensors of this model"
        raise UserError.expected(
            f"{tensors_of_model} in {source}" if source else tensors_of_model,
            "; ".join(f"{kind}: {_listed(names)}" for kind, names in difference.items() if names),
            "Choose the architecture, vocabulary or classes that the weights were trained with",
        )
    check_finite(tensors, source, ignored)


def check_finite(
    tensors: Mapping[str, np.ndarray], source: str = "", ignored: Collection[str] = ()
) -> None:
    """Checks that tensors have no NaN or infinity, which training leaves when it diverges.

    Args:
        tensors: arrays by name.
        source: where the tensors come from, for the message.
        ignored: names of tensors that are not checked.

    Raises:
        UserError: tensors have such values; the message lists their names.
    """
    bad = [x for x in tensors.keys() - set(ignored) if not np.isfinite(tensors[x]).all()]
    if bad:
        raise UserError.expected(
            f"finite weights in {source}" if source else "finite weights",
            f"NaN or infinity in {counted(len(bad), 'tensor')}: {_listed(bad)}",
            "Choose another checkpoint, from before the training diverged",
        )


def assign(
    variables: Iterable[Any],
    links: Sequence[Link],
    tensors: Mapping[str, np.ndarray],
    ignored: str = r"(?!)",
    *,
    replaceable: str = r"(?!)",
) -> Assignment:
    """Assigns a value to every variable of a model. After an error no variable has changed.

    Args:
        variables: all variables of the model; each must have exactly one link.
        links: variables with the names of their tensors.
        tensors: arrays by name; each must be used by exactly one link or be ignored.
        ignored: regular expression for the full names of tensors that are not used.
        replaceable: regular expression for the full names of tensors that may have another shape,
            such as those of a classifier. Their variables then keep their initial values.

    Raises:
        UserError: tensors are missing, unexpected, of another shape, or not finite.
        ValueError: the links do not cover every variable exactly once.
    """
    _check_cover(variables, links)
    used = {key for link in links for key in link.keys}
    skipped = {x for x in tensors if x not in used and re.fullmatch(ignored, x)}
    shapes, taken, kept = {}, [], []
    for link in links:
        own = link.shapes()
        if _differ(own, tensors) and all(re.fullmatch(replaceable, key) for key in link.keys):
            kept.append(link.variable.path)
            skipped.update(link.keys)
        else:
            shapes |= own
            taken.append(link)
    check_tensors(shapes, tensors, ignored=skipped)
    for link in taken:  # one by one, as the tensors may be read only now
        value = link.layout.read(*(tensors[key] for key in link.keys))
        link.variable.assign(value.astype(link.variable.dtype))
    if kept:
        logger.info("%d variables keep their initial values: %s", len(kept), _listed(kept))
    assigned = tuple(link.variable.path for link in taken)
    return Assignment(assigned, tuple(sorted(kept)), tuple(sorted(skipped)))


def extract(links: Sequence[Link]) -> dict[str, np.ndarray]:
    """Returns the tensors, by name, from which `assign` restores the values of the variables."""
    tensors = {}
    for link in links:
        value = np.asarray(link.variable)
        tensors |= zip(link.keys, link.layout.write(value), strict=True)
    return tensors


def _differ(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray]) -> bool:
    """Returns whether all tensors exist and at least one of them has another shape."""
    if any(name not in tensors for name in shapes):
        return False
    return any(tuple(tensors[name].shape) != shape for name, shape in shapes.items())


def _check_cover(variables: Iterable[Any], links: Sequence[Link]) -> None:
    times = Counter(id(link.variable) for link in links)
    wrong = [x.path for x in variables if times.pop(id(x), 0) != 1]
    twice = [x for x, count in Counter(x for link in links for x in link.keys).items() if count > 1]
    if wrong or times or twice:
        raise ValueError(
            f"not linked exactly once: {wrong + twice}; links to other variables: {len(times)}"
        )


def _listed(names: Iterable[str]) -> str:
    """Returns the first sorted names, and the number of the others, as text."""
    names = sorted(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
