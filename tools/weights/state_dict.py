"""Finds the weights of a model in the checkpoint of another framework."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tools.errors import UserError
from tools.weights.pth import Placeholder

# Keys under which training programs store the weights, and their moving average (EMA).
_WRAPPERS = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "net",
    "network",
    "module",
    "weights",
)
_EMA_WRAPPERS = (
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "ema_model",
    "model_ema_state_dict",
    "ema",
)
# Prefixes that distributed training, compilation and Lightning add to every name.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
# Counters that averaged models of PyTorch and mmengine store beside weights named `module.`.
_COUNTERS = ("n_averaged", "steps")
_DEPTH = 3  # largest depth of nested containers
_NUM_LISTED = 3


class StateDict(NamedTuple):
    """The weights of a model.

    Attributes:
        tensors: arrays by name.
        is_ema: whether the tensors are a moving average.
        has_both: whether the checkpoint contains both the weights and their moving average.
    """

    tensors: dict[str, np.ndarray]
    is_ema: bool
    has_both: bool


def state_dict(content: Any, use_ema: bool | None = None) -> StateDict:
    """Returns the weights in a checkpoint.

    Args:
        content: content of a weight file: arrays by name, at the top level or under a key such as
            `state_dict`.
        use_ema: whether to return the moving average; None returns it only if there are no other
            weights.

    Raises:
        UserError: there are no weights of the requested kind, or other objects are among them.
    """
    plain, average = (_find(content, keys) for keys in (_WRAPPERS, _EMA_WRAPPERS))
    is_ema = average is not None and (plain is None if use_ema is None else use_ema)
    found = average if is_ema else plain
    if found is None or (use_ema is not None and use_ema != is_ema):
        kind = {None: "", True: "averaged weights (EMA), ", False: "weights other than EMA, "}
        raise UserError.expected(
            f"{kind[use_ema]}tensors by name, or under {_WRAPPERS[0]}, {_WRAPPERS[1]} ...",
            _described(content),
            _remedy(use_ema),
        )
    strangers = sorted(str(x) for x, value in found.items() if not _is_array(value))
    if strangers:
        first = next({x: value} for x, value in found.items() if str(x) == strangers[0])
        raise UserError.expected(
            "tensors by name",
            f"other objects, such as {_described(first)}",
            "Save the state_dict alone",
        )
    tensors = {str(name): np.asarray(value) for name, value in found.items()}
    return StateDict(_without_prefixes(tensors), is_ema, None not in (plain, average))


def _remedy(use_ema: bool | None) -> str:
    if use_ema is None:
        return "Save the state_dict alone"
    return f"Leave --{'use_ema' if use_ema else 'nouse_ema'} out"


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | np.generic)


def _find(content: Any, wrappers: tuple[str, ...], depth: int = 0) -> Mapping | None:
    """Searches for tensors by name: under the keys `wrappers`, and inside under `_WRAPPERS`."""
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return None
    inside = (_find(content.get(key), _WRAPPERS, depth + 1) for key in wrappers)
    found = next((x for x in inside if x is not None), None)
    if found is None and wrappers is _WRAPPERS and any(map(_is_array, content.values())):
        return content
    return found


def _without_prefixes(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes prefixes that all names share, from the outermost on, and counters."""
    names = tensors.keys() - _COUNTERS
    prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in names)), None)
    if prefix is None or not names:
        return tensors
    return _without_prefixes({x.removeprefix(prefix): tensors[x] for x in tensors if x in names})


def _described(content: Any) -> str:
    if isinstance(content, Placeholder):
        return f"an object of {content.name}"
    if not isinstance(content, Mapping):
        return type(content).__name__
    found = [
        f"{key} ({_described(value)})" if isinstance(value, Placeholder) else str(key)
        for key, value in itertools.islice(content.items(), _NUM_LISTED)
    ]
    return ", ".join(found) + (" ..." if len(content) > _NUM_LISTED else "") or "nothing"
