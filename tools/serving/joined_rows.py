"""Runs the tensors of several requests together."""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tools.conversion.protocol import TensorSpec
from tools.inference.session import Session


class Tensors(NamedTuple):
    """The tensors of a request.

    Attributes:
        inputs: arrays by name, with the rows first.
        signature: name of the signature.
    """

    inputs: Mapping[str, np.ndarray]
    signature: str

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.inputs.values())))


class JoinedRows:
    """Joins the rows of requests, runs them, and divides the outputs.

    Nothing is padded, so that each request gets the outputs that it gets alone.

    Args:
        session: the model.
        max_rows: largest number of rows that are joined.
    """

    def __init__(self, session: Session, max_rows: int):
        self._session, self._max_rows = session, max_rows

    def key(self, item: Tensors) -> Hashable:
        """Returns the signature, dtypes and shapes, which must be equal to join rows.

        Args:
            item: the tensors of a request.
        """
        shapes = ((name, x.dtype.str, x.shape[1:]) for name, x in item.inputs.items())
        return item.signature, tuple(sorted(shapes))

    def run(self, items: Sequence[Tensors]) -> list[dict[str, np.ndarray]]:
        """Returns the outputs of each request.

        Args:
            items: tensors of requests, with equal keys.
        """
        specs = self._session.signatures.get(items[0].signature, ())
        found: list[dict[str, np.ndarray]] = []
        group: list[Tensors] = []
        most = min([self._max_rows, *map(most_rows, specs)])
        for item in items:
            if group and sum(x.num_rows for x in group) + item.num_rows > most:
                found += self._joined(group)
                group = []
            group.append(item)
        return found + self._joined(group)

    def _joined(self, items: Sequence[Tensors]) -> list[dict[str, np.ndarray]]:
        first, counts = items[0], [item.num_rows for item in items]
        if len(items) > 1:
            columns = {
                name: np.concatenate([item.inputs[name] for item in items]) for name in first.inputs
            }
            outputs = self._session.run(columns, first.signature)
            if all(array.shape[:1] == (sum(counts),) for array in outputs.values()):
                ends = np.cumsum(counts)[:-1]
                divided = {name: np.split(array, ends) for name, array in outputs.items()}
                return [
                    {name: parts[number] for name, parts in divided.items()}
                    for number in range(len(items))
                ]
        return [self._session.run(item.inputs, item.signature) for item in items]


def most_rows(spec: TensorSpec) -> float:
    """Returns the largest number of rows of an input; 1 if the model sets the number.

    Args:
        spec: the input.
    """
    size = spec.shape[0] if spec.shape else 1
    if size is None:
        return float("inf")
    return size[1] if isinstance(size, tuple) else 1
