"""Models that are the same, models that differ in one known place, and a tiny Conformer."""

import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf

import conformer
from conformer.export import export_checkpoint
from conformer.tokenizer import CharacterTokenizer
from tests.support.errors import refused
from tests.support.saved_models import save_model
from tests.support.sessions import sessions_are_closed
from tools.cli.compare import Difference, main, show_layers
from tools.config.command_line import run
from tools.config.loader import to_yaml
from tools.conversion import backends
from tools.conversion.converter import convert
from tools.conversion.request import ConversionRequest
from tools.training.checkpoint import CheckpointStore, open_checkpoint

LAYERS = ("first", "second", "third")


def random_kernels(classes=5):
    rng = np.random.default_rng(0)
    sizes = zip((8, 16, 16), (16, 16, classes), strict=True)
    return [rng.standard_normal(size).astype(np.float32) / 4 for size in sizes]


def save_classifier(directory, changed=None, classes=5, outputs=("logits", "double"), **told):
    """A SavedModel of three named layers; one entry of the kernel of `changed` is another."""
    module, kernels = tf.Module(), random_kernels(classes)
    if changed is not None:
        kernels[LAYERS.index(changed)][0, 0] += 1.0
    module.kernels = [tf.Variable(kernel) for kernel in kernels]

    @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, "images")])
    def serving_default(images):
        x = images
        for name, kernel in zip(LAYERS, module.kernels, strict=True):
            x = tf.tanh(tf.matmul(x, kernel, name=f"{name}/MatMul"), name=f"{name}/Tanh")
        answers = {"logits": tf.identity(x), "double": 2.0 * x}
        return {name: answers[name] for name in outputs}

    pipeline = {"family": "toy", "convert": {"serving_default": {"dim_range": {}}}, **told}
    return save_model(directory, module, {"serving_default": serving_default}, pipeline)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return save_classifier(tmp_path_factory.mktemp("export") / "model")


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """The classifier with another weight in its second layer."""
    return save_classifier(tmp_path_factory.mktemp("export") / "model", "second")


@pytest.fixture(scope="module", params=["openvino", "onnxruntime"])
def backend(request):
    return request.param


@pytest.fixture(scope="module")
def converted(classifier, backend, tmp_path_factory):
    """The classifier as an artifact."""
    return directory_of(classifier, backend, tmp_path_factory.mktemp("converted"))


def directory_of(native, backend, folder):
    request = ConversionRequest(backend, batch=(1, 4))
    return convert(native, folder / backend, request)["directory"]


def test_models_that_name_their_answers_otherwise_differ(classifier, tmp_path, capsys):
    """Only what both name can differ; the same numbers mean other classes then."""
    places = {}
    for name, classes in (("ab", [*"abcde"]), ("ba", [*"bacde"])):
        places[name] = save_classifier(tmp_path / name, class_names=classes)
    for pair, agree in ((("ab", "ba"), False), (("ab", "ab"), True), (("ab", None), True)):
        rc = main([str(places.get(name, classifier)) for name in pair])
        assert ("DIFFERS in class_names" in capsys.readouterr().out) == (not agree)
        assert (rc == 0) == agree


@pytest.mark.parametrize("name", backends.NAMES)
def test_an_artifact_is_as_its_source(native, name, tmp_path, capsys):
    artifact = directory_of(native, name, tmp_path)
    arguments = ["--samples=3", "--batch_size=2"]
    assert main([str(native), artifact, *arguments]) == 0
    assert main([artifact, str(native), *arguments]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"serving_default +doubled +3 of 3\n", printed)
    assert re.search(r"serving_default +sums +\S+e-0\d +\S+e-0\d\n", printed)
    assert "DIFFERS" not in printed
    walked = "does not show" if name == "xla" else "first beyond 0.001: none"
    assert printed.count(walked) == 2


def test_both_get_the_padding_of_one_fixed_shape(native, backend, tmp_path, capsys):
    # The other one converted has the wider range, so that the samples are shorter than is fixed.
    fixed = ConversionRequest(backend, dim_range={"waveforms": ((4, 4), (50, 50))})
    places = [convert(native, tmp_path / "fixed", fixed)["directory"], str(native)]
    wider = directory_of(native, backend, tmp_path)
    for pair in (places, places[::-1], [wider, places[0]]):
        assert main([*pair, "--samples=3", "--batch_size=2"]) == 0
    assert capsys.readouterr().out.count("first beyond 0.001: none") == 2


def test_the_first_layer_that_diverges_is_the_changed_one(converted, classifier, changed, capsys):
    assert main([str(classifier), str(converted)]) == 0
    assert "first beyond 0.001: none" in capsys.readouterr().out
    for pair in ((changed, converted), (converted, changed)):
        assert main([*map(str, pair), "--samples=5"]) == 1
        printed = capsys.readouterr().out
        assert "first beyond 0.001: second/MatMul, " in printed
        assert re.search(r"logits +\S+ +\S+ +\d of 5 +DIFFERS", printed)
        assert "first/MatMul" not in printed.split("the worst:")[0]


def test_layers_are_listed_in_execution_order_and_shown_by_name(converted, backend):
    manifest = json.loads((Path(converted) / "manifest.json").read_text())
    described = manifest["signatures"]["serving_default"]
    module, path = backends.get(backend), Path(converted) / described["files"][0]
    listed = module.layers(path)
    products = [f"{name}/MatMul" for name in LAYERS]
    assert [name for name in listed if name in products] == products
    images = np.ones((2, 8), np.float32)
    shown = module.probe(path, described, listed)({"images": images})
    assert shown.keys() == {*listed, "double", "logits"}
    np.testing.assert_allclose(shown["first/Tanh"], np.tanh(shown["first/MatMul"]), atol=1e-6)
    np.testing.assert_allclose(shown["first/MatMul"], images @ random_kernels()[0], rtol=1e-5)


def test_two_saved_models_are_compared_without_layers(classifier, changed, capsys):
    assert main([str(classifier), str(classifier)]) == 0
    assert main([str(classifier), str(changed)]) == 1
    assert "layers" not in capsys.readouterr().out


def test_numbers_that_count_nothing_are_small(tmp_path):
    """Such as the number of a class beside images: as large as a side it would be in no table."""
    module = tf.Module()
    specs = [tf.TensorSpec([None, 8], tf.float32, "images"), tf.TensorSpec([None], tf.int32, "row")]

    @tf.function(input_signature=specs)
    def look_up(images, row):
        return {"found": tf.gather(tf.range(2), row), "sums": tf.reduce_sum(images, 1)}

    model = save_model(tmp_path / "model", module, {"look_up": look_up}, {"family": "toy"})
    assert main([str(model), str(model)]) == 0


def test_both_models_are_closed_at_the_end_and_after_an_error(classifier, tmp_path):
    with sessions_are_closed(3):
        assert main([str(classifier), str(classifier), "--samples=1"]) == 0
        with refused("a SavedModel"):
            main([str(classifier), str(tmp_path / "nothing")])


def test_an_output_of_one_only_and_one_of_another_shape_differ(classifier, tmp_path, capsys):
    wider = save_classifier(tmp_path / "wider", classes=6)
    fewer = save_classifier(tmp_path / "fewer", outputs=["logits"])
    assert main([str(classifier), str(wider)]) == 1
    assert "DIFFERS shapes [1, 5] and [1, 6]" in capsys.readouterr().out
    assert main([str(fewer), str(classifier)]) == 1
    assert re.search(r"double .*DIFFERS shapes \[0\] and \[1, 5\]", capsys.readouterr().out)


def test_what_no_number_can_say_differs():
    one, inf, nan = np.ones((2, 2), "f"), np.inf, np.nan
    for a, b, relative in (
        ([[1, 2], [3, 4]], [[1, 2], [3, 5]], 0.25),
        ([[inf, nan], [-inf, 4]], [[inf, nan], [-inf, 4]], 0),
        ([[1, nan], [1, 1]], one, inf),
        ([[inf, 1], [1, 1]], one, inf),
        ([[0, 0], [0, 0]], one, inf),
    ):
        difference = Difference("x")
        difference.add(np.array(a, "f"), np.array(b, "f"))
        assert difference.relative == relative
    tokens = Difference("tokens")
    tokens.add(np.array([[1, 2, 0], [1, 2, 3]]), np.array([[1, 2], [1, 2]]))
    assert (tokens.rows, tokens.same, tokens.agrees(1.0)) == (2, 1, False)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """The run directory of a tiny Conformer with random weights."""
    sizes = ("hidden_dim", "subsampling_filters", "prediction_dim", "joint_dim")
    settings = {f"model.{name}": 8 for name in sizes}
    config = conformer.load_config(None, {**settings, "model.num_layers": 1, "model.num_heads": 2})
    keras.utils.set_random_seed(1)
    tokenizer = CharacterTokenizer.from_transcripts(["A CAB"])
    model = conformer.build_model(config, tokenizer.vocabulary_size)
    groups = {
        "model": {v.path: v for v in model.weights},
        "average": {v.path: v for v in model.trainable_variables},
    }
    assets = {"config.yml": to_yaml(config), "vocabulary.json": tokenizer.to_json()}
    directory = tmp_path_factory.mktemp("run")
    CheckpointStore(directory / "checkpoints").save({"step": 1, "metric": 0.5}, groups, assets)
    return directory


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory):
    """The SavedModel of the tiny Conformer."""
    directory = tmp_path_factory.mktemp("export") / "model"
    export_checkpoint(open_checkpoint(run_dir), directory)
    return directory


def test_a_checkpoint_is_as_its_export(run_dir, exported, tmp_path, capsys):
    assert main([str(run_dir), str(exported), "--samples=2"]) == 0
    assert re.search(r"serving_default +text +2 of 2\n", capsys.readouterr().out)
    broken = shutil.copytree(open_checkpoint(run_dir).path, tmp_path / "broken")
    (broken / "config.yml").write_text("modell: {}\n")
    with refused(match=r"conformer: .*modell"):
        main([str(broken), str(exported)])


def test_a_run_opens_as_its_export(run_dir, exported, rng):
    sound = 0.1 * rng.standard_normal(16000)
    texts = []
    for place in (run_dir, exported):
        with conformer.load(place, run_eagerly=True) as model:
            texts.append(model.transcribe(sound, rate_hz=16000).text)
    assert texts[0] == texts[1] != ""


def test_a_conformer_says_the_same_converted(exported, tmp_path, rng, capsys):
    for name, num_samples in (("a", 16000), ("b", 9000)):
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(num_samples), 16000)
    artifact = directory_of(exported, "openvino", tmp_path)
    arguments = [f"--data_dir={tmp_path}", "--batch_size=2"]
    assert main([str(exported), artifact, *arguments]) == 0
    printed = capsys.readouterr().out
    assert "2 samples, random for predict, project, join_projected\n" in printed
    assert re.search(r"serving_default +text +2 of 2\n", printed)
    least = {"listen": 90, "predict": 10, "project": 0, "join_projected": 0}
    for signature in least:
        layers = re.search(rf"{signature}, (\d+) layers?, first beyond 0.001: none", printed)
        assert layers and int(layers[1]) > least[signature], printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}"], "two models"),
        (["{a}", "{a}", "{a}"], "two models"),
        (["{a}", "{a}", "--samples=0"], "--samples"),
        (["{a}", "{a}", "--tolerance=-1"], "--tolerance"),
        (["{a}", "{a}", "--data_dir=nowhere"], "a model of one of the families conformer"),
        (["{a}", "nowhere"], "nowhere, which does not exist"),
        (["{empty}", "{a}"], "a run directory, a checkpoint, a SavedModel or a converted model"),
        (["{a}", "{native}"], "two models with a signature of the same inputs"),
    ],
)
def test_bad_input_is_one_line(arguments, message, classifier, native, tmp_path, capsys):
    places = {"a": classifier, "native": native, "empty": tmp_path}
    with pytest.raises(SystemExit) as ended:
        run(main, ["compare", *(word.format(**places) for word in arguments)])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert re.fullmatch(rf"Error: .*{re.escape(message)}.*\n", printed.err)


def test_errors_and_answers_add_up_over_batches():
    difference = Difference("logits")
    first = np.array([[1.0, 9.0, 2.0], [8.0, 1.0, 2.0]], "f")
    difference.add(first, first + np.float32([0.0, 0.0, 0.5]), logits=True)
    # The largest of the second row only is another one.
    second = np.array([[4.0, 3.0, 1.0], [4.0, 3.0, 1.0], [0.0, 0.0, 1.0]], "f")
    difference.add(second, second + np.array([[0, 0, 0], [0, 1.25, 0], [0, 0, 0]], "f"), True)
    difference.add(second[:1], second[:1], True)
    assert (difference.absolute, difference.scale) == (1.25, 9.0)
    assert (difference.rows, difference.same) == (6, 5)
    assert not difference.agrees(1.0)
    words = Difference("text")
    words.add(np.array(["a", "b"]), np.array(["a", "c"]))
    words.add(np.array(["d"]), np.array(["d"]))
    assert (words.rows, words.same, words.absolute, words.error) == (3, 2, None, "")
    close = Difference("sums")
    close.add(np.array([[2.0]]), np.array([[2.5]]))
    assert (close.agrees(0.25), close.agrees(0.24)) == (True, False)


def test_the_first_layer_beyond_the_tolerance_and_the_worst_are_shown(capsys):
    layers = []
    for number in range(12):
        layers.append(Difference(f"layer_{number}"))
        # The errors are 0, 10, ... 50, then 45, 35 ... thousandths: none comes twice but 0.
        error = 1e-2 * number if number < 6 else 1e-2 * (10.5 - number)
        layers[-1].add(np.ones((1, 2)), np.ones((1, 2)) + max(0.0, error))
    show_layers("serve", layers, 0.025)
    _, title, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("serve, 12 layers, first beyond 0.025: layer_3, 3.00e-02, 3.00e-02;")
    assert [line.split()[-1] for line in lines] == [
        f"layer_{number}" for number in (5, 6, 4, 7, 3, 8, 2, 9)
    ]
    show_layers("serve", layers, 1.0)
    assert "first beyond 1: none;" in capsys.readouterr().out
    show_layers("serve", [], 1.0)
    assert "does not show its layers" in capsys.readouterr().out
