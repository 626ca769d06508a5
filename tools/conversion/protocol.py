"""Types and protocols that the modules of the conversion share."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from tools.conversion.request import ConversionRequest

if TYPE_CHECKING:  # only for type checkers
    import onnx

# Runs a batch through an opened signature.
Function = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
# An opened signature: returns a function for one session. The functions share the weights, and
# several threads may run one function each at the same time.
Opened = Callable[[], Function]
# Runs a batch through a signature of a model, given its name.
Run = Callable[[Mapping[str, np.ndarray], str], dict[str, np.ndarray]]


FOREIGN = "onnx"  # family of an ONNX file without a description
LENGTHS = "lengths"  # input with the length of each row before padding


class TensorSpec(NamedTuple):
    """Name, dtype and shape of a tensor.

    A dimension is a size, a `(low, high)` range that includes both ends, or None if it is free.
    """

    name: str
    dtype: str
    shape: tuple[int | tuple[int, int] | None, ...]


class Execution(NamedTuple):
    """Use of threads by a runtime.

    Attributes:
        threads: number of threads for a batch. None leaves the number to the runtime.
        throughput: True for batches of several inputs: a core may run two threads, which increases
            the throughput. False for single inputs: a core runs one thread, which decreases the
            latency.
    """

    threads: int | None = None
    throughput: bool = False


DEFAULT_EXECUTION = Execution()


class Examples(NamedTuple):
    """Data for the calibration of a model and for its accuracy.

    Attributes:
        batches: inputs of the model, after the preprocessing of inference.
        accuracy: function of a model and of indices of batches, which returns the accuracy on these
            batches, from 0 to 1. None if there are no references.
    """

    batches: Sequence[Mapping[str, np.ndarray]]
    accuracy: Callable[[Run, Iterable[int]], float] | None = None


class Calibration(NamedTuple):
    """Source of calibration data.

    Attributes:
        data_dir: directory of the data set.
        num_samples: number of samples, taken at regular intervals.
        required: whether to convert again if an earlier conversion was calibrated with other data.
        read: function that reads the data.
    """

    data_dir: str
    num_samples: int
    required: bool
    read: Callable[[], Examples]

    @property
    def described(self) -> dict:
        """Entry in the manifest."""
        return {"data_dir": self.data_dir, "num_samples": self.num_samples}


class Source(Protocol):
    """A signature to convert; `tools.conversion.signature.Source` implements it.

    Attributes:
        name: name of the signature.
        native_dir: directory of its SavedModel.
        specs: inputs, with a size or a range for each dimension.
        small: whether a call has too little work for several threads.
        keep_in_float: layers that the model keeps in float when it is quantized.
        rewrites: number of rewritten places for each rewrite of the graph.
        onnx: the rewritten ONNX graph.
        is_large: whether the weights do not fit into the graph, so that `write` must be used.
    """

    name: str
    native_dir: Path
    specs: tuple[TensorSpec, ...]
    small: bool
    keep_in_float: Collection[str]
    rewrites: dict[str, int]
    onnx: "onnx.ModelProto"
    is_large: bool

    def write(self, path: Path, sizes: Mapping[str, Sequence] | None = None) -> list[Path]:
        """Writes the rewritten graph, and large weights in a file beside it.

        Args:
            path: ONNX file to write.
            sizes: shapes of inputs by name, in which integers are fixed sizes.

        Returns:
            The written files.
        """

    def run_with(self, function: Function) -> Run:
        """Returns a function that runs all signatures, and this one with another function.

        Args:
            function: replacement for this signature.
        """


class Saved(NamedTuple):
    """Files that a backend wrote.

    Attributes:
        files: paths relative to the directory; `Backend.open` gets the first one.
        options: options for `Backend.open`, of JSON types.
    """

    files: list[str]
    options: Mapping = {}


class Backend(Protocol):
    """A module `tools.conversion.backends.NAME`.

    Attributes:
        NAME: name of the backend.
        SMALL: name of the backend for small signatures, where the overhead of a call matters.
        PREPARES_SHAPES: whether the first run of each shape takes much longer than later runs.
            Inputs are then padded to few shapes.
        NOT_APPLICABLE: fields of a request that the backend does not use, with the reason for each.
    """

    NAME: str
    SMALL: str
    PREPARES_SHAPES: bool
    NOT_APPLICABLE: Mapping[str, str]

    def versions(self) -> dict[str, str]:
        """Returns the versions on which a converted model depends, by package."""

    def precisions(self) -> tuple[str, ...]:
        """Returns the precisions that the backend supports on this machine."""

    def save(
        self,
        source: Source,
        request: ConversionRequest,
        folder: Path,
        examples: Examples | None,
    ) -> Saved:
        """Writes a signature.

        Args:
            source: the signature.
            request: request of the conversion, settled for this backend.
            folder: directory to write into.
            examples: data for calibration; None if the model is not quantized.
        """

    def open(self, path: Path, described: Mapping, execution: Execution) -> Opened:
        """Opens a signature that `save` wrote.

        Args:
            path: first file of the signature.
            described: entry of the signature in the manifest: `name`, `options`, `inputs` and
                `small`. Small signatures use one thread.
            execution: use of threads.
        """

    # Backends that cannot return the outputs of layers lack `layers` and `probe`.

    def layers(self, path: Path) -> list[str]:
        """Returns the layers whose outputs `probe` can return, in execution order.

        Args:
            path: first file of a signature that `save` wrote.
        """

    def probe(self, path: Path, described: Mapping, layers: list[str]) -> Function:
        """Opens a signature that `save` wrote, with the outputs of layers as additional outputs.

        Args:
            path: first file of the signature.
            described: entry of the signature in the manifest; see `open`.
            layers: names of layers, which are also the names of the additional outputs.
        """
