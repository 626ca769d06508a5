"""Strict assignment of named tensors to variables, and the way back.

`check_tensors` is the one place that decides whether tensors are those of a model.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tools.errors import UserError

logger = logging.getLogger(__name__)

_LISTED = 5

Substitutions = Sequence[tuple[str, str]]


class Layout(NamedTuple):
    """How tensors become the value of a variable, and the inverse."""

    read: Callable[..., np.ndarray]
    write: Callable[[np.ndarray], tuple[np.ndarray, ...]]


def permuted(*axes: int) -> Layout:
    """Layout of one tensor whose axes are put in another order."""
    back = tuple(int(x) for x in np.argsort(axes))
    return Layout(lambda x: np.transpose(x, axes), lambda x: (np.transpose(x, back),))


AS_IS = Layout(lambda x: x, lambda x: (x,))
DENSE = permuted(1, 0)  # [out, in]
CONVOLUTION_1D = permuted(2, 1, 0)  # [out, in, time]
CONVOLUTION_2D = permuted(2, 3, 1, 0)  # [out, in, height, width]
# A 1x1 convolution that a dense layer computes.
POINTWISE_2D = Layout(lambda x: x.squeeze((2, 3)).T, lambda x: (x.T[:, :, None, None],))


class Link(NamedTuple):
    """A variable, the tensors it is made of, and how.

    Attributes:
        variable: with `path`, `shape`, `dtype` and `assign`, as Keras has them.
        keys: names of tensors, in the order `layout.read` takes them.
        layout: see `Layout`.
    """

    variable: Any
    keys: tuple[str, ...]
    layout: Layout = AS_IS

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of its tensors, by name."""
        parts = self.layout.write(np.empty(tuple(self.variable.shape), bool))
        return {key: part.shape for key, part in zip(self.keys, parts, strict=True)}


@dataclass(frozen=True, slots=True)
class Assignment:
    """What became of the tensors and the variables.

    Attributes:
        assigned: paths of the variables that got a value.
        kept: paths of the variables that were let keep theirs, sorted.
        ignored: names of the tensors that nothing was made of, sorted.
    """

    assigned: tuple[str, ...]
    kept: tuple[str, ...]
    ignored: tuple[str, ...]


def rename(name: str, substitutions: Substitutions) -> str:
    """Applies regular expressions with their replacements, one after the other."""
    for pattern, replacement in substitutions:
        name = re.sub(pattern, replacement, name)
    return name


def check_tensors(
    shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray], source: str = ""
) -> None:
    """Checks that tensors have exactly the names and shapes that a model needs.

    Args:
        shapes: by name.
        tensors: arrays by name.
        source: of the tensors, for the message.

    Raises:
        UserError: one line with what is missing, unexpected and of another shape, each sorted.
    """
    difference: dict[str, Iterable[str]] = {
        "missing": shapes.keys() - tensors.keys(),
        "unexpected": tensors.keys() - shapes.keys(),
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


def assign(
    variables: Iterable[Any],
    links: Sequence[Link],
    tensors: Mapping[str, np.ndarray],
    ignored: str = r"(?!)",
    *,
    replaceable: str = r"(?!)",
) -> Assignment:
    """Gives every variable its value, or changes nothing at all.

    Args:
        variables: all those of the model, each of which must have exactly one link.
        links: see `Link`.
        tensors: arrays by name, each of which must be used by exactly one link or be ignored.
        ignored: pattern of the whole names of tensors that mean nothing here.
        replaceable: pattern of the whole names of tensors whose variable keeps its value when the
            shape is another one.

    Raises:
        UserError: with what is missing, unexpected and of another shape.
        ValueError: the links do not cover the variables, each once.
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
    check_tensors(shapes, {x: tensors[x] for x in tensors if x not in skipped})
    values = [link.layout.read(*(tensors[key] for key in link.keys)) for link in taken]
    for link, value in zip(taken, values, strict=True):
        link.variable.assign(value.astype(link.variable.dtype))
    if kept:
        logger.info("%d variables keep their initial values: %s", len(kept), _listed(kept))
    assigned = tuple(link.variable.path for link in taken)
    return Assignment(assigned, tuple(sorted(kept)), tuple(sorted(skipped)))


def extract(links: Sequence[Link]) -> dict[str, np.ndarray]:
    """Makes the tensors, by name, that `assign` would read the variables' values from."""
    tensors = {}
    for link in links:
        value = np.asarray(link.variable)
        tensors |= zip(link.keys, link.layout.write(value), strict=True)
    return tensors


def _differ(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether tensors are all there, and one has another shape."""
    if any(name not in tensors for name in shapes):
        return False
    return any(tuple(tensors[name].shape) != shape for name, shape in shapes.items())


def _check_cover(variables: Iterable[Any], links: Sequence[Link]) -> None:
    times = Counter(id(link.variable) for link in links)
    wrong = [x.path for x in variables if times.pop(id(x), 0) != 1]
    twice = [x for x, count in Counter(x for link in links for x in link.keys).items() if count > 1]
    if wrong or times or twice:
        raise ValueError(f"not linked once: {wrong + twice}, beside the model: {len(times)}")


def _listed(names: Iterable[str]) -> str:
    """The first names in order, and how many there are beyond."""
    names = sorted(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
