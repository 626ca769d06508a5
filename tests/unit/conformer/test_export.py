"""Compares exported models with their Keras models, also in a process with TensorFlow only."""

import dataclasses
import json
import math
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import conformer
from conformer.config import DecodingConfig
from conformer.export import main
from conformer.graph_recognition import greedy
from conformer.signatures import MAX_WINDOW, Signatures, pipeline_description
from conformer.tokenizer import CharacterTokenizer
from tests.support.errors import refused
from tests.support.speech import wav_bytes
from tools.config.loader import to_yaml
from tools.conversion.saved_model import write_saved_model
from tools.decoding.options import BeamSearch
from tools.inference.runner import load
from tools.recognition.beams import beam_search_of
from tools.recognition.transducer_decoder import TransducerDecoder
from tools.training.checkpoint import CheckpointStore, open_checkpoint

RATE_HZ = 8000
PENALTY = 0.3  # of the blank
MAX_SYMBOLS_PER_FRAME = 1  # fewer than the model would emit
LENGTHS = [9000, 6001, 400, 0]


@pytest.fixture(scope="module")
def tokenizer():
    return CharacterTokenizer.from_transcripts(["A CAB", "ÜBER"])


@pytest.fixture(scope="module")
def config(tiny_sizes):
    """Returns a configuration with values other than the defaults, and with a CTC head."""
    return conformer.load_config(
        None,
        {
            **tiny_sizes,
            "model.ctc_weight": 0.2,
            "features.sample_rate_hz": RATE_HZ,
            "features.frame_step_ms": 12.5,
            "features.frame_length_ms": 30.0,
            "decoding.max_symbols_per_frame": MAX_SYMBOLS_PER_FRAME,
            "decoding.blank_penalty": PENALTY,
            "decoding.beam_width": 3,
            "decoding.norm_score": True,
            "data.min_seconds": 0.2,
            "data.max_seconds": 9.0,
            "data.max_eval_seconds": 33.0,
        },
    )


@pytest.fixture(scope="module")
def model(config, tokenizer):
    """Returns a model with random weights whose texts differ, and that also emits blanks."""
    keras.utils.set_random_seed(2)
    model = conformer.build_model(config, tokenizer.vocabulary_size)
    for variable in (*model.joint.weights, *model.prediction.weights):
        if "kernel" in variable.path or "embedding" in variable.path:
            variable.assign(3.0 * variable)
    model.joint.vocabulary_projection.bias.assign(
        (0.2 + PENALTY) * np.eye(tokenizer.vocabulary_size)[0]
    )
    return model


@pytest.fixture(scope="module")
def run_dir(model, config, tokenizer, tmp_path_factory):
    """Returns a run whose checkpoint has this model as the average of its weights."""
    directory = tmp_path_factory.mktemp("run")
    trainable = {v.path: v for v in model.trainable_variables}
    groups = {
        "model": {v.path: np.zeros(v.shape) if v.path in trainable else v for v in model.weights},
        "average": trainable,
    }
    assets = {"config.yml": to_yaml(config), "vocabulary.json": tokenizer.to_json()}
    CheckpointStore(directory / "checkpoints").save({"step": 1, "metric": 0.5}, groups, assets)
    return directory


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("exports") / "model"
    assert main(["--checkpoint", str(run_dir), "--output_dir", str(directory)]) == 0
    assert [path.name for path in directory.parent.iterdir()] == ["model"]
    return directory


@pytest.fixture(scope="module")
def runner(exported):
    return load(exported)


@pytest.fixture(scope="module")
def sounds():
    """Returns waveforms of 16-bit values, which WAV stores exactly, with garbage in padding."""
    rng = np.random.default_rng(1)
    waveforms = rng.integers(-20000, 20000, (len(LENGTHS), max(LENGTHS))) / 32768
    for row, length in enumerate(LENGTHS):
        waveforms[row, length:] = np.nan
    return waveforms.astype("float32")


@pytest.fixture(scope="module")
def inputs(sounds):
    return {"waveforms": sounds, "lengths": np.array(LENGTHS, np.int32)}


@pytest.fixture(scope="module")
def expected(model, inputs):
    waveforms = tf.constant(inputs["waveforms"])
    options = DecodingConfig(MAX_SYMBOLS_PER_FRAME, PENALTY)
    found = greedy(model, waveforms, inputs["lengths"], options)
    return {name: value.numpy() for name, value in found._asdict().items()}


def test_the_pieces_equal_those_of_the_model(runner, model, inputs):
    features, frames = model.features(inputs["waveforms"], inputs["lengths"])
    found = runner.run(inputs, "features")
    np.testing.assert_allclose(found["features"], features, atol=1e-5)
    np.testing.assert_array_equal(found["feature_lengths"], frames)
    encoded, lengths = model.encode(features, frames)
    found = runner.run({"features": features.numpy(), "lengths": frames.numpy()}, "encode")
    np.testing.assert_allclose(found["encoded"], encoded, atol=1e-5)
    np.testing.assert_array_equal(found["encoded_lengths"], lengths)
    found = runner.run(inputs, "listen")
    np.testing.assert_allclose(found["encoded"], encoded, atol=1e-5)
    np.testing.assert_array_equal(found["encoded_lengths"], lengths)
    silent = {**inputs, "waveforms": np.zeros_like(inputs["waveforms"])}
    assert not runner.run(silent, "listen")["encoded_lengths"].any()
    states = tf.random.stateless_normal([4, 2, model.prediction.hidden_dim], [1, 2])
    tokens = np.array([[0], [3], [1], [6]], np.int32)
    predicted, following = model.predict(tokens, states)
    found = runner.run({"tokens": tokens, "states": states.numpy()}, "predict")
    np.testing.assert_allclose(found["predicted"], predicted, atol=1e-5)
    np.testing.assert_allclose(found["next_states"], following, atol=1e-5)
    found = runner.run({"encoded": encoded.numpy(), "predicted": predicted.numpy()}, "join")
    np.testing.assert_allclose(found["logits"], model.join(encoded, predicted), atol=1e-5)
    assert found["logits"].shape == (4, *encoded.shape[1:2], 1, model.vocabulary_size)
    states = {"tokens": tokens, "states": states.numpy()}
    projected = runner.run({"encoded": encoded.numpy()}, "project")
    projected["predicted_projection"] = runner.run(states, "predict")["predicted_projection"]
    assert projected["encoded_projection"].shape == (*encoded.shape[:2], model.joint.hidden_dim)
    in_parts = runner.run(projected, "join_projected")
    np.testing.assert_allclose(in_parts["logits"], found["logits"], atol=1e-5)


def check(found, expected, tokenizer):
    np.testing.assert_array_equal(found["token_ids"], expected["token_ids"])
    np.testing.assert_array_equal(found["token_lengths"], expected["token_lengths"])
    np.testing.assert_allclose(found["log_probability"], expected["log_probability"], rtol=1e-4)
    for text, ids, length in zip(
        found["text"], expected["token_ids"], expected["token_lengths"], strict=True
    ):
        assert text.decode() == tokenizer.decode(ids[:length])


def test_serving_default_gives_the_same_tokens(runner, inputs, expected, tokenizer, model):
    frames = 23
    assert 0 < expected["token_lengths"][1] < expected["token_lengths"][0] < frames
    short = tf.constant(inputs["waveforms"][2:3, : LENGTHS[2]])
    with_other_limit = greedy(model, short, inputs["lengths"][2:3], DecodingConfig(5))
    assert with_other_limit.token_lengths[0] > expected["token_lengths"][2]
    check(runner.run(inputs), expected, tokenizer)


def test_a_half_precision_export_computes_in_half(run_dir, runner, inputs, tmp_path):
    """Outputs are float32 arrays, near those of the float32 export but not equal to them."""
    place = tmp_path / "half"
    assert main(["--checkpoint", str(run_dir), f"--output_dir={place}", "--precision=fp16"]) == 0
    half = load(place)
    assert (half.precision, runner.precision) == ("fp16", "fp32")
    whole_heard, heard = (x.run(inputs, "listen") for x in (runner, half))
    np.testing.assert_array_equal(heard["encoded_lengths"], whole_heard["encoded_lengths"])
    tokens, states = np.array([[0], [3]], np.int32), np.ones((2, 2, 8), np.float32)
    asked = {"tokens": tokens, "states": states}
    predicted = [x.run(asked, "predict") for x in (runner, half)]
    pairs = [(whole_heard["encoded"], heard["encoded"])]
    pairs += [(predicted[0][name], predicted[1][name]) for name in predicted[0]]
    for whole, found in pairs:
        assert found.dtype == np.float32 and not np.array_equal(found, whole)
        np.testing.assert_allclose(found, whole, atol=0.03)
    joined = {"encoded": heard["encoded"][:2, :1], "predicted": predicted[1]["predicted"]}
    assert half.run(joined, "join")["logits"].dtype == np.float32
    assert len(half.run(inputs)["text"]) == 4 and half.run(inputs, "serve_beam")
    session = conformer.load(place, run_eagerly=True, quant_precision="fp16")
    with session, refused("a SavedModel in fp32 to convert"):
        sound = inputs["waveforms"][1, :6001]
        assert session.transcribe(sound, rate_hz=RATE_HZ).text
        conformer.load(place)


def test_shapes_are_free(runner, inputs, expected):
    for row, length in enumerate(LENGTHS):
        alone = {
            "waveforms": inputs["waveforms"][row : row + 1, : max(length, 1)],
            "lengths": inputs["lengths"][row : row + 1],
        }
        found = runner.run(alone)
        tokens = expected["token_ids"][row, : expected["token_lengths"][row]]
        np.testing.assert_array_equal(found["token_ids"][0], tokens)


@pytest.mark.parametrize("channels", [1, 2])
def test_serve_bytes_gives_the_same_as_serving_default(
    runner, sounds, expected, tokenizer, channels
):
    files = [
        wav_bytes(np.repeat(sound[:length, None], channels, axis=1), RATE_HZ)
        for sound, length in zip(sounds, LENGTHS, strict=True)
    ]
    check(runner.run({"bytes": np.array(files, object)}, "serve_bytes"), expected, tokenizer)


def test_serve_bytes_of_empty_files(runner, sounds):
    found = runner.run(
        {"bytes": np.array([wav_bytes(sounds[0, :0], RATE_HZ)] * 2, object)}, "serve_bytes"
    )
    assert found["text"].tolist() == [b"", b""]


def test_serve_bytes_refuses_another_rate(runner, sounds):
    files = np.array([wav_bytes(sounds[0], RATE_HZ), wav_bytes(sounds[0], 16000)], object)
    with refused("Expected a WAV of 8000 Hz"):
        runner.run({"bytes": files}, "serve_bytes")


def test_signatures_are_those_of_the_design(runner, model):
    bins, width, states = 80, model.encoder.hidden_dim, model.prediction.hidden_dim
    sound = (("lengths", "int32", (None,)), ("waveforms", "float32", (None, None)))
    assert runner.signatures == {
        "serving_default": sound,
        "serve_bytes": (("bytes", "string", (None,)),),
        "serve_beam": sound,
        "features": sound,
        "listen": sound,
        "encode": (
            ("features", "float32", (None, None, bins)),
            ("lengths", "int32", (None,)),
        ),
        "predict": (
            ("states", "float32", (None, 2, states)),
            ("tokens", "int32", (None, 1)),
        ),
        "join": (
            ("encoded", "float32", (None, None, width)),
            ("predicted", "float32", (None, None, states)),
        ),
        "project": (("encoded", "float32", (None, None, width)),),
        "join_projected": (
            ("encoded_projection", "float32", (None, None, model.joint.hidden_dim)),
            ("predicted_projection", "float32", (None, None, model.joint.hidden_dim)),
        ),
    }


def test_serve_beam_gives_what_beam_search_on_the_host_gives(runner, inputs):
    searches = runner.pipeline["searches"]
    assert searches["serve_beam"] == {"kind": "beam", "beam_width": 3, "norm_score": True}
    assert searches["serving_default"] == {"kind": "greedy", "head": "transducer"}
    assert set(searches) <= set(runner.signatures)
    search = beam_search_of(runner.pipeline, BeamSearch(3), 3, norm_score=True)
    expected = TransducerDecoder(runner.pipeline, False, search, 3).answer(runner.run, inputs)
    found = runner.run(inputs, "serve_beam")
    assert found["beam_texts"].tolist() == expected["beam_texts"].tolist()
    np.testing.assert_allclose(found["beam_scores"], expected["beam_scores"], rtol=1e-4)
    assert found["beam_texts"][3].tolist() == [b"", b"", b""]
    for texts, scores in zip(found["beam_texts"].tolist(), found["beam_scores"], strict=True):
        written = [text for text, score in zip(texts, scores, strict=True) if score > -np.inf]
        assert len(set(written)) == len(written) > 0
        assert sorted(scores, reverse=True) == scores.tolist()
    assert len({*found["beam_texts"][0].tolist()}) == 3


def collapsed(path):
    """Tokens of a CTC path: the symbols that differ from the one before, without blanks."""
    return [k for i, k in enumerate(path) if k and (i == 0 or path[i - 1] != k)]


def test_a_model_that_decodes_its_ctc_head(model, config, tokenizer, inputs):
    decoding = dataclasses.replace(config.decoding, head="ctc")
    config = dataclasses.replace(config, decoding=decoding)
    functions = Signatures(model, tokenizer.surfaces, config).functions
    assert "serve_beam" not in functions
    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    encoded, frames = model.listen(**inputs)
    model.ctc_head.kernel.assign(9.0 * model.ctc_head.kernel)
    logits = model.ctc_head(encoded)
    model.ctc_head.bias.assign(-tf.reduce_mean(logits, axis=(0, 1)))  # no symbol always wins
    logits = model.ctc_head(encoded).numpy()
    heard = functions["listen"](**inputs)
    np.testing.assert_allclose(heard["logits"], logits, atol=1e-5)
    paths = [row[:n].argmax(axis=1) for row, n in zip(logits, frames, strict=True)]
    tokens = [collapsed(path) for path in paths]
    assert len({len(row) for row in tokens}) > 2
    answer = functions["serving_default"](**inputs)
    assert [x.decode() for x in answer["text"].numpy()] == [tokenizer.decode(x) for x in tokens]
    pipeline = pipeline_description(config, tokenizer, model)
    assert pipeline["head"] == "ctc"
    assert pipeline["num_parameters"] == model.count_params()
    assert pipeline["convert"]["listen"]["keep_in_float"] == ["features", "ctc_head"]


def test_the_pipeline_describes_the_model(runner, exported, model, tokenizer):
    pipeline = json.loads((exported / "assets" / "pipeline.json").read_text())
    assert runner.pipeline == pipeline
    assert pipeline["family"] == "conformer"
    assert pipeline["sample_rate_hz"] == RATE_HZ
    assert pipeline["blank"] == 0
    assert pipeline["state_shape"] == [2, model.prediction.hidden_dim]
    assert pipeline["vocabulary"]["surfaces"] == list(tokenizer.surfaces)
    head = model.ctc_head.count_params()
    assert pipeline["num_parameters"] == model.count_params() - head
    stored = tf.train.list_variables(str(exported / "variables" / "variables"))
    sizes = [math.prod(shape) for name, shape in stored if name.startswith("weights/")]
    assert sum(sizes) == pipeline["num_parameters"]
    assert (pipeline["min_seconds"], pipeline["max_seconds"]) == (0.2, 33.0)
    assert (pipeline["frame_step_ms"], pipeline["num_mel_bins"]) == (12.5, 80)
    assert (pipeline["kind"], pipeline["subsampling"]) == ("transducer", 4)
    assert pipeline["max_symbols_per_frame"] == MAX_SYMBOLS_PER_FRAME
    assert pipeline["blank_penalty"] == PENALTY
    assert pipeline["head"] == "transducer"
    assert pipeline["convert"]["listen"]["keep_in_float"] == ["features"]
    assert pipeline["vocabulary"]["kind"] == "characters"
    conversion = pipeline["convert"]
    assert conversion.keys() == {"listen", "predict", "project", "join_projected"}
    # Samples: from one window to the longest sound. The decoder passes one frame and one token.
    assert conversion["listen"]["dim_range"] == {"waveforms": [[240, 33 * RATE_HZ]]}
    assert conversion["predict"]["dim_range"] == {}
    assert conversion["project"]["dim_range"] == {"encoded": [[1, MAX_WINDOW]]}
    assert conversion["join_projected"]["dim_range"] == {
        "encoded_projection": [[1, MAX_WINDOW]],
        "predicted_projection": [[1, 1]],
    }
    for name, conversion in pipeline["convert"].items():
        shapes = {name: shape for name, _, shape in runner.signatures[name]}
        assert conversion["dim_range"].keys() <= shapes.keys()
        for tensor, shape in shapes.items():
            # The first dimension is the batch; each other dynamic dimension has a range.
            ranges = conversion["dim_range"].get(tensor, [])
            assert len(ranges) == shape.count(None) - 1, (name, tensor)
            assert all(1 <= low <= high for low, high in ranges)


ELSEWHERE = """
import sys
import numpy as np
import tensorflow as tf

directory, inputs, outputs = sys.argv[1:]
with np.load(inputs) as file:
    arrays = dict(file)
loaded = tf.saved_model.load(directory)
found = loaded.signatures["serving_default"](**{k: tf.constant(v) for k, v in arrays.items()})
np.savez(outputs + "/loaded.npz", **{k: v.numpy() for k, v in found.items() if k != "text"})
foreign = {"tensorflow_io", "tensorflow_text", "conformer", "tools"} & sys.modules.keys()
if foreign:
    sys.exit(f"loaded {foreign}")

from tensorflow.python.tools import saved_model_cli

sources = ";".join(f"{name}={inputs}[{name}]" for name in arrays)
sys.argv[1:] = f"run --dir {directory} --tag_set serve --signature_def serving_default".split()
sys.argv += ["--inputs", sources, "--outdir", outputs]
saved_model_cli.main()
"""


def test_it_runs_where_only_tensorflow_is(exported, inputs, expected, tokenizer, tmp_path):
    np.savez(tmp_path / "inputs.npz", **inputs)
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, exported, tmp_path / "inputs.npz", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    with np.load(tmp_path / "loaded.npz") as file:
        np.testing.assert_array_equal(file["token_ids"], expected["token_ids"])
    found = {name: np.load(tmp_path / f"{name}.npy") for name in expected}
    found["text"] = np.load(tmp_path / "text.npy", allow_pickle=True)
    check(found, expected, tokenizer)


@pytest.fixture(scope="module")
def doubling():
    """Returns function and variable of a SavedModel that is written quickly."""
    factor = keras.Variable(2.0)
    double = tf.function(
        lambda x: {"y": factor.value * x}, input_signature=[tf.TensorSpec([None], name="x")]
    )
    return {"serving_default": double}, [factor], {"family": "toy"}


def test_an_earlier_export_is_replaced_and_what_lies_beside_it_stays(
    doubling, exported, tmp_path, monkeypatch
):
    directory = tmp_path / "model"
    (directory / "variables").mkdir(parents=True)
    (directory / "saved_model.pb").write_text("an earlier one")
    (directory / "variables" / "old").write_text("")
    (directory / "README.md").write_text("a model card")
    monkeypatch.chdir(tmp_path)
    write_saved_model("model", *doubling)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (directory / "README.md").read_text() == "a model card"
    (directory / "README.md").unlink()
    files = [sorted(p.name for p in root.rglob("*")) for root in (directory, exported)]
    assert files[0] == files[1]
    assert load(directory).run({"x": np.ones(1, "float32")})["y"] == [2.0]


@pytest.mark.parametrize("name", ["folder", "file", "."])
def test_what_is_no_export_is_not_replaced(run_dir, tmp_path, name, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("more of it")
    monkeypatch.chdir(tmp_path)
    with refused("earlier export"):
        main(["--checkpoint", str(run_dir), "--output_dir", name])
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "thesis.tex"]


def fails(error):
    def save(module, directory, *_, **__):
        raise error

    return save


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        tf.errors.ResourceExhaustedError(None, None, "No space left on device"),
    ],
)
def test_a_failure_leaves_the_earlier_export_and_nothing_else(
    doubling, tmp_path, monkeypatch, error
):
    directory = tmp_path / "model"
    write_saved_model(directory, *doubling)
    before = (directory / "saved_model.pb").read_bytes()
    monkeypatch.setattr(tf.saved_model, "save", fails(error))
    with refused("No space left"):
        write_saved_model(directory, *doubling)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (directory / "saved_model.pb").read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [[], ["--checkpoint", "x"], ["stray"], ["--checkpoint=x", "--pretrained=y", "--output_dir=z"]],
)
def test_the_two_flags_are_needed(arguments):
    with refused("--checkpoint RUN_DIR or --pretrained SOURCE, and --output_dir D"):
        main(arguments)


def test_a_vocabulary_of_another_size_is_one_line(run_dir, tmp_path):
    checkpoint = open_checkpoint(run_dir)
    other = tmp_path / "other"
    other.mkdir()
    for file in checkpoint.path.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    text = CharacterTokenizer.from_transcripts(["ABCDEFGHIJ"]).to_json()
    (other / "vocabulary.json").write_text(text)
    with refused(
        "Choose the architecture, vocabulary or classes that the weights were trained with"
    ):
        main(["--checkpoint", str(other), "--output_dir", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


def test_a_head_that_was_not_trained_is_not_exported(run_dir, config, tmp_path):
    """The config names the CTC head, but the checkpoint has none."""
    decoding = dataclasses.replace(config.decoding, head="ctc", blank_penalty=0.0)
    checkpoint = open_checkpoint(run_dir)
    groups = {
        group: {k: v for k, v in checkpoint.arrays(group).items() if "ctc_head" not in k}
        for group in ("model", "average")
    }
    changed = to_yaml(dataclasses.replace(config, decoding=decoding))
    assets = {"config.yml": changed, "vocabulary.json": checkpoint.asset("vocabulary.json")}
    CheckpointStore(tmp_path / "checkpoints").save({"step": 1, "metric": 0.5}, groups, assets)
    with refused("missing: conformer/ctc_head/"):
        main(["--checkpoint", str(tmp_path), "--output_dir", str(tmp_path / "new")])
