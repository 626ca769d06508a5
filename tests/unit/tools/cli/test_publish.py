"""Folders for TensorFlow Serving: what is written, and the warm-up requests read back."""

import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from tests.support.arguments import joined
from tests.support.errors import refused
from tests.support.saved_models import save_model
from tools.cli.publish import main
from tools.serving.model_config import labels_of
from tools.serving.publishing import publish, write_configs

RATE_HZ = 8000


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """A SavedModel with the signatures of a recognizer. It counts bytes and samples."""
    sound = [
        tf.TensorSpec([None, None], tf.float32, "waveforms"),
        tf.TensorSpec([None], tf.int32, "lengths"),
    ]

    @tf.function(input_signature=sound)
    def serving_default(waveforms, lengths):
        return {"n": lengths + tf.shape(waveforms)[1]}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "bytes")])
    def serve_bytes(bytes):
        sound, rate_hz = tf.audio.decode_wav(bytes[0])
        with tf.control_dependencies([tf.debugging.assert_equal(rate_hz, RATE_HZ)]):
            return {"n": tf.shape(sound)[:1]}

    functions = {"serving_default": serving_default, "serve_bytes": serve_bytes}
    functions["inner"] = serving_default
    pipeline = {"family": "toy", "sample_rate_hz": RATE_HZ}
    folder = tmp_path_factory.mktemp("export") / "model"
    return save_model(folder, tf.Module(), functions, pipeline)


def published(speech, root, *flags):
    arguments = [f"--native_savedmodel_dir={speech}", f"--model_root={root}", "--name=toy"]
    return main(joined(arguments, flags))


def test_versions_count_up(speech, tmp_path, capsys):
    root = tmp_path / "models"
    published(speech, root)
    published(speech, root, "--version=7")
    published(speech, root)
    assert sorted(x.name for x in (root / "toy").iterdir()) == ["1", "7", "8"]
    assert capsys.readouterr().err.splitlines()[-1].endswith("toy/8")
    for version in ("1", "8"):
        folder = root / "toy" / version
        for name in ("saved_model.pb", "assets/pipeline.json"):
            assert (folder / name).read_bytes() == (speech / name).read_bytes()
    with refused("a new version"):
        published(speech, root, "--version=7")


def test_warm_up_requests_are_requests_that_the_model_answers(speech, tmp_path):
    published(speech, tmp_path)
    file = tmp_path / "toy" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    model = tf.saved_model.load(str(tmp_path / "toy" / "1"))
    found = {}
    for record in tf.data.TFRecordDataset(str(file)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "toy"
        tensors = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        signature = model.signatures[request.model_spec.signature_name]
        answer = signature(**{key: tf.constant(x) for key, x in tensors.items()})
        found[request.model_spec.signature_name] = answer["n"].numpy().tolist()
    assert found == {"serving_default": [4 * RATE_HZ], "serve_bytes": [2 * RATE_HZ]}


def test_configuration_files_name_all_models(speech, tmp_path):
    published(speech, tmp_path, "--max_batch_size=4", "--batch_timeout_ms=2.5")
    (tmp_path / "boat" / "3").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    published(speech, tmp_path)
    models = (tmp_path / "models.config").read_text()
    assert models.count("config {") == 2
    for name in ("boat", "toy"):
        assert f'name: "{name}"' in models and f'base_path: "/models/{name}"' in models
    published(speech, tmp_path, "--max_batch_size=4", "--batch_timeout_ms=2.5")
    batching = (tmp_path / "batching.config").read_text()
    assert "max_batch_size { value: 4 }" in batching
    assert "batch_timeout_micros { value: 2500 }" in batching
    assert "prometheus" in (tmp_path / "monitoring.config").read_text()


def test_labels_that_another_program_writes_meanwhile_stay(speech, tmp_path, monkeypatch):
    root = tmp_path / "models"
    (root / "boat" / "3").mkdir(parents=True)

    def slow(*arguments):
        labels = {"boat": {"stable": 3}}
        write_configs(root, labels=labels, max_batch_size=1, batch_timeout_ms=1.0)
        return publish(*arguments)

    monkeypatch.setattr("tools.cli.publish.publish", slow)
    published(speech, root, "--label=new")
    assert labels_of(root / "models.config") == {"boat": {"stable": 3}, "toy": {"new": 1}}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--name="], "--name"),
        (["--name=a/b"], "a --name of letters"),
        (["--name=.."], "a --name of letters"),
        (["--version=0"], "--version >= 1"),
        (["--max_batch_size=0"], "--max_batch_size >= 1"),
        (["--native_savedmodel_dir=/nowhere"], "/nowhere"),
        (["more"], "more"),
    ],
)
def test_bad_input_is_one_line(speech, tmp_path, flags, message):
    with refused(message):
        published(speech, tmp_path / "models", *flags)
    assert not (tmp_path / "models").exists()
