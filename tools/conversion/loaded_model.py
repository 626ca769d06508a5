"""SavedModels in memory, and the conversion of their signatures."""

import errno
import functools
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from tools.conversion import backends
from tools.conversion.dim_range import bounded
from tools.conversion.pipeline import source_hash
from tools.conversion.protocol import Examples, TensorSpec
from tools.conversion.request import ConversionRequest
from tools.errors import UserError
from tools.files import to_json

_FULL_BYTES = 1 << 22  # left on a disk that had no room for a file of a model


class LoadedModel:
    """A SavedModel and what its conversions share.

    Args:
        native_dir: of the SavedModel.
        threads: of TensorFlow, set before it loads the model; None changes nothing.

    Attributes:
        keeps: whether further conversions follow: functions and graphs stay in memory for them.
        graphs: of its signatures as ONNX, by the signature and the rewrites that were made.
        conversions: folders of the conversions that were opened; one that is wanted in another
            place is copied.
    """

    def __init__(self, native_dir: str | Path, threads: int | None = None):
        self.native_dir, self._threads = Path(native_dir), threads
        self.keeps = False
        self.graphs: dict[tuple, tuple] = {}
        self.conversions: list[Path] = []

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the files of the SavedModel."""
        return source_hash(self.native_dir)

    @functools.cached_property
    def functions(self) -> Mapping:
        """The concrete functions by signature; loading them takes seconds."""
        # An artifact that is used again needs no converter: TensorFlow and tf2onnx would slow every
        # start by seconds.
        from tools.conversion.saved_model import limit_threads, load_saved_model

        limit_threads(self._threads)
        return load_saved_model(self.native_dir)

    def release(self) -> None:
        """Frees the memory of functions and graphs."""
        self.__dict__.pop("functions", None)
        self.graphs.clear()


def convert_signatures(
    loaded: LoadedModel,
    folder: Path,
    pipeline: Mapping,
    request: ConversionRequest,
    *,
    examples: Examples | None,
) -> dict[str, dict]:
    """Converts the signatures that `pipeline.json` names.

    Args:
        loaded: the SavedModel.
        folder: to write into.
        pipeline: content of its `pipeline.json`.
        request: settled for its backend.
        examples: to calibrate with.

    Returns:
        What the manifest says of each signature.

    Raises:
        UserError: a signature or a tensor that is asked for is not there.
    """
    from tools.conversion.saved_model import input_specs
    from tools.conversion.signature import Source

    functions = loaded.functions
    missing = sorted(pipeline["convert"].keys() - functions.keys())
    if missing:
        raise UserError.expected(
            f"a SavedModel with the signatures {', '.join(pipeline['convert'])}",
            f"none called {missing[0]}",
            "Export the model again",
        )
    unknown = request.dim_range.keys() - {
        spec.name for name in pipeline["convert"] for spec in input_specs(functions[name])
    }
    if unknown:
        raise UserError.expected(
            "--dim_range of tensors that are converted", min(unknown), "Correct --dim_range"
        )
    described, backend = {}, backends.get(request.backend)
    bar = tqdm(
        pipeline["convert"].items(),
        desc="converting",
        unit="signature",
        file=sys.stderr,
        disable=bool(loaded.graphs),  # the slow part, the translation to ONNX, is done
    )
    for name, conversion in bar:
        bar.set_postfix_str(name)
        source = Source(
            name=name,
            native_dir=loaded.native_dir,
            functions=functions,
            graphs=loaded.graphs,
            keeps=loaded.keeps,
            specs=_input_ranges(input_specs(functions[name]), conversion["dim_range"], request),
            small=conversion.get("small", False),
            keep_in_float=conversion.get("keep_in_float", ()),
            options=request.opt_config or (),
        )
        own = backends.get(backend.SMALL) if source.small else backend
        try:
            saved = own.save(source, request, folder, examples)
        except RuntimeError as error:  # what OpenVINO makes of a full disk
            if shutil.disk_usage(folder).free > _FULL_BYTES:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        described[name] = {
            "name": name,
            "backend": own.NAME,
            "files": saved.files,
            "options": dict(saved.options),
            "inputs": plain(source.specs),
            "prepares_shapes": own.PREPARES_SHAPES,
            "paddable": conversion.get("paddable", False),
            "small": source.small,
            "rewrites": source.rewrites,
        }
    return described


def _input_ranges(
    specs: Sequence[TensorSpec], described: Mapping[str, list], request: ConversionRequest
) -> tuple[TensorSpec, ...]:
    """Ranges of a signature: those asked for, else the batch and what `pipeline.json` says."""
    batch = next((ranges[0] for ranges in request.dim_range.values()), request.batch)
    ranges = {
        spec.name: (batch, *map(tuple, described.get(spec.name, ())))
        for spec in specs
        if None in spec.shape
    }
    names = {spec.name for spec in specs}
    asked = {name: value for name, value in request.dim_range.items() if name in names}
    return bounded(specs, ranges | asked)


def plain(value: object) -> object:
    """The value as JSON will give it back."""
    return json.loads(to_json(value))
