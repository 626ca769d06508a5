"""Conversion of a small model for every backend: values, ranges, reuse, and what goes wrong."""

import concurrent.futures
import dataclasses
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tests.support.errors import refused
from tests.support.saved_models import save_model
from tools.conversion import backends, saved_model, signature
from tools.conversion.converter import convert
from tools.conversion.loaded_model import LoadedModel
from tools.conversion.machine import machine
from tools.conversion.protocol import Execution
from tools.conversion.request import ConversionRequest
from tools.errors import UserError
from tools.inference.runner import load

RANGE = {"waveforms": ((1, 3), (10, 40))}


@pytest.fixture(scope="session", params=backends.NAMES)
def backend(request):
    return request.param


@pytest.fixture(scope="session")
def converted(native, backend, tmp_path_factory):
    """An artifact for batches of 1 to 3 and 10 to 40 samples."""
    directory = tmp_path_factory.mktemp(backend) / "converted"
    convert(native, directory, ConversionRequest(backend, dim_range=RANGE))
    return directory


def sound(rows, samples):
    rng = np.random.default_rng([rows, samples])
    lengths = rng.integers(1, samples + 1, rows).astype(np.int32)
    return {"waveforms": rng.standard_normal((rows, samples)).astype("f"), "lengths": lengths}


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize(("rows", "samples"), [(1, 10), (3, 40), (2, 23)])
def test_inside_its_range_it_answers_as_the_saved_model(native, converted, rows, samples):
    eager, jit = load(native), load(converted)
    assert (eager.mode, jit.mode) == ("eager", "jit")
    inputs = sound(rows, samples)
    expected, found = eager.run(inputs), jit.run(inputs)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "samples"), [(4, 20), (1, 9), (1, 41)])
def test_outside_its_range_it_refuses_in_one_line(converted, rows, samples):
    with refused(match=r"\[1:3, 10:40\].*--dim_range"):
        load(converted).run(sound(rows, samples))


def test_a_fixed_shape_is_padded_to_and_cut_from(native, backend, tmp_path):
    fixed = {"waveforms": ((3, 3), (40, 40))}
    convert(native, tmp_path / "fixed", ConversionRequest(backend, dim_range=fixed))
    jit = load(tmp_path / "fixed")
    inputs = sound(2, 23)
    expected, found = load(native).run(inputs), jit.run(inputs)
    np.testing.assert_allclose(found["sums"], expected["sums"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["doubled"], expected["doubled"])
    with refused(match=r"\[3, 40\]"):
        jit.run(sound(4, 23))


def test_without_a_range_the_pipeline_and_the_batch_give_it(native, backend, tmp_path):
    manifest = convert(native, tmp_path / "a", ConversionRequest(backend, batch=(1, 6)))
    assert manifest["signatures"]["serving_default"]["inputs"] == [
        ["lengths", "int32", [[1, 6]]],
        ["waveforms", "float32", [[1, 6], [10, 50]]],
    ]


def test_the_manifest_says_what_it_is_and_is_reused(native, converted, backend):
    request = ConversionRequest(backend, dim_range=RANGE)
    before = {path.name: path.stat().st_mtime_ns for path in converted.iterdir()}
    manifest = convert(native, converted, request)
    assert manifest["reused"]
    assert manifest["family"] == "toy"
    assert manifest["request"]["backend"] == backend
    assert manifest["signatures"]["serving_default"]["backend"] == backend
    assert backends.get(backend).versions().items() <= manifest["versions"].items()
    assert len(manifest["source_sha256"]) == 64
    assert before == {path.name: path.stat().st_mtime_ns for path in converted.iterdir()}


def copied(directory, tmp_path):
    return shutil.copytree(directory, tmp_path / "copy")


@pytest.mark.parametrize("change", ["request", "source", "version", "damage"])
def test_what_does_not_match_is_converted_again(native, converted, backend, tmp_path, change):
    artifact, source = copied(converted, tmp_path), native
    request = ConversionRequest(backend, dim_range=RANGE)
    manifest = json.loads((artifact / "manifest.json").read_text())
    if change == "request":
        request = ConversionRequest(backend, dim_range={"waveforms": ((1, 5), (10, 40))})
    elif change == "source":
        source = shutil.copytree(native, tmp_path / "source")
        pipeline = source / "assets" / "pipeline.json"
        pipeline.write_text(pipeline.read_text() + "\n")
    elif change == "version":
        manifest["versions"][backend] = "0.1"
        (artifact / "manifest.json").write_text(json.dumps(manifest))
    else:
        (artifact / "manifest.json").write_text("{")
        with refused(match="earlier conversion"):
            convert(source, artifact, request)
        return
    assert not convert(source, artifact, request)["reused"]
    assert convert(source, artifact, request)["reused"]
    load(artifact).run(sound(2, 20))
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 4"),
        ({"machine": "vax"}, "vax"),
        ({"versions": {"openvino": "0.1", "onnxruntime": "0.1", "tensorflow": "0.1"}}, "0.1"),
    ],
)
def test_an_artifact_of_elsewhere_is_one_line(converted, tmp_path, change, message):
    artifact = copied(converted, tmp_path)
    manifest = json.loads((artifact / "manifest.json").read_text())
    (artifact / "manifest.json").write_text(json.dumps(manifest | change))
    with refused(match=message):
        load(artifact)


def test_a_truncated_or_missing_file_is_one_line(converted, tmp_path):
    artifact = copied(converted, tmp_path)
    manifest = json.loads((artifact / "manifest.json").read_text())
    for name in manifest["files"]:
        whole = (artifact / name).read_bytes()
        (artifact / name).write_bytes(whole[:-10])
        with refused(match=f"{name}.*Convert it again"):
            load(artifact)
        (artifact / name).unlink()
        with refused(match=f"{name}.*Convert it again"):
            load(artifact)
        (artifact / name).write_bytes(whole)
    load(artifact)


@pytest.mark.parametrize(
    ("change", "there"), [({"family": "other"}, "other"), ({"family": None}, "something else")]
)
def test_a_conversion_of_another_family_is_left_as_it_is(
    native, converted, backend, tmp_path, change, there
):
    artifact = copied(converted, tmp_path)
    manifest = json.loads((artifact / "manifest.json").read_text()) | change
    (artifact / "manifest.json").write_text(json.dumps(manifest | {"source_sha256": "0"}))
    before = {path.name: path.read_bytes() for path in artifact.rglob("*") if path.is_file()}
    with refused(f"{artifact}, a conversion of {there}. Choose another"):
        convert(native, artifact, ConversionRequest(backend, dim_range=RANGE))
    after = {path.name: path.read_bytes() for path in artifact.rglob("*") if path.is_file()}
    assert after == before


def test_what_is_no_export_or_no_place_is_one_line(native, backend, tmp_path):
    request = ConversionRequest(backend)
    with refused(match="SavedModel"):
        convert(tmp_path / "nowhere", tmp_path / "a", request)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with refused(match="earlier conversion"):
        convert(native, tmp_path / "mine", request)
    with refused(match="earlier conversion"):
        convert(native, tmp_path / "mine" / "thesis.tex", request)
    source = shutil.copytree(native, tmp_path / "source")
    pipeline = {"family": "toy", "convert": {"encode": {"dim_range": {}}}}
    (source / "assets" / "pipeline.json").write_text(json.dumps(pipeline))
    with refused(match="encode"):
        convert(source, tmp_path / "a", request)
    assert names(tmp_path) == ["mine", "source"]


@pytest.mark.parametrize(
    ("request_fields", "message"),
    [
        ({"precision": "int16_fp32"}, r"fp32.*int16_fp32.*--backend"),
        ({"opt_config": ("fuse_all",)}, "opt_config|fuse_all"),
        ({"dim_range": {"images": ((1, 2),)}}, r"are .*waveforms.* Received: images\."),
        ({"dim_range": {"waveforms": ((1, 2),)}}, "waveforms"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line(
    native, backend, tmp_path, request_fields, message
):
    with refused(match=message):
        convert(native, tmp_path / "a", ConversionRequest(backend, **request_fields))
    assert names(tmp_path) == []


def test_an_interrupted_conversion_leaves_nothing(native, backend, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(backends.get(backend), "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(native, tmp_path / "a", ConversionRequest(backend))
    assert names(tmp_path) == []


def test_backends_are_chosen_by_name_or_by_what_is_there(monkeypatch):
    assert backends.choose("auto") == backends.NAMES[0]
    assert backends.choose("onnxruntime") == "onnxruntime"
    with refused(match="openvino"):
        backends.get("tflite")
    with monkeypatch.context() as patch:
        providers = ("CUDAExecutionProvider", "CPUExecutionProvider")
        patch.setattr(backends.get("onnxruntime"), "PROVIDERS", providers)
        assert backends.choose("auto") == "onnxruntime"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused(match=r"setup\.sh"):
        backends.choose("auto")
    with refused(match=r"setup\.sh"):
        backends.get("openvino")


def test_small_signatures_go_where_calls_are_cheapest(native, tmp_path):
    source = shutil.copytree(native, tmp_path / "source")
    path = source / "assets" / "pipeline.json"
    pipeline = json.loads(path.read_text())
    pipeline["convert"]["serving_default"]["small"] = True
    path.write_text(json.dumps(pipeline))
    manifest = convert(source, tmp_path / "a", ConversionRequest("openvino", precision="fp16"))
    assert manifest["signatures"]["serving_default"]["files"] == ["serving_default.onnx"]
    assert manifest["signatures"]["serving_default"]["backend"] == "onnxruntime"
    assert not manifest["signatures"]["serving_default"]["options"]["half"]
    inputs = sound(2, 30)
    expected, found = load(native).run(inputs), load(tmp_path / "a").run(inputs)
    np.testing.assert_allclose(found["sums"], expected["sums"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("precision", "bytes_of_a_weight"), [("fp32", 4), ("fp16", 2)])
def test_half_precision_halves_the_weights(native, tmp_path, precision, bytes_of_a_weight):
    request = ConversionRequest("openvino", precision=precision, dim_range=RANGE)
    convert(native, tmp_path / "a", request)
    text = (tmp_path / "a" / "serving_default.xml").read_text()
    assert ('element_type="f16"' in text) == (precision == "fp16")
    assert (tmp_path / "a" / "serving_default.bin").stat().st_size >= 40 * bytes_of_a_weight
    inputs = sound(2, 30)
    expected, found = load(native).run(inputs), load(tmp_path / "a").run(inputs)
    tolerance = {"fp32": 1e-5, "fp16": 1e-2}[precision]
    np.testing.assert_allclose(found["sums"], expected["sums"], rtol=tolerance, atol=tolerance)


def test_what_does_not_apply_to_a_backend_stands_in_the_manifest(native, backend, tmp_path):
    request = ConversionRequest(backend, dim_range=RANGE, minimum_segment_size=7)
    manifest = convert(native, tmp_path / "a", request)
    assert manifest["not_applicable"] == backends.get(backend).NOT_APPLICABLE
    for name in manifest["not_applicable"]:
        assert manifest["request"][name] is None
    assert "minimum_segment_size" in manifest["not_applicable"]  # no TensorRT here
    # It changes nothing, so that another value of it is no reason to convert again.
    request = ConversionRequest(backend, dim_range=RANGE, minimum_segment_size=9)
    assert convert(native, tmp_path / "a", request)["reused"]


def test_the_smallest_part_for_tensorrt_reaches_its_provider(native, tmp_path, monkeypatch):
    module, seen = backends.get("onnxruntime"), []
    session = module.onnxruntime.InferenceSession

    def spy(model, options, providers, **more):
        seen.append(dict(providers))
        return session(model, options, providers=["CPUExecutionProvider"], **more)

    monkeypatch.setattr(module, "NOT_APPLICABLE", {})
    monkeypatch.setattr(module, "PROVIDERS", ("TensorrtExecutionProvider", "CPUExecutionProvider"))
    monkeypatch.setattr(module.onnxruntime, "InferenceSession", spy)
    request = ConversionRequest("onnxruntime", "fp16", dim_range=RANGE, minimum_segment_size=7)
    convert(native, tmp_path / "a", request)
    load(tmp_path / "a")
    settings = seen[-1]["TensorrtExecutionProvider"]
    assert settings == {"trt_fp16_enable": True, "trt_min_subgraph_size": 7}


def test_xla_leaves_a_saved_model_that_compiles(native, tmp_path):
    """TensorFlow Serving takes the folder: all its signatures, with the same answers."""
    convert(native, tmp_path / "a", ConversionRequest("xla", dim_range=RANGE))
    path = tmp_path / "a" / "saved_model"
    model = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    functions = model.meta_graphs[0].graph_def.library.function
    assert any(function.attr["_XlaMustCompile"].b for function in functions)
    nodes = [node for function in functions for node in function.node_def]
    assert any(node.attr["_XlaMustCompile"].b for node in nodes)
    inputs = sound(3, 40)
    expected, found = load(native).run(inputs), load(path).run(inputs)
    np.testing.assert_allclose(found["sums"], expected["sums"], rtol=1e-5, atol=1e-5)


def test_250_lengths_that_are_not_padded_are_250_shapes_and_one_compiled_network(
    native, tmp_path, monkeypatch
):
    module, compiled = backends.get("openvino"), []

    class Core(module.openvino.Core):
        def compile_model(self, network, device, options):
            compiled.append(options)
            return super().compile_model(network, device, options)

    ranges = {"waveforms": ((1, 3), (10, 400))}
    convert(native, tmp_path / "a", ConversionRequest("openvino", dim_range=ranges))
    monkeypatch.setattr(module.openvino, "Core", Core)
    jit = load(tmp_path / "a")  # the model does not say that padding keeps its result
    lengths = np.random.default_rng(0).permutation(np.arange(100, 350))
    for samples in (*lengths, *lengths[-20:]):
        assert jit.run(sound(1, samples))["doubled"].shape == (1,)
    counts = jit.shapes.described()
    assert (counts["prepared"], counts["reused"]) == (250, 20)
    (options,) = compiled
    # A shape has about ten kernels; the runtime keeps those of few shapes.
    assert int(options["CPU_RUNTIME_CACHE_CAPACITY"]) <= 1000


@pytest.fixture
def compiled(native, tmp_path, monkeypatch):
    """Converts to `a`; whether each network that OpenVINO compiles after that has free sizes."""
    module, found = backends.get("openvino"), []

    class Core(module.openvino.Core):
        def compile_model(self, network, *options):
            found.append(network.is_dynamic())
            return super().compile_model(network, *options)

    convert(native, tmp_path / "a", ConversionRequest("openvino", dim_range=RANGE))
    monkeypatch.setattr(module.openvino, "Core", Core)
    return found


def test_shapes_met_often_are_compiled_once_more_for_themselves(
    native, compiled, tmp_path, monkeypatch
):
    module = backends.get("openvino")
    monkeypatch.setattr(module, "PATIENCE", 0)  # often is once
    jit = load(tmp_path / "a")
    for rows, samples in ((2, 23), (3, 40), (2, 23), (1, 10), (2, 23)):
        inputs = sound(rows, samples)
        expected = load(native).run(inputs)["sums"]
        for _ in range(2):
            np.testing.assert_allclose(jit.run(inputs)["sums"], expected, rtol=1e-5, atol=1e-5)
    assert compiled == [True, False, False, False]  # of three shapes two are kept, the last used
    jit.run(sound(3, 40))
    assert compiled == [True, False, False, False, False]
    del jit  # what is open is shared
    # Otherwise the first is compiled when it was met as often, the second after twice as often.
    monkeypatch.setattr(module, "PATIENCE", 2)
    rare, counts = load(tmp_path / "a"), []
    for rows in (2, 2, 2, 3, 3, 3, 3, 3):
        rare.run(sound(rows, 23))
        counts.append(len(compiled) - 6)
    assert counts == [0, 1, 1, 1, 1, 1, 2, 2]


def test_a_mixture_of_shapes_compiles_none(compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(backends.get("openvino"), "PATIENCE", 3)
    jit = load(tmp_path / "a")
    for samples in (10, 11, 12) * 4:
        jit.run(sound(1, samples))
    assert compiled == [True]
    for _ in range(4):
        jit.run(sound(1, 12))
    assert compiled == [True, False], "half of all calls"
    del jit  # what is open is shared
    monkeypatch.setattr(backends.get("openvino"), "MOST_SPECIAL_BYTES", 0)
    heavy = load(tmp_path / "a")
    for _ in range(12):
        heavy.run(sound(1, 12))
    assert compiled == [True, False, True], "many weights are not copied for a shape"


@pytest.mark.parametrize(
    ("name", "paddable", "lengths"),
    [
        ("openvino", True, [22, 25, 40]),
        ("openvino", False, [21, 24, 39]),
        ("onnxruntime", True, [21, 24, 39]),
    ],
)
def test_lengths_are_padded_where_shapes_are_prepared_and_zeros_change_nothing(
    native, tmp_path, monkeypatch, name, paddable, lengths
):
    module, seen = backends.get(name), []
    source = shutil.copytree(native, tmp_path / "source")
    path = source / "assets" / "pipeline.json"
    pipeline = json.loads(path.read_text())
    pipeline["convert"]["serving_default"]["paddable"] = paddable
    path.write_text(json.dumps(pipeline))
    convert(source, tmp_path / "a", ConversionRequest(name, dim_range=RANGE))
    opened = module.open

    def open_and_note(path, described, execution):
        function = opened(path, described, execution)()

        def run(inputs):
            seen.append(inputs["waveforms"].shape[1])
            return function(inputs)

        return lambda: run

    monkeypatch.setattr(module, "open", open_and_note)
    jit = load(tmp_path / "a")
    for samples in (21, 24, 39):
        inputs = sound(2, samples)
        found, expected = jit.run(inputs), load(native).run(inputs)
        np.testing.assert_allclose(found["sums"], expected["sums"], rtol=1e-5, atol=1e-5)
    assert seen == lengths


def test_sessions_of_one_artifact_share_what_is_open(native, tmp_path, monkeypatch):
    module, opened = backends.get("openvino"), []
    open_one = module.open

    def open_and_note(*arguments):
        opened.append(arguments[-1])
        return open_one(*arguments)

    monkeypatch.setattr(module, "open", open_and_note)
    convert(native, tmp_path / "a", ConversionRequest("openvino", dim_range=RANGE))
    first, second = load(tmp_path / "a"), load(tmp_path / "a")
    assert len(opened) == 1
    one_thread = Execution(threads=1)
    third = load(tmp_path / "a", one_thread)
    assert opened[1:] == [one_thread]
    for runner in (first, second, third):
        assert runner.run(sound(1, 20))["doubled"].shape == (1,)
    del first, second, third, runner
    load(tmp_path / "a")
    assert len(opened) == 3, "what nobody uses is closed"


def test_sessions_of_one_artifact_run_at_the_same_time(native, tmp_path, monkeypatch):
    module, together = backends.get("onnxruntime"), threading.Barrier(2, timeout=30)
    open_one = module.open

    def open_meeting(*arguments):
        function = open_one(*arguments)()

        def run(inputs):
            together.wait()  # fails unless both sessions are here
            return function(inputs)

        return lambda: run

    monkeypatch.setattr(module, "open", open_meeting)
    convert(native, tmp_path / "a", ConversionRequest("onnxruntime", dim_range=RANGE))
    sessions = [load(tmp_path / "a") for _ in range(2)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda runner: runner.run(sound(1, 20)), sessions))
    assert [one["doubled"].shape for one in found] == [(1,), (1,)]
    assert [one.shapes.described()["prepared"] for one in sessions] == [1, 1]


def test_sessions_count_for_themselves_and_share_what_is_compiled(compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(backends.get("openvino"), "PATIENCE", 2)
    first, second = load(tmp_path / "a"), load(tmp_path / "a")
    assert compiled == [True]
    for runner, count in ((first, 1), (second, 1), (second, 2), (first, 2), (first, 2)):
        runner.run(sound(2, 23))
        assert len(compiled) == count
    del runner, second
    first.run(sound(2, 23))
    assert len(compiled) == 2, "the other session still has it"
    del first
    last = load(tmp_path / "a")
    for _ in range(2):
        last.run(sound(2, 23))
    assert len(compiled) == 4, "what nobody uses is closed"


def test_a_conversion_copies_its_graph_only_for_another_conversion(native, tmp_path, monkeypatch):
    made, given = [], []
    translate, save = signature.to_onnx, backends.get("onnxruntime").save

    def note_translation(*arguments):
        made.append(translate(*arguments))
        return made[-1]

    def note_graph(source, request, folder, examples):
        given.append(source.onnx)
        return save(dataclasses.replace(source), request, folder, examples)

    monkeypatch.setattr(signature, "to_onnx", note_translation)
    monkeypatch.setattr(backends.get("onnxruntime"), "save", note_graph)
    request, loaded = ConversionRequest("onnxruntime", dim_range=RANGE), LoadedModel(native)
    loaded.keeps = True
    convert(native, tmp_path / "a", request, loaded=loaded)
    assert loaded.graphs and "functions" in vars(loaded)
    assert given[0] is not made[0] and len(made) == 1
    loaded.keeps = False
    convert(native, tmp_path / "b", request, loaded=loaded)
    assert given[1] is made[0]
    assert not loaded.graphs and "functions" not in vars(loaded), "nothing stays in memory"


def test_threads_are_set_before_tensorflow_loads_the_model(monkeypatch):
    done = []
    monkeypatch.setattr(saved_model, "limit_threads", lambda count: done.append(count))
    monkeypatch.setattr(saved_model, "load_saved_model", lambda place: done.append(place) or {})
    assert LoadedModel("m", threads=3).functions == {}
    assert done == [3, Path("m")]


def test_a_conversion_for_another_processor_is_made_again_and_says_so(native, tmp_path, capsys):
    place, request = tmp_path / "a", ConversionRequest("onnxruntime", dim_range=RANGE)
    convert(native, place, request)
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["machine"] = "x86_64 sse9"
    (place / "manifest.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    assert not convert(native, place, request)["reused"]
    assert re.search(
        r"was made for x86_64 sse9, here is .*: converts again", capsys.readouterr().err
    )
    assert json.loads((place / "manifest.json").read_text())["machine"] == machine()


def test_bfloat16_is_there_where_the_processor_has_it(native, tmp_path, monkeypatch):
    class Core:
        def get_property(self, device, name):
            return ["FP32", "INT8"]

    module = backends.get("openvino")
    monkeypatch.setattr(module.openvino, "Core", Core)
    with refused(match=r"fp32, fp16, int8_fp32, int8_fp16\).*bf16"):
        convert(native, tmp_path / "a", ConversionRequest("openvino", "bf16"))
    monkeypatch.setattr(Core, "get_property", lambda *_: ["FP32", "BF16"])
    assert "bf16" in module.precisions()


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_quantization_wants_data(native, tmp_path, backend):
    with refused(match=r"calibrate.*--calibration_data_dir"):
        convert(native, tmp_path / "a", ConversionRequest(backend, "int8_fp32"))
    assert names(tmp_path) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_precision_asked_for_is_that_of_the_computation(
    native, tmp_path, monkeypatch, precision
):
    """Half precision is for the weights alone."""
    module = backends.get("openvino")
    monkeypatch.setattr(module, "precisions", lambda: ("fp32", "fp16", "bf16"))
    convert(native, tmp_path / "a", ConversionRequest("openvino", precision, dim_range=RANGE))
    network = module.openvino.Core().read_model(tmp_path / "a" / "serving_default.xml")
    hint = network.get_rt_info(["runtime_options", "INFERENCE_PRECISION_HINT"]).astype(str)
    assert hint == {"bf16": "bf16"}.get(precision, "f32")


@pytest.mark.parametrize("small", [True, False])
def test_a_small_call_takes_one_thread(graph, onnxruntime_threads, openvino_options, small):
    backends.get("onnxruntime").open(graph, {"small": small})
    assert onnxruntime_threads == [1 if small else 0]
    backends.get("openvino").open(graph, {"small": small})
    threads = [options.get("INFERENCE_NUM_THREADS") for options in openvino_options]
    assert threads == [1 if small else None]


@pytest.mark.parametrize("folds", [True, False])
def test_opt_config_decides_what_onnxruntime_folds(native, tmp_path, monkeypatch, folds):
    module, disabled = backends.get("onnxruntime"), []
    session = module.onnxruntime.InferenceSession

    def start(model, options, disabled_optimizers, **more):
        disabled.append(disabled_optimizers)
        return session(model, options, disabled_optimizers=disabled_optimizers, **more)

    monkeypatch.setattr(module.onnxruntime, "InferenceSession", start)
    options = ("conv_scale_fold",) if folds else ()
    request = ConversionRequest("onnxruntime", dim_range=RANGE, opt_config=options)
    convert(native, tmp_path / "a", request)
    load(tmp_path / "a")
    assert disabled == [[] if folds else ["ConvMulFusion", "ConvAddFusion", "ConvBNFusion"]]


def test_the_batch_asked_for_holds_in_every_signature(tmp_path):
    free, fixed = (tf.TensorSpec([None, size], tf.float32, "xy"[bool(size)]) for size in (None, 3))
    functions = {
        "first": tf.function(lambda x: {"out": 2.0 * x}, [free]),
        "second": tf.function(lambda y: {"out": 3.0 * y}, [fixed]),
    }
    pipeline = {"family": "toy", "convert": {x: {"dim_range": {}} for x in functions}}
    native = save_model(tmp_path / "native", tf.Module(), functions, pipeline)
    request = ConversionRequest("onnxruntime", batch=(1, 2), dim_range={"x": ((3, 5), (7, 9))})
    manifest = convert(native, tmp_path / "a", request)
    assert manifest["signatures"]["first"]["inputs"] == [["x", "float32", [[3, 5], [7, 9]]]]
    assert manifest["signatures"]["second"]["inputs"] == [["y", "float32", [[3, 5], 3]]]


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "xla"])
def test_a_model_that_takes_the_place_of_another_is_the_one_that_answers(name, tmp_path):
    for factor in (2.0, 3.0):
        module = tf.Module()
        module.factor = tf.Variable(factor)

        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
        def serving_default(x, module=module):
            return {"y": module.factor * x}

        pipeline = {"family": "toy", "convert": {"serving_default": {"dim_range": {}}}}
        source = save_model(
            tmp_path / f"source_{factor}", module, {"serving_default": serving_default}, pipeline
        )
        manifest = convert(source, tmp_path / "converted", ConversionRequest(name))
        assert not manifest["reused"]
        for _ in range(2):
            found = load(tmp_path / "converted").run({"x": np.ones((1, 3), np.float32)})
            np.testing.assert_allclose(found["y"], factor)


def test_shapes_met_seldom_are_forgotten(compiled, tmp_path, monkeypatch):
    module = backends.get("openvino")
    monkeypatch.setattr(module, "PATIENCE", 2)
    jit, counts = load(tmp_path / "a"), []
    for rows in (3, 2, 2, 3, 3, 3, 3):
        jit.run(sound(rows, 23))
        counts.append(len(compiled) - 1)
    assert counts == [0, 0, 1, 1, 1, 1, 2], "what is compiled ends all counts so far"
    # Of too many shapes that come once each, the counts end as well.
    monkeypatch.setattr(module, "REMEMBERED", 2)
    for others, more in ((1, 1), (2, 2)):
        del compiled[:], jit
        jit = load(tmp_path / "a")
        for samples in (10, *range(11, 11 + others)):
            jit.run(sound(2, samples))
        for _ in range(more):
            assert compiled == [True]
            jit.run(sound(2, 10))
        assert compiled == [True, False]


@pytest.mark.parametrize(("free", "error"), [(0, UserError), (1 << 30, RuntimeError)])
def test_a_disk_that_a_runtime_finds_full_is_one_line(native, tmp_path, monkeypatch, free, error):
    def full(*_):
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(backends.get("onnxruntime"), "save", full)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    with pytest.raises(error, match="No space left" if free == 0 else "iostream"):
        convert(native, tmp_path / "model", ConversionRequest("onnxruntime"))
    assert list(tmp_path.iterdir()) == []
