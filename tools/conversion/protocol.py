"""What the parts of a conversion hand to each other."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from tools.conversion.request import ConversionRequest

if TYPE_CHECKING:  # running a converted model does not need it
    import onnx

# Runs a batch through the one signature that a backend has opened.
Function = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
# Makes a function for one session of a signature that a backend has opened. All of them share the
# weights, and several threads may run one each at the same time.
Opened = Callable[[], Function]
# Runs a batch through a signature of a model, by its name.
Run = Callable[[Mapping[str, np.ndarray], str], dict[str, np.ndarray]]


LENGTHS = "lengths"  # the input that counts what is used of the longest of the others


class TensorSpec(NamedTuple):
    """Name, dtype and shape of a tensor.

    A dimension is a number, a `(low, high)` range with both ends inside, or None where it is free.
    """

    name: str
    dtype: str
    shape: tuple[int | tuple[int, int] | None, ...]


class Execution(NamedTuple):
    """How a runtime uses the machine.

    Attributes:
        threads: of one batch; None: as many as the runtime chooses.
        throughput: batches of several inputs run, which may use both threads of a core; False: the
            answer to one input is to come as soon as possible.
    """

    threads: int | None = None
    throughput: bool = False


DEFAULT_EXECUTION = Execution()


class Examples(NamedTuple):
    """Data that a model is calibrated and judged with.

    Attributes:
        batches: inputs of the model, after the preprocessing of inference.
        accuracy: of the answers to some of the batches, by number; 1 is perfect. None where there
            are no references.
    """

    batches: Sequence[Mapping[str, np.ndarray]]
    accuracy: Callable[[Run, Iterable[int]], float] | None = None


class Calibration(NamedTuple):
    """Where examples come from.

    Attributes:
        data_dir: the data set.
        num_samples: how many of it, spread over the whole.
        required: an earlier conversion that was calibrated with something else does not do.
        read: reads them.
    """

    data_dir: str
    num_samples: int
    required: bool
    read: Callable[[], Examples]

    @property
    def described(self) -> dict:
        """What the manifest says of it."""
        return {"data_dir": self.data_dir, "num_samples": self.num_samples}


class Source(Protocol):
    """A signature that is to be converted; `signature.Source`.

    Attributes:
        name: of the signature.
        native_dir: its SavedModel.
        specs: inputs, with a number or a range for every dimension.
        small: one call is too little work to share among threads.
        keep_in_float: layers that are not to be quantized, by the model's own account.
        rewrites: how often each rewrite of the graph was made.
        onnx: the cleaned graph.
    """

    name: str
    native_dir: Path
    specs: tuple[TensorSpec, ...]
    small: bool
    keep_in_float: Collection[str]
    rewrites: dict[str, int]
    onnx: "onnx.ModelProto"

    def run_with(self, function: Function) -> Run:
        """Gives a way to run all signatures, this one by a candidate for it."""


class Saved(NamedTuple):
    """What a backend wrote.

    Attributes:
        files: names below the artifact's folder, the one to open first.
        options: JSON-able, for `Backend.open`.
    """

    files: list[str]
    options: Mapping = {}


class Backend(Protocol):
    """A module `tools.conversion.backends.NAME`.

    Attributes:
        NAME: by which it is asked for.
        SMALL: the backend for signatures whose calls are so small that the way into the runtime
            counts, its own name or another's.
        PREPARES_SHAPES: whether the first run of each shape takes much longer than the next one;
            inputs are then padded to few shapes.
        NOT_APPLICABLE: parts of a request that it has no use for, each with the reason.
    """

    NAME: str
    SMALL: str
    PREPARES_SHAPES: bool
    NOT_APPLICABLE: Mapping[str, str]

    def versions(self) -> dict[str, str]:
        """Versions that an artifact depends on, by package."""

    def precisions(self) -> tuple[str, ...]:
        """What it can compute in, on this machine."""

    def save(
        self,
        source: Source,
        request: ConversionRequest,
        folder: Path,
        examples: Examples | None,
    ) -> Saved:
        """Writes one signature.

        Args:
            source: the signature, with a number or a range for every dimension of its inputs.
            request: settled for this backend.
            folder: to write into.
            examples: to calibrate with, where the request is for a quantized model.
        """

    def open(self, path: Path, described: Mapping, execution: Execution) -> Opened:
        """Loads what `save` wrote.

        Args:
            path: its first file.
            described: the signature's part of the manifest: `name`, `options`, and `small` where
                the work of one call is so small that one thread does it best.
            execution: how to use the machine.
        """

    # What can be seen of the inside of a model; a runtime that shows none of it has neither.

    def layers(self, path: Path) -> list[str]:
        """Lists the layers of what `save` wrote that `probe` can show, in execution order."""

    def probe(self, path: Path, described: Mapping, layers: list[str]) -> Function:
        """Loads what `save` wrote with inner tensors as further outputs.

        Args:
            path: its first file.
            described: as of `open`.
            layers: to show, each of which gives an output of its name.
        """
