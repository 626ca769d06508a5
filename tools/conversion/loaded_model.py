"""Loads SavedModels for conversion, and converts their signatures."""

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
from tools.conversion.pipeline import is_onnx, source_hash
from tools.conversion.protocol import Examples, TensorSpec
from tools.conversion.request import ConversionRequest
from tools.errors import UserError
from tools.files import to_json

_FULL_BYTES = 1 << 22  # a disk with less free space counts as full


class LoadedModel:
    """A SavedModel that is loaded when it is first needed, and the data that its conversions share.

    Args:
        native_dir: directory of the SavedModel, or an ONNX file.
        threads: number of threads of TensorFlow, which is set before the model is loaded. None
            changes nothing.

    Attributes:
        keeps: whether functions and graphs are kept in memory for further conversions.
        graphs: ONNX graphs of the signatures, by the signature and the rewrites.
        conversions: directories of conversions of this model, from which `convert` can copy.
    """

    def __init__(self, native_dir: str | Path, threads: int | None = None):
        self.native_dir, self._threads = Path(native_dir), threads
        self.keeps = False
        self.graphs: dict[tuple, tuple] = {}
        self.conversions: list[Path] = []

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the files of the SavedModel."""
        return source_hash(self.native_dir)

    @functools.cached_property
    def functions(self) -> Mapping:
        """Concrete functions by signature. Loading them takes seconds.

        For an ONNX file: its graph, as the only signature.
        """
        if is_onnx(self.native_dir):
            from tools.conversion.onnx_file import SIGNATURE, read_onnx

            return {SIGNATURE: read_onnx(self.native_dir)}
        # Imported here, because a conversion that is reused needs neither TensorFlow nor tf2onnx.
        from tools.conversion.saved_model import limit_threads, load_saved_model

        limit_threads(self._threads)
        return load_saved_model(self.native_dir)

    def release(self) -> None:
        """Removes functions and graphs from memory."""
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
        folder: directory to write into.
        pipeline: content of the model's `pipeline.json`.
        request: request of the conversion, settled for its backend.
        examples: data for calibration.

    Returns:
        The entry of each signature in the manifest.

    Raises:
        UserError: a requested signature or tensor does not exist.
    """
    from tools.conversion.onnx_file import input_specs as onnx_specs
    from tools.conversion.saved_model import input_specs as native_specs
    from tools.conversion.signature import Source

    input_specs = onnx_specs if is_onnx(loaded.native_dir) else native_specs

    functions = loaded.functions
    missing = sorted(pipeline["convert"].keys() - functions.keys())
    if missing:
        raise UserError.expected(
            f"a SavedModel with the signatures {', '.join(pipeline['convert'])}",
            f"none called {missing[0]}",
            "Export the model again",
        )
    inputs = {spec.name for name in pipeline["convert"] for spec in input_specs(functions[name])}
    unknown = request.dim_range.keys() - inputs
    if unknown:
        raise UserError.expected(
            f"--dim_range with inputs of the model, which are {', '.join(sorted(inputs))}",
            min(unknown),
            "Correct the name",
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
        except RuntimeError as error:  # OpenVINO raises it if the disk is full
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
    """Returns the inputs of a signature with the ranges of the request or of `pipeline.json`."""
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
    """Returns the value as it is read back from JSON."""
    return json.loads(to_json(value))
