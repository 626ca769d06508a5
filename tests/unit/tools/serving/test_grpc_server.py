"""The gRPC interface, over models that are stand-ins, with the published client."""

import asyncio
import functools
import socket

import anyio.to_thread
import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.support.errors import refused
from tests.support.served import served
from tools.serving.app import create_app
from tools.serving.grpc_server import grpc_service
from tools.serving.http_server import listen, serve
from tools.serving.kinds import Classes
from tools.serving.metrics import Metrics
from tools.serving.repository import Repository
from tools.serving.requests import RequestLimits
from tools.serving.server import AppOptions, Server

CODE = grpc.StatusCode


class Stubs:
    def __init__(self, channel, metrics, end):
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)
        self.metrics, self.end = metrics, end


@pytest.fixture
def talk(tmp_path):
    """Returns a function that runs a conversation with a server over one model."""

    def run(conversation, *, open_model=lambda *place: served(*place[:2])[0], **options):
        metrics = Metrics()
        repository = Repository(
            open_model, {"toy": tmp_path}, labels=lambda: {"toy": {"stable": 1}}
        )
        repository.scan()
        server = Server(repository, AppOptions(**options), metrics)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        async def work():
            service = grpc_service(
                server, host="127.0.0.1", port=port, shares_port=False, drain_seconds=5.0
            )
            async with service:
                with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                    loop = asyncio.get_running_loop()
                    end = functools.partial(loop.call_soon_threadsafe, server.ending.set)
                    stubs = Stubs(channel, metrics, end)
                    return await anyio.to_thread.run_sync(conversation, stubs)

        try:
            return asyncio.run(work())
        finally:
            repository.close()

    return run


def predict(signature="", name="toy", outputs=(), **inputs):
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name, request.model_spec.signature_name = name, signature
    for key, value in inputs.items():
        tensor = value if isinstance(value, tf.make_tensor_proto(0).__class__) else None
        request.inputs[key].CopyFrom(tensor or tf.make_tensor_proto(value))
    return request


X = np.array([[1, 2], [4, 5]], np.float32)
N = np.array([3, 6], np.int32)


def test_tensors(talk):
    def conversation(stubs):
        return stubs.prediction.Predict(predict(x=X, n=N)), stubs.prediction.Predict(
            predict("half", outputs=["y"], x=X[:, 0])
        )

    pair, half = talk(conversation)
    np.testing.assert_array_equal(tf.make_ndarray(pair.outputs["y"]), 2 * X)
    assert tf.make_ndarray(pair.outputs["label"]).tolist() == [b"n3", b"n6"]
    spec = pair.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("toy", 1, "serving_default")
    assert tf.make_ndarray(half.outputs["y"]).tolist() == [0.5, 2.0]


def test_files_versions_and_labels(talk):
    request = predict("serve_bytes", bytes=[b"one", b"two"])
    numbered, labelled = predict("half", x=X[0]), predict("half", x=X[0])
    numbered.model_spec.version.value = 1
    labelled.model_spec.version_label = "stable"

    def conversation(stubs):
        return [stubs.prediction.Predict(x) for x in (request, numbered, labelled)]

    texts, *others = talk(conversation)
    assert tf.make_ndarray(texts.outputs["text"]).tolist() == [b"one", b"two"]
    assert [tf.make_ndarray(x.outputs["y"]).tolist() for x in others] == [[0.5, 1.0]] * 2


def classify_examples(*files):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "toy"
    for content in files:
        example = request.input.example_list.examples.add()
        example.features.feature["bytes"].bytes_list.value.append(content)
    return request


def test_classify(talk):
    request = classify_examples(b"cat", b"dog")
    model, _ = served(run=lambda items: [Classes((x, "b"), (0, 1), (0.75, 0.25)) for x in items])
    found = talk(lambda stubs: stubs.prediction.Classify(request), open_model=lambda *_: model)
    rows = [[(c.label, c.score) for c in row.classes] for row in found.result.classifications]
    assert rows == [[("cat", 0.75), ("b", 0.25)], [("dog", 0.75), ("b", 0.25)]]


def test_metadata_and_status(talk):
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = "toy"
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = "toy"

    def conversation(stubs):
        return stubs.prediction.GetModelMetadata(metadata), stubs.models.GetModelStatus(status)

    described, states = talk(conversation)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert described.metadata["signature_def"].Unpack(signatures)
    inputs = signatures.signature_def["serving_default"].inputs
    assert {name: tf.as_dtype(x.dtype).name for name, x in inputs.items()} == {
        "x": "float32",
        "n": "int32",
    }
    assert [d.size for d in inputs["x"].tensor_shape.dim] == [-1, 2]
    (state,) = states.model_version_status
    assert (state.version, state.state) == (1, state.AVAILABLE)


def tensor(array, **changes):
    found = tf.make_tensor_proto(array)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def shaped(array, *sizes):
    """A tensor that claims another shape than its values have."""
    found = tf.make_tensor_proto(array)
    del found.tensor_shape.dim[:]
    for size in sizes:
        found.tensor_shape.dim.add(size=size)
    return found


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (predict(name="boat"), CODE.NOT_FOUND, "a model among toy"),
        (predict("nothing"), CODE.INVALID_ARGUMENT, "a signature_name among half"),
        (predict(x=X), CODE.INVALID_ARGUMENT, "inputs with x, n"),
        (predict(x=X, n=N, more=N), CODE.INVALID_ARGUMENT, "inputs with x, n"),
        (predict(x=X.astype(np.float64), n=N), CODE.INVALID_ARGUMENT, "float32 in x"),
        (predict(x=X[:1], n=N), CODE.INVALID_ARGUMENT, "the same number of rows"),
        (predict(x=X[:, :1, None], n=N), CODE.INVALID_ARGUMENT, "shape [any, 2] in x"),
        (predict(x=X, n=-N), CODE.INVALID_ARGUMENT, "n >= 0"),
        (predict(x=np.inf * X, n=N), CODE.INVALID_ARGUMENT, "float32 cannot hold"),
        (predict(x=shaped(X, 10**6, 10**6), n=N), CODE.INVALID_ARGUMENT, "bytes in x"),
        (predict(a=shaped(X, 10**6, 10**6)), CODE.INVALID_ARGUMENT, "inputs with x, n"),
        (predict(x=shaped(X, -1, 2), n=N), CODE.INVALID_ARGUMENT, "bytes in x"),
        (predict(x=shaped(X, 3, 2), n=N), CODE.INVALID_ARGUMENT, "the values of"),
        (predict(x=tensor(X, dtype=999), n=N), CODE.INVALID_ARGUMENT, "a dtype in x"),
        (predict("half", outputs=["z"], x=X[0]), CODE.INVALID_ARGUMENT, "output_filter among y"),
        (predict("serve_bytes", bytes=[b"bad"]), CODE.INVALID_ARGUMENT, "a good file"),
        (predict("serve_bytes", bytes=[[b"a"]]), CODE.INVALID_ARGUMENT, "a list of strings"),
        (predict("serve_bytes", bytes=N), CODE.INVALID_ARGUMENT, "string in bytes"),
    ],
)
def test_bad_requests_have_the_codes_of_tensorflow_serving(talk, request_, code, message):
    def conversation(stubs):
        with pytest.raises(grpc.RpcError) as caught:
            stubs.prediction.Predict(request_)
        return caught.value, stubs.prediction.Predict(predict("half", x=X[0]))

    error, good = talk(conversation)
    assert error.code() == code and message in error.details() and error.details().isprintable()
    assert tf.make_ndarray(good.outputs["y"]).tolist() == [0.5, 1.0]


def test_other_refusals(talk):
    def conversation(stubs):
        found = []
        reload = inference_pb2.MultiInferenceRequest()
        for call in (
            lambda: stubs.prediction.MultiInference(reload),
            lambda: stubs.prediction.Predict(predict("half", x=X[0])),
            lambda: stubs.prediction.Classify(classify_examples()),
            lambda: stubs.prediction.GetModelMetadata(
                get_model_metadata_pb2.GetModelMetadataRequest()
            ),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            found.append(caught.value.code())
        return found

    assert talk(conversation, request_seconds=-1.0) == [
        CODE.UNIMPLEMENTED,
        CODE.DEADLINE_EXCEEDED,
        CODE.INVALID_ARGUMENT,
        CODE.INVALID_ARGUMENT,
    ]


def test_keys_and_limits(talk):
    def conversation(stubs):
        codes = []
        large = predict("half", x=np.zeros(100_000, np.float32))
        for request, headers in (
            (predict("half", x=X[0]), []),
            (predict("half", x=X[0]), [("authorization", "Bearer two")]),
            (large, [("authorization", "Bearer one")]),
            (predict("half", x=X[0]), [("authorization", "Bearer one")]),
            (predict("half", x=X[0]), [("x-api-key", "one")]),
        ):
            codes.append(stubs.prediction.Predict.future(request, metadata=headers).code())
        return codes

    limits = RequestLimits(max_bytes=1000)  # and some more for names
    assert talk(conversation, api_keys=("one",), limits=limits) == [
        CODE.UNAUTHENTICATED,
        CODE.UNAUTHENTICATED,
        CODE.RESOURCE_EXHAUSTED,
        CODE.OK,
        CODE.OK,
    ]


def test_all_tensors_together_have_the_limit_of_a_request(talk):
    x, n = np.zeros((100, 2), np.float32), np.zeros(100, np.int32)

    def conversation(stubs):
        with pytest.raises(grpc.RpcError) as caught:
            stubs.prediction.Predict(predict(x=x, n=n))
        return caught.value.details()

    assert "bytes in n" in talk(conversation, limits=RequestLimits(max_bytes=1000))  # of 1200


def test_a_server_that_ends_answers_only_what_has_begun(talk):
    model, runner = served()
    runner.gate.clear()
    request = predict("half", x=X[0])

    def conversation(stubs):
        begun = stubs.prediction.Predict.future(request)
        while not runner.begun.wait(0.01):
            assert not begun.done()
        stubs.end()
        for _ in range(15):  # the first ones may come before the end begins
            code = stubs.prediction.Predict.future(request, timeout=0.2).code()
            if code == CODE.UNAVAILABLE:
                break
        runner.gate.set()
        return code, tf.make_ndarray(begun.result(20).outputs["y"]).tolist()

    found = talk(conversation, open_model=lambda *_: model)
    assert found == (CODE.UNAVAILABLE, [0.5, 1.0])


def test_a_port_that_is_taken_is_one_line(tmp_path):
    repository = Repository(lambda *place: served(*place[:2])[0], {"toy": tmp_path})
    repository.scan()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        open_it = functools.partial(
            grpc_service, host="127.0.0.1", port=port, shares_port=False, drain_seconds=1.0
        )
        with listen("127.0.0.1", 0) as own, refused("a free port"):
            app = create_app(repository, services=[open_it])
            serve(app, own, drain_seconds=1.0, on_start=lambda: pytest.fail("serves"))
    assert repository.names == []


def test_an_error_of_the_server_shows_no_trace(talk, caplog):
    def open_model(name, version, folder):
        model, runner = served(name, version)

        def fail(*_):
            raise RuntimeError("secret")

        runner.run = fail
        return model

    def conversation(stubs):
        with pytest.raises(grpc.RpcError) as caught:
            stubs.prediction.Predict(predict("half", x=X[0]))
        return caught.value, stubs.metrics.text().decode()

    error, counts = talk(conversation, open_model=open_model)
    assert error.code() == CODE.INTERNAL and "secret" not in error.details()
    assert "secret" in caplog.text
    route = 'route="/tensorflow.serving.PredictionService/Predict",status="INTERNAL"'
    assert f"requests_total{{{route}}} 1.0" in counts


def test_the_application_opens_it_and_closes_it(tmp_path):
    from starlette.testclient import TestClient

    seen = []

    class Service:
        def __init__(self, server):
            self.server = server

        async def __aenter__(self):
            seen.append(self.server.repository.names)

        async def __aexit__(self, *_):
            seen.append(self.server.repository.names)

    repository = Repository(lambda *place: served(*place[:2])[0], {"toy": tmp_path})
    repository.scan()
    with TestClient(create_app(repository, services=[Service])):
        assert seen == [["toy"]]
    assert seen == [["toy"], ["toy"]]  # before the models are closed
    assert repository.names == []
