"""Stand-ins for models of other frameworks, beside which benchmarks time ours."""

import sys
from collections.abc import Callable, Mapping

import numpy as np

from tools.benchmark.peer import Peer

_PROCESS = """
import json, sys, time
import numpy as np
for line in sys.stdin:
    method, *arguments = json.loads(line)
    if method == "take":
        inputs = np.load(arguments[0])
    if method == "logits":
        np.save(arguments[0], 2.0 * inputs)
    if method == "leave":
        sys.exit(2)
    if method == "hang":
        time.sleep(600)
    answers = {"time": 0.5, "repeat": arguments}
    print(json.dumps([answers.get(method)]), flush=True)
"""


def start_process() -> Peer:
    """Starts a peer that answers `take`, `time` (half a second), `logits` and `repeat`.

    Its logits are the doubled inputs. Asked to `leave`, it ends with code 2;
    asked to `hang`, it does not reply.
    """
    return Peer([sys.executable, "-c", _PROCESS])


class StubPeer:
    """A side of a benchmark in place of a `PeerSide`, without a process.

    What it is asked for is a method of its own; those of a model are left to subclasses.
    """

    def ask(self, method: str, *arguments):
        """Calls a method."""
        return getattr(self, method)(*arguments)

    def versions(self) -> dict[str, str]:
        """Names packages that a report mentions."""
        return {"torch": "0", "transformers": "0"}

    def take(self, inputs: np.ndarray) -> None:
        """Keeps a batch."""
        self.inputs = inputs

    def time(self) -> float:
        """Takes a second, whatever the batch."""
        return 1.0


def known_times(medians_ms: Mapping[str, float]) -> Callable[..., dict[str, dict[str, float]]]:
    """Makes a stand-in for `turns.time_in_turn` that runs every side once.

    Args:
        medians_ms: of the sides by name; the slowest call of each took twice as long.
    """

    def time_in_turn(sides, batch, *_, **__):
        for run in sides.values():
            run()
        rows = {name: medians_ms[name] for name in sides}
        return {
            name: {"median_ms": x, "p95_ms": 2 * x, "fps": 1e3 * batch / x}
            for name, x in rows.items()
        }

    return time_in_turn
