"""Compares all exported formats and all signatures with the Keras model."""

import json
import re

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf

import vision
import vision.export
import vision.infer
from tests.support.arguments import joined
from tests.support.errors import refused
from tests.support.fake_hub import fake_hub
from tools.conversion.converter import convert
from tools.conversion.pipeline import read_pipeline
from tools.conversion.request import ConversionRequest
from tools.conversion.saved_model import load_saved_model
from tools.inference.runner import load
from vision.checkpoint import load_model
from vision.classes import Classes
from vision.config import ModelConfig, load_config
from vision.images import read_image
from vision.signatures import Signatures

SIDE = 64
NAMES = [f"thing {number}" for number in range(10)]
CONFIG = load_config(None, {"preprocessing.image_size": SIDE, "model.num_classes": 10})


@pytest.fixture(scope="module")
def saved(calibrated, tmp_path_factory):
    """Returns a SavedModel for each layout."""
    folder = tmp_path_factory.mktemp("saved")
    for layout, outputs in (("NHWC", "logits"), ("NCHW", "heads")):
        place = folder / layout
        vision.export.export_saved_model(
            calibrated, CONFIG, place, Classes(NAMES), layout=layout, outputs=outputs
        )
    return folder


@pytest.fixture(scope="module")
def functions(saved):
    return {layout: load_saved_model(saved / layout) for layout in ("NHWC", "NCHW")}


@pytest.fixture
def batch(rng):
    return rng.standard_normal((3, SIDE, SIDE, 3)).astype("float32")


@pytest.fixture
def expected(calibrated, batch):
    """Logits of both heads."""
    return [np.asarray(x) for x in calibrated(batch)]


def test_the_sum_of_heads(functions, batch, expected):
    heads = dict(zip(("convolution_logits", "transformer_logits"), expected, strict=True))
    heads["logits"] = sum(expected)
    assert len({*heads["logits"].argmax(-1), *heads["convolution_logits"].argmax(-1)}) > 1
    for layout, name, signature, outputs in (
        ("NHWC", "images", "serving_default", {"logits"}),
        ("NHWC", "images", "heads", set(heads)),
        ("NCHW", "input", "serving_default", set(heads)),
        ("NCHW", "input", "heads", set(heads)),
    ):
        images = batch if layout == "NHWC" else batch.transpose(0, 3, 1, 2)
        found = functions[layout][signature](**{name: tf.constant(images)})
        assert found.keys() == outputs
        for output, value in found.items():
            np.testing.assert_allclose(value, heads[output], atol=1e-5)


def test_a_half_precision_export_computes_in_half(of_small, tmp_path, batch, capsys):
    runners = []
    for precision in ("fp32", "fp16"):
        place = tmp_path / precision
        program(*of_small, f"--output_dir={place}", f"--precision={precision}")
        runners.append(load(place))
        assert runners[-1].precision == precision
    asked = {"images": batch, "classes": np.array([1, 2, 3], np.int32)}
    for inputs, signature in (({"images": batch}, "heads"), (asked, "activation_map")):
        whole, half = (runner.run(inputs, signature) for runner in runners)
        for name in half.keys() - {"classes"}:
            assert half[name].dtype == np.float32
            error = np.abs(half[name] - whole[name])
            assert 0 < error.mean() < 0.02 * np.abs(whole[name]).mean(), name


def test_probabilities(calibrated, batch, expected):
    signatures = Signatures(calibrated, CONFIG.preprocessing, Classes(), outputs="probabilities")
    found = signatures.functions["serving_default"](batch)["probabilities"]
    powers = np.exp(sum(expected))
    np.testing.assert_allclose(found, powers / powers.sum(-1, keepdims=True), atol=1e-6)


def test_what_the_model_says_of_itself(saved, calibrated):
    pipeline = read_pipeline(saved / "NCHW")
    assert pipeline["family"] == "vision" and pipeline["kind"] == "classifier"
    assert pipeline["class_names"] == NAMES
    assert pipeline["preprocessing"] == {
        "image_size": SIDE,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "exif_orientation": False,
    }
    heads = ["convolution_head", "transformer_head"]
    assert pipeline["convert"] == {"serving_default": {"dim_range": {}, "keep_in_float": heads}}
    assert (pipeline["layout"], pipeline["input"]) == ("NCHW", "input")
    assert pipeline["num_parameters"] == calibrated.count_params() - sum(
        np.prod(v.shape) for v in calibrated.non_trainable_variables
    )


def smooth_photo(path, rng):
    pixels = tf.image.resize(rng.uniform(0, 255, (6, 8, 3)), (300, 400), "bicubic")
    pixels = tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8)
    encode = tf.io.encode_png if path.suffix == ".png" else tf.io.encode_jpeg
    path.write_bytes(encode(pixels).numpy())


def test_files_as_bytes(functions, calibrated, rng, tmp_path):
    paths = [tmp_path / name for name in ("a.jpg", "b.png")]
    for path in paths:
        smooth_photo(path, rng)
    images = np.stack([read_image(path, CONFIG.preprocessing) for path in paths])
    logits = sum(np.asarray(x) for x in calibrated(images))
    content = tf.constant([path.read_bytes() for path in paths])
    for layout in functions.values():
        found = {k: v.numpy() for k, v in layout["serve_bytes"](bytes=content).items()}
        assert found["classes"].shape == (2, 5)
        np.testing.assert_array_equal(found["classes"][:, 0], logits.argmax(-1))
        assert found["class_names"][0, 0].decode() == NAMES[logits[0].argmax()]
        best = np.sort(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))[:, :-6:-1]
        np.testing.assert_allclose(found["probabilities"], best, atol=0.01)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
def test_resizing_in_the_graph_is_close_to_pil(interpolation, calibrated, rng, tmp_path):
    smooth_photo(tmp_path / "a.jpg", rng)
    config = load_config(None, {"preprocessing.interpolation": interpolation})
    signatures = Signatures(calibrated, config.preprocessing, Classes())
    found = signatures.read(tf.constant((tmp_path / "a.jpg").read_bytes())).numpy()
    difference = np.abs(found - read_image(tmp_path / "a.jpg", config.preprocessing)) * 0.225 * 255
    # In units of 1/255. Few values round differently in one of the two directions.
    limit, mean = (8, 0.8) if interpolation == "nearest" else (2.1, 1e-3)
    assert difference.max() < limit
    assert difference.mean() < mean


def test_activation_maps_add_up_to_the_convolution_head(functions, calibrated, batch, expected):
    classes = np.array([-1, 4, -1], "int32")
    predicted = sum(expected).argmax(-1)
    for layout, name in (("NHWC", "images"), ("NCHW", "input")):
        images = batch if layout == "NHWC" else batch.transpose(0, 3, 1, 2)
        found = functions[layout]["activation_map"](
            **{name: tf.constant(images), "classes": tf.constant(classes)}
        )
        chosen = np.where(classes < 0, predicted, classes)
        np.testing.assert_array_equal(found["classes"], chosen)
        assert found["convolution_map"].shape == (3, 2, 2)
        assert found["transformer_map"].shape == (3, 4, 4)
        # The head is linear in the mean over the map.
        logits = np.mean(found["convolution_map"], (1, 2))
        bias = calibrated.convolution_head.bias.numpy()
        np.testing.assert_allclose(
            logits + bias[chosen], expected[0][np.arange(3), chosen], atol=1e-4
        )
    feature_map, tokens = calibrated.encode(batch)
    as_class_token = calibrated.classify(feature_map, tokens[:, 6:7])[1].numpy()
    bias = calibrated.transformer_head.bias.numpy()
    np.testing.assert_allclose(
        np.asarray(found["transformer_map"])[:, 1, 1],
        (as_class_token - bias)[np.arange(3), chosen],
        atol=1e-4,
    )


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_converted_models_compute_the_same(backend, saved, batch, expected, tmp_path):
    request = ConversionRequest(backend=backend, batch=(1, 4))
    convert(saved / "NCHW", tmp_path / "converted", request)
    runner = load(tmp_path / "converted")
    for size in (1, 3):
        found = runner.run({"input": batch[:size].transpose(0, 3, 1, 2).copy()})
        np.testing.assert_allclose(found["logits"], sum(expected)[:size], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(found["logits"].argmax(-1), sum(expected)[:size].argmax(-1))


def test_onnx(saved, batch, expected, tmp_path):
    path = tmp_path / "model.onnx"
    pipeline = read_pipeline(saved / "NHWC")
    vision.export.export_onnx(saved / "NHWC", pipeline, path)
    session = onnxruntime.InferenceSession(path)
    assert [x.name for x in session.get_inputs()] == ["images"]
    assert [x.name for x in session.get_outputs()] == ["logits"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["pipeline"]) == pipeline
    for size in (1, 3):
        (found,) = session.run(None, {"images": batch[:size]})
        np.testing.assert_allclose(found, sum(expected)[:size], atol=1e-4)


def program(*arguments):
    return vision.export.main([*map(str, arguments)])


def test_program_writes_keras_and_onnx_files(
    of_small, calibrated, batch, expected, tmp_path, monkeypatch, capsys
):
    weights = tmp_path / "weights.safetensors"
    vision.save_pytorch_weights(calibrated, weights)
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yml"
    recipe.write_text(f"pretrained: {weights}\nfile_format: KERAS\n")
    program(*of_small, "--config", recipe)
    model = load_model(ModelConfig("small", num_classes=10), "small.keras")
    np.testing.assert_allclose(model(batch)[0], expected[0], atol=1e-5)
    with fake_hub(tmp_path / "hub") as hub:
        hub.repositories["owner/small"] = {"best.safetensors": weights.read_bytes()}
        target = ["--pretrained=hf:owner/small/best.safetensors", "--output_dir=new/er"]
        program(*of_small, *target, "--file_format=ONNX", "--layout=NCHW")
    session = onnxruntime.InferenceSession(tmp_path / "new" / "er" / "small.onnx")
    (found,) = session.run(["logits"], {"input": batch.transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(found, sum(expected), atol=1e-4)
    assert "small.onnx" in capsys.readouterr().err
    assert sorted(x.name for x in tmp_path.iterdir()) == [
        "hub",
        "new",
        "recipe.yml",
        "small.keras",
        weights.name,
    ]


@pytest.fixture
def weights(calibrated, tmp_path, monkeypatch):
    """A file of weights in the current folder."""
    vision.save_pytorch_weights(calibrated, tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    return "--checkpoint=w.safetensors"


def test_flags_of_an_onnx_file(weights, of_small, batch, expected, capsys):
    arguments = [weights, *of_small, f"--shape=3,3,{SIDE},{SIDE}"]
    program(*arguments, "--opset=11", "--verify", "--output-file", "new/a.onnx")
    said = capsys.readouterr().err
    limit, rows = re.search(r"by at most (\S+) \(.*, (\d+) random inputs\)", said).groups()
    assert float(limit) < 1e-3 and rows == "3"
    graph = onnx.load("new/a.onnx")
    assert [x.version for x in graph.opset_import if x.domain == ""] == [11]
    session = onnxruntime.InferenceSession("new/a.onnx")
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, answer.shape) == ("input", [3, 3, SIDE, SIDE], [3, 10])
    (found,) = session.run(None, {"input": batch.transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(found, sum(expected), atol=1e-4)


def test_the_name_of_a_file_is_that_of_the_architecture(tmp_path, monkeypatch, calibrated):
    """As the next command of the original's page expects it."""
    monkeypatch.setattr(vision.export, "initial_model", lambda *_: calibrated)
    monkeypatch.setattr(vision.export, "export_saved_model", lambda *_, **__: {})
    written = []
    monkeypatch.setattr(vision.export, "export_onnx", lambda *x, **_: written.append(x[-1]))
    monkeypatch.chdir(tmp_path)
    program("--arch=conformer_tiny", "--file_format=ONNX")
    program("configs/conformer/conformer-small-p32_8xb128_in1k.py", "--output_dir=a", "--verify",
            "--file_format=ONNX")  # fmt: skip
    assert [*map(str, written)] == ["conformer_tiny.onnx", "a/conformer_small_patch32.onnx"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("64", (None, 64, None)),
        ("64,64", (None, 64, None)),
        ("8,3,64,64", (8, 64, "NCHW")),
        ("-1,64,64,3", (None, 64, "NHWC")),
    ],
)
def test_shapes(text, parts):
    assert vision.export.parse_shape(text) == parts


@pytest.mark.parametrize("text", " ,a,0,64 32,8 4 64 64,0 3 64 64,1 2 3,8 3 64".split(","))
def test_shapes_that_no_model_takes(text):
    with refused("--shape like 224, 8,3,224,224 or -1,224,224,3"):
        vision.export.parse_shape(text.strip().replace(" ", ","))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--opset=10", "--file_format=ONNX"], "--opset from 11 to 18"),
        (["--opset=12"], "--file_format=ONNX with --opset"),
        (["--verify", "--shape=8,3,64,64", "--file_format=KERAS"], "with --verify and --shape"),
        (["--shape=64", "--image_size=32"], "--image_size 64, as in --shape"),
        (["--shape=1,3,64,64", "--layout=NHWC"], "--shape of the layout NHWC"),
        (["--output_file=a.onnx", "--output_dir=a"], "--output_dir or --output_file"),
        (["--output_file=a.bin", "--file_format=ONNX"], ".onnx for the format ONNX"),
        (["--precision=bf16", "--file_format=ONNX"], "SAVEDMODEL with --precision=bf16"),
        (["--output_file=a"], "a folder, as --output_dir for the format SAVEDMODEL"),
        (["conformer-huge-p16_x.py"], "only flags"),
    ],
)
def test_flags_that_exclude_each_other(flags, message, tmp_path, monkeypatch, calibrated):
    monkeypatch.setattr(vision.export, "initial_model", lambda *_: calibrated)
    monkeypatch.chdir(tmp_path)
    with refused(message):
        program("--arch=small", "--num_classes=10", *flags)
    assert not [*tmp_path.iterdir()]


def test_an_onnx_file_that_computes_something_else_is_not_written(saved, tmp_path, monkeypatch):
    run = onnxruntime.InferenceSession.run

    def rounded(session, *arguments):
        return [np.round(x) for x in run(session, *arguments)]

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", rounded)
    how = {"batch": 1, "verify": True}
    with refused("outputs of ONNX Runtime that differ by at most"):
        vision.export.export_onnx(saved / "NHWC", {}, tmp_path / "a.onnx", **how)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("outputs", ["logits", "probabilities", "heads"])
def test_program_writes_the_outputs_that_are_asked_for(
    outputs, of_small, calibrated, batch, expected, tmp_path, monkeypatch
):
    """A SavedModel with the requested layout and class names."""
    given = []
    monkeypatch.setattr(vision.export, "load_model", lambda *_, **__: calibrated)
    monkeypatch.setattr(vision.export, "write_saved_model", lambda *x: given.extend(x))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    program(*of_small, "-c=a.pth", f"--outputs={outputs}", "--layout=NCHW",
            "--imagenet_label_file=labels.txt")  # fmt: skip
    path, functions, weights, pipeline = given
    assert (str(path), weights) == ("small", calibrated.weights)
    assert (pipeline["outputs"], pipeline["layout"]) == (outputs, "NCHW")
    assert pipeline["class_names"] == NAMES
    found = functions["serving_default"](tf.constant(batch.transpose(0, 3, 1, 2)))
    logits = sum(expected)
    powers = np.exp(logits)
    wanted = {
        "logits": {"logits": logits},
        "probabilities": {"probabilities": powers / powers.sum(-1, keepdims=True)},
        "heads": {
            "logits": logits,
            "convolution_logits": expected[0],
            "transformer_logits": expected[1],
        },
    }[outputs]
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_a_model_of_few_unnamed_classes_answers_with_all_their_numbers(build_small):
    model = build_small(num_classes=3)
    functions = Signatures(model, CONFIG.preprocessing, Classes()).functions
    pixels = tf.cast(tf.random.stateless_uniform([80, 70, 3], [1, 2]) * 255, tf.uint8)
    found = functions["serve_bytes"](tf.stack([tf.io.encode_png(pixels)]))
    classes = found["classes"].numpy()[0]
    assert sorted(classes) == [0, 1, 2]
    assert [x.decode() for x in found["class_names"].numpy()[0]] == [*map(str, classes)]
    assert found["probabilities"].numpy().sum() == pytest.approx(1)


def test_weights_that_are_not_finite_are_refused_in_all_formats(
    of_small, build_small, calibrated, rng, tmp_path
):
    """Tests all programs that open a model. The export is made before a weight is set to NaN."""
    model = build_small()
    model.set_weights(calibrated.get_weights())
    bias = model.transformer_head.bias
    bias.assign(np.full(bias.shape, np.nan, "float32"))
    model.save(tmp_path / "a.keras")
    vision.save_pytorch_weights(model, tmp_path / "a.safetensors")
    vision.export.export_saved_model(model, CONFIG, tmp_path / "saved")
    smooth_photo(tmp_path / "a.jpg", rng)
    arguments = [tmp_path / "a.jpg", f"--output={tmp_path / 'p.json'}"]
    for source in (
        ["--checkpoint", tmp_path / "a.keras"],
        ["--checkpoint", tmp_path / "a.safetensors"],
        ["--native_savedmodel_dir", tmp_path / "saved", "--run_eagerly"],
        ["--native_savedmodel_dir", tmp_path / "saved"],
    ):
        with refused("NaN or infinity in"):
            vision.infer.main([*map(str, [*arguments, *source]), *of_small])
    vision.export.export_saved_model(calibrated, CONFIG, tmp_path / "good")
    pipeline = json.loads((tmp_path / "good" / "assets" / "pipeline.json").read_text())
    vision.export.export_onnx(tmp_path / "good", pipeline, tmp_path / "a.onnx")
    graph = onnx.load(tmp_path / "a.onnx")
    last = next(x for x in reversed(graph.graph.initializer) if 10 in x.dims and x.data_type == 1)
    values = np.full(tuple(last.dims), np.nan, "float32")
    last.CopyFrom(onnx.numpy_helper.from_array(values, last.name))
    onnx.save(graph, tmp_path / "a.onnx")
    with refused("NaN or infinity in 1 tensor"):
        vision.infer.main([*map(str, [*arguments, "--onnx_path", tmp_path / "a.onnx"])])
    assert not (tmp_path / "p.json").exists()


def test_a_keras_file_tells_all_that_a_savedmodel_does(
    of_small, calibrated, rng, tmp_path, monkeypatch, capsys
):
    """The file runs and can be exported again without flags; contradicting flags are refused."""
    vision.save_pytorch_weights(calibrated, tmp_path / "a.safetensors")
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    labels = f"--imagenet_label_file={tmp_path / 'labels.txt'}"
    flags = [*of_small, "--crop_pct=0.5", "--mean=0.1,0.2,0.3", labels]
    places = [f"--output_dir={tmp_path}", "-c", tmp_path / "a.safetensors"]
    program(*flags, *places, "--file_format=KERAS")
    source = ["-c", tmp_path / "small.keras"]
    program(*source, f"--output_dir={tmp_path / 'saved'}")
    program(*source, f"--output_dir={tmp_path / 'again'}", "--file_format=KERAS")
    pipeline = read_pipeline(tmp_path / "saved")
    assert (pipeline["architecture"], pipeline["num_classes"]) == ("small", 10)
    assert pipeline["class_names"] == NAMES
    told = pipeline["preprocessing"]
    assert (told["image_size"], told["crop_pct"], told["mean"]) == (SIDE, 0.5, [0.1, 0.2, 0.3])
    smooth_photo(tmp_path / "a.jpg", rng)
    answers = []
    for model in (
        ["--native_savedmodel_dir", tmp_path / "saved", "--run_eagerly"],
        source,
        ["-c", tmp_path / "again" / "small.keras"],
    ):
        capsys.readouterr()
        output = f"--output={tmp_path / 'p.json'}"
        vision.infer.main([*map(str, [tmp_path / "a.jpg", *model, "--top_k=10", output])])
        answers.append(capsys.readouterr().out)
    assert len({*answers}) == 1 and "thing" in answers[0]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with vision.load(tmp_path / "small.keras", run_eagerly=True) as model:
        best = model.classify(tmp_path / "a.jpg", top_k=2)
        assert f"{best[0].name} {best[0].probability:.3f}, {best[1].index} " in answers[0]
    with refused("--arch small"):
        program(*source, "--arch=conformer_tiny", f"--output_dir={tmp_path / 'no'}")
    with refused("num_classes"):
        program(*source, "--num_classes=3", f"--output_dir={tmp_path / 'no'}")


def test_a_keras_file_that_tells_nothing_needs_the_preprocessing(of_small, calibrated, tmp_path):
    calibrated.save(tmp_path / "a.keras")
    source = ["-c", tmp_path / "a.keras", f"--output_dir={tmp_path / 'new'}"]
    with refused("a Keras file with its preprocessing"):
        program(*source, "--arch=small", "--num_classes=10")
    program(*source, *of_small)
    assert read_pipeline(tmp_path / "new")["preprocessing"]["image_size"] == SIDE


def test_initial_weights_are_called_so(of_small, tmp_path, capsys):
    program(*of_small, "--file_format=KERAS", f"--output_dir={tmp_path}", "--seed=3")
    assert "untrained initial weights" in capsys.readouterr().err
    model = load_model(ModelConfig("small", num_classes=10), tmp_path / "small.keras")
    keras.utils.set_random_seed(3)
    same = vision.build_model("small", 10, drop_path_rate=0.1)
    np.testing.assert_array_equal(model.class_token, same.class_token)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--file_format=MINDIR"], "MINDIR, which only MindSpore can write"),
        (["--file_format=AIR"], "AIR, which only MindSpore can write"),
        (["--file_format=TFLITE"], "TFLITE"),
        (["--checkpoint=/nowhere.pth"], "/nowhere.pth"),
        (["--checkpoint=/nowhere.keras"], "/nowhere.keras"),
        (["--arch=conformer_huge"], "conformer_huge"),
        (["--image_size=100"], "multiple of 16"),
        (["--checkpoint=a.pth", "--pretrained=b.pth"], "both"),
        (["stray"], "stray"),
        (["--config=/nowhere.yml"], "/nowhere.yml"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, of_small, tmp_path):
    with refused(message):
        program(*joined([*of_small, f"--output_dir={tmp_path / 'new'}"], arguments))
    assert not list(tmp_path.iterdir())


def test_another_number_of_classes_is_refused(of_small, calibrated, tmp_path):
    weights = tmp_path / "weights.safetensors"
    vision.save_pytorch_weights(calibrated, weights)
    with refused("num_classes"):
        program(*of_small, "-c", weights, "--num_classes=7")
