"""Finds the weights of a model in the content of a checkpoint of another framework."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tools.errors import UserError
from tools.weights.pth import Placeholder

# Under which keys training programs keep the weights, and their moving average (EMA).
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
# What distributed training, compilation and Lightning put in front of every name.
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
# What averaged models of PyTorch and of mmengine count beside weights that begin with `module.`.
_COUNTERS = ("n_averaged", "steps")
_DEPTH = 3  # of containers of weights in each other
_NUM_LISTED = 3


class StateDict(NamedTuple):
    """The weights of a model.

    Attributes:
        tensors: arrays by name.
        is_ema: whether they are a moving average.
        has_both: whether the checkpoint has them in both kinds.
    """

    tensors: dict[str, np.ndarray]
    is_ema: bool
    has_both: bool


def state_dict(content: Any, use_ema: bool | None = None) -> StateDict:
    """Finds the weights in a checkpoint.

    Args:
        content: of a weight file: arrays by name, bare or under a key that says so.
        use_ema: whether to take the moving average; None: only where there is nothing else.

    Raises:
        UserError: there are no weights, or none of that kind, or other things among them.
    """
    plain, average = (_find(content, keys) for keys in (_WRAPPERS, _EMA_WRAPPERS))
    is_ema = average is not None and (plain is None if use_ema is None else use_ema)
    found = average if is_ema else plain
    if found is None or (use_ema is not None and use_ema != is_ema):
        kind = {None: "", True: "averaged weights (EMA), ", False: "weights other than EMA, "}
        raise UserError.expected(
            f"{kind[use_ema]}tensors by name, bare or under {_WRAPPERS[0]}, {_WRAPPERS[1]} ...",
            _described(content),
            _remedy(use_ema),
        )
    strangers = sorted(str(x) for x, value in found.items() if not _is_array(value))
    if strangers:
        first = next({x: value} for x, value in found.items() if str(x) == strangers[0])
        raise UserError.expected(
            "tensors by name",
            f"other things, such as {_described(first)}",
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
    """Looks for tensors by name under some keys, and there under the keys of weights."""
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return None
    inside = (_find(content.get(key), _WRAPPERS, depth + 1) for key in wrappers)
    found = next((x for x in inside if x is not None), None)
    if found is None and wrappers is _WRAPPERS and any(map(_is_array, content.values())):
        return content
    return found


def _without_prefixes(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Takes away what is in front of all names, from the outside to the inside, and counters."""
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
