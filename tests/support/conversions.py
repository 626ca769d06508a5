"""What several conversions of one model have in common, done once."""

import contextlib
import functools
from collections.abc import Iterator

import onnx
import pytest

from tools.conversion import saved_model, signature


@contextlib.contextmanager
def shared_translations() -> Iterator[None]:
    """Loads every SavedModel once, and translates each of its signatures to ONNX once.

    Each conversion gets its own copy of the graph, which it rewrites. No directory may be written
    anew meanwhile.
    """
    translate, models = signature.to_onnx, {}

    def translate_once(function, name, opset=signature.OPSET):
        if (function, opset) not in models:
            models[function, opset] = translate(function, name, opset)
        copy = onnx.ModelProto()
        copy.CopyFrom(models[function, opset])
        return copy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signature, "to_onnx", translate_once)
        load_once = functools.cache(saved_model.load_saved_model)
        patch.setattr(saved_model, "load_saved_model", load_once)
        yield
