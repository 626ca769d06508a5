"""The gRPC interface of TensorFlow Serving: PredictionService and ModelService.

Source: tensorflow-serving-api 2.16.1. Its modules import TensorFlow, so this one is imported only
if the interface is opened.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import anyio.to_thread
import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tools.conversion.protocol import TensorSpec
from tools.errors import UserError
from tools.files import one_line
from tools.serving.kinds import Classes
from tools.serving.requests import Keys, Refusal, log_access
from tools.serving.served_model import SERVE_BYTES, ServedModel
from tools.serving.server import Server
from tools.serving.tf_serving import DEFAULT_SIGNATURE, arrays_of, check_names, specs_of

_log = logging.getLogger(__name__)
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_SIGNATURE_DEF = "signature_def"
_EXAMPLE_KEY = "bytes"  # of the feature with the file
_MAX_REST_BYTES = 16 * 1024  # of a message besides its tensors
_MAX_INT = 2**31 - 1  # of the options of gRPC


@contextlib.asynccontextmanager
async def grpc_service(
    server: Server, *, host: str, port: int, shares_port: bool, drain_seconds: float
) -> AsyncIterator[None]:
    """Answers requests over gRPC until the end of a `with` statement.

    When the server begins to end, it accepts no further requests and answers those that have begun.

    Args:
        server: answers requests with its models.
        host: name or address of an interface of this machine.
        port: number of the port.
        shares_port: whether other processes may answer at the same port.
        drain_seconds: longest time for the last answers.

    Raises:
        UserError: the port cannot be used.
    """
    options = [
        (
            "grpc.max_receive_message_length",
            min(server.options.limits.max_bytes + _MAX_REST_BYTES, _MAX_INT),
        ),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", int(shares_port)),
    ]
    running = grpc.aio.server(options=options)
    _Handlers(server).add_to(running)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        running.add_insecure_port(address)
    except RuntimeError as error:
        raise UserError.expected(
            "a free port", f"{address}, {error}", "Choose another --port or --host"
        ) from error
    await running.start()

    async def stop() -> None:
        await server.ending.wait()
        await running.stop(drain_seconds)

    stopping = asyncio.create_task(stop())
    try:
        yield
    finally:
        server.ending.set()
        await stopping


class _Handlers:
    """Handlers of the calls.

    Args:
        server: answers requests with its models.
    """

    def __init__(self, server: Server):
        self._server, self._keys = server, Keys(server.options.api_keys)

    def add_to(self, running: grpc.aio.Server) -> None:
        """Adds the services to a server."""
        prediction = {
            "Predict": self._predict,
            "Classify": self._classify,
            "GetModelMetadata": self._metadata,
            "Regress": self._unknown,
            "MultiInference": self._unknown,
        }
        models = {"GetModelStatus": self._status, "HandleReloadConfigRequest": self._unknown}
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            self._servicer("PredictionService", prediction), running
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            self._servicer("ModelService", models), running
        )

    def _servicer(self, service: str, calls: dict[str, Callable[[Any], Awaitable[Any]]]) -> object:
        answers = {
            name: self._answering(f"/tensorflow.serving.{service}/{name}", call)
            for name, call in calls.items()
        }
        return type(service, (), answers)()

    def _answering(self, path: str, call: Callable[[Any], Awaitable[Any]]) -> Callable:
        """Returns the method of a call: checks the key, maps errors, counts and logs."""

        async def answer(_: object, request: Any, context: grpc.aio.ServicerContext) -> Any:
            started, found, message = time.perf_counter(), None, ""
            status = grpc.StatusCode.CANCELLED  # by the client
            try:
                headers = dict(context.invocation_metadata() or ())
                self._keys.check(*(_header(headers, x) for x in ("authorization", "x-api-key")))
                found = await call(request)
                status = grpc.StatusCode.OK
            except (Refusal, UserError) as error:
                refusal = error if isinstance(error, Refusal) else Refusal(400, str(error), "input")
                self._server.metrics.error(refusal.kind)
                status, message = _CODES[refusal.status], refusal.message
            except Exception:  # of a model: the client is told that there was one
                _log.exception("%s failed", path)
                status, message = grpc.StatusCode.INTERNAL, "The server failed. Its log says why."
            finally:
                seconds = time.perf_counter() - started
                self._server.metrics.request(path, status.name, seconds)
                facts = {"method": "gRPC", "path": path, "status": status.name}
                log_access(facts, seconds, 0 if found is None else found.ByteSize())
            if found is None:
                await context.abort(status, message)
            return found

        return answer

    def _model(self, spec: model_pb2.ModelSpec) -> ServedModel:
        chosen = spec.WhichOneof("version_choice")
        version = str(spec.version.value) if chosen == "version" else None
        label = spec.version_label if chosen == "version_label" else None
        return self._server.model(spec.name, version, label)

    async def _predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        model = self._model(request.model_spec)
        signature = request.model_spec.signature_name or DEFAULT_SIGNATURE
        specs = specs_of(signature, model.signatures)
        most = self._server.options.limits.max_bytes
        inputs = await anyio.to_thread.run_sync(_inputs, request.inputs, specs, most)
        outputs = await self._server.outputs(model, inputs, signature)
        names = list(request.output_filter) or list(outputs)
        if unknown := sorted(set(names) - set(outputs)):
            raise UserError.expected(
                f"an output_filter among {', '.join(sorted(outputs))}",
                one_line(unknown[0][:100]),
                "Correct it",
            )
        answer = predict_pb2.PredictResponse(model_spec=_spec_of(model, signature))
        for name in names:
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name]))
        return answer

    async def _classify(
        self, request: classification_pb2.ClassificationRequest
    ) -> classification_pb2.ClassificationResponse:
        model = self._model(request.model_spec)
        model.check_classifies()
        kind = request.input.WhichOneof("kind")
        examples = getattr(request.input, kind).examples if kind else ()
        files = [_file_of(example) for example in examples]
        columns = arrays_of({"bytes": files}, specs_of(SERVE_BYTES, model.signatures))
        found: list[Classes] = await self._server.files(model, columns["bytes"].tolist())
        answer = classification_pb2.ClassificationResponse(model_spec=_spec_of(model, SERVE_BYTES))
        for one in found:
            row = answer.result.classifications.add()
            for label, score in zip(one.class_names, one.probabilities, strict=True):
                row.classes.add(label=label, score=score)
        return answer

    async def _metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        fields = list(request.metadata_field)
        if fields != [_SIGNATURE_DEF]:
            raise UserError.expected(
                f"metadata_field {_SIGNATURE_DEF}",
                one_line(", ".join(fields)[:100]) or "none",
                "Correct it",
            )
        model = self._model(request.model_spec)
        described = get_model_metadata_pb2.SignatureDefMap()
        for name, specs in model.signatures.items():
            described.signature_def[name].CopyFrom(_signature_def(specs))
        answer = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=_spec_of(model))
        answer.metadata[_SIGNATURE_DEF].Pack(described)
        return answer

    async def _status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        model = self._model(request.model_spec)
        states = self._server.repository.states(model.name)
        if request.model_spec.WhichOneof("version_choice"):
            states = {model.version: states[model.version]}
        answer = get_model_status_pb2.GetModelStatusResponse()
        for version, state in sorted(states.items(), reverse=True):
            answer.model_version_status.add(version=version, state=state)
        return answer

    async def _unknown(self, request: Any) -> Any:
        raise Refusal(
            501,
            "Expected Predict, Classify, GetModelMetadata or GetModelStatus. Received: another "
            "call. Use one of them.",
            "address",
        )


def _header(headers: dict[str, str | bytes], name: str) -> bytes:
    value = headers.get(name, "")
    return value if isinstance(value, bytes) else value.encode()


def _spec_of(model: ServedModel, signature: str = "") -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=model.name, signature_name=signature)
    spec.version.value = model.version
    return spec


def _inputs(tensors: Any, specs: Sequence[TensorSpec], max_bytes: int) -> dict[str, np.ndarray]:
    """Converts the tensors of a request to arrays, and checks them as those of a REST request."""
    check_names(tensors, specs)  # before memory is taken for values
    columns, bytes_left = {}, max_bytes
    for spec in specs:
        values = _values(spec.name, tensors[spec.name], spec.dtype, bytes_left)
        bytes_left -= getattr(values, "nbytes", 0)
        columns[spec.name] = values
    return arrays_of(columns, specs)


def _values(name: str, tensor: Any, dtype: str, max_bytes: int) -> Any:
    """Returns a tensor as an array, or as a list of bytes.

    Raises:
        UserError: the tensor has another dtype, is incomplete, or is larger than a request may be.
    """
    try:
        found = tf.as_dtype(tensor.dtype)
    except TypeError as error:
        raise UserError.expected(f"a dtype in {name}", tensor.dtype, "Correct it") from error
    if found.name != dtype:
        raise UserError.expected(f"{dtype} in {name}", found.name, "Convert the tensor")
    sizes = [dimension.size for dimension in tensor.tensor_shape.dim]
    shape = f"a tensor of shape {str(sizes)[:100]}"
    if found == tf.string:
        if sizes != [len(tensor.string_val)]:
            received = f"{shape} with {len(tensor.string_val)} strings"
            raise UserError.expected(f"a list of strings in {name}", received, "Correct it")
        return list(tensor.string_val)
    # A small message can describe a large tensor of equal values.
    if min(sizes, default=0) < 0 or np.prod(sizes, dtype=float) * found.size > max_bytes:
        expected = f"at most {max_bytes} bytes in {name}"
        raise UserError.expected(expected, shape, "Send a smaller tensor")
    try:
        return tf.make_ndarray(tensor)
    except (TypeError, ValueError) as error:
        raise UserError.expected(
            f"the values of {shape} in {name}", one_line(str(error)[:100]), "Correct it"
        ) from error


def _file_of(example: Any) -> bytes:
    values = example.features.feature[_EXAMPLE_KEY].bytes_list.value
    if len(values) != 1:
        raise UserError.expected(
            f"examples with one file in the feature {_EXAMPLE_KEY}", len(values), "Correct them"
        )
    return values[0]


def _signature_def(specs: Sequence[TensorSpec]) -> SignatureDef:
    found = SignatureDef(method_name="tensorflow/serving/predict")
    for spec in specs:
        info = found.inputs[spec.name]
        info.name, info.dtype = spec.name, tf.as_dtype(spec.dtype).as_datatype_enum
        for size in spec.shape:
            info.tensor_shape.dim.add(size=size if isinstance(size, int) else -1)
    return found
