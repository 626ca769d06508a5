"""Compares exported models with their Keras models, and tests errors of the program."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

import wav2vec2
from tests.support.errors import refused
from tests.support.speech import wav_bytes
from tools.conversion.converter import convert
from tools.conversion.protocol import Calibration, Examples
from tools.conversion.request import ConversionRequest
from tools.conversion.saved_model import load_saved_model
from tools.inference.runner import load
from wav2vec2.config import PreprocessingConfig
from wav2vec2.export import export_saved_model, main
from wav2vec2.signatures import best_path_text, normalized
from wav2vec2.vocabulary import LIBRISPEECH
from wav2vec2.vocabulary_files import load_vocabulary

RATE_HZ = 16000
LENGTHS = [9000, 400, 6001, 0]


@pytest.fixture(scope="module")
def inputs():
    """Returns sounds with a DC offset and garbage in the padding."""
    rng = np.random.default_rng(1)
    waveforms = rng.integers(-20000, 26000, (len(LENGTHS), max(LENGTHS))) / 32768
    for row, length in enumerate(LENGTHS):
        waveforms[row, length:] = np.nan
    return {"waveforms": waveforms.astype("float32"), "lengths": np.array(LENGTHS, np.int32)}


def alone(model, sound):
    """Returns the logits of one utterance that is normalized by the formula."""
    x = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
    return np.asarray(model(x[None].astype("float32")))[0]


@pytest.fixture(scope="module")
def expected(folders, inputs):
    """Returns the logits by kind of model; sounds without a frame have none."""
    rows = list(zip(inputs["waveforms"], LENGTHS, strict=True))
    return {
        kind: [alone(model, row[:length]) if length else np.zeros((0, 12)) for row, length in rows]
        for kind in ("group", "layer")
        for model in [wav2vec2.from_pretrained(folders / kind)]
    }


def check(found, expected, atol):
    np.testing.assert_array_equal(found["logit_lengths"], [len(x) for x in expected])
    for logits, wanted in zip(found["logits"], expected, strict=True):
        np.testing.assert_allclose(logits[: len(wanted)], wanted, atol=atol)


def test_a_batch_gives_what_its_utterances_give_alone(exports, inputs, expected, kind):
    found = load(exports / kind).run(inputs)
    assert found["logits"].dtype == np.float32
    check(found, expected[kind], 1e-4)
    assert len(set(expected[kind][0].argmax(-1))) > 3


def test_a_half_precision_export_computes_in_half(folders, exports, inputs, tmp_path):
    arguments = [f"--pretrained={folders / 'group'}", f"--output_dir={tmp_path / 'half'}"]
    assert main([*arguments, "--precision=bf16"]) == 0
    whole, half = load(exports / "group"), load(tmp_path / "half")
    assert (half.precision, whole.precision) == ("bf16", "fp32")
    found, expected = half.run(inputs), whole.run(inputs)
    assert found["logits"].dtype == np.float32
    np.testing.assert_array_equal(found["logit_lengths"], expected["logit_lengths"])
    frames = expected["logit_lengths"][0]
    error = np.abs(found["logits"][0, :frames] - expected["logits"][0, :frames])
    assert 0 < error.mean() < 0.1 * expected["logits"][0, :frames].std()


def test_weight_norm_is_computed_once_for_all(folders, exports, kind):
    """The export contains the computed kernels, and no variables that only training uses."""
    model = wav2vec2.from_pretrained(folders / kind)
    function = load_saved_model(exports / kind)["serving_default"]
    position, masking = model.encoder.position, model.masking.weights
    unread = {v.path for v in (position.direction, position.gain, *masking)}
    assert len(unread) == 3
    expected = {v.path: v.numpy() for v in model.weights if v.path not in unread}
    expected |= {"position_kernels": position.kernels().numpy()}
    found = {v.name.removesuffix(":0"): v.numpy() for v in function.variables}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "backend"),
    [("group", "openvino"), ("layer", "openvino"), ("group", "onnxruntime"), ("layer", "xla")],
)
def test_converted_models_give_the_same(exports, inputs, expected, tmp_path, kind, backend):
    convert(exports / kind, tmp_path / "model", ConversionRequest(backend=backend, batch=(1, 4)))
    sound = {**inputs, "waveforms": np.nan_to_num(inputs["waveforms"])}
    runner = load(tmp_path / "model")
    check(runner.run(sound), expected[kind], 1e-3)
    if backend != "xla":
        made = runner.manifest["signatures"]["serving_default"]["rewrites"]
        assert made["grouped_convolution"] == 1 and made["gelu"] >= 9


def test_layers_that_stay_in_float_are_there(folders, inputs, tmp_path, kind):
    """8-bit models give similar results, for batches of any size and for a fixed shape."""
    model = wav2vec2.from_pretrained(folders / kind)
    rng = np.random.default_rng(3)
    for variable in model.trainable_variables:  # conversion removes zero biases
        if variable.name == "bias":
            variable.assign(0.05 * rng.standard_normal(variable.shape))
    export_saved_model(model, tmp_path / "native")
    sound = {**inputs, "waveforms": np.nan_to_num(inputs["waveforms"])}
    alone = {name: value[:1] for name, value in sound.items()}
    calibration = Calibration("made up", 1, False, lambda: Examples([alone]))
    request = ConversionRequest(backend="openvino", precision="int8_fp32", batch=(1, 4))
    convert(tmp_path / "native", tmp_path / "model", request, calibration)
    before = load(tmp_path / "native").run(sound)["logits"][0, :27]
    runner = load(tmp_path / "model")
    after = runner.run(sound)["logits"][0, :27]
    np.testing.assert_allclose(runner.run(alone)["logits"][0, :27], after, atol=1e-4)
    error = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert 0 < error < 0.1
    sizes = {name: tuple((size, size) for size in value.shape) for name, value in alone.items()}
    convert(tmp_path / "native", tmp_path / "fixed", replace(request, dim_range=sizes), calibration)
    fixed = load(tmp_path / "fixed").run(alone)["logits"][0, :27]
    np.testing.assert_allclose(fixed, after, atol=1e-3)


def test_without_masks_padding_is_sound(folders, inputs, tmp_path):
    """This is how checkpoints with group norm were trained and are run in other projects."""
    place = ["--pytorch_model_dir", str(folders / "group"), "--output_dir", str(tmp_path / "model")]
    main([*place, "--mask_padding=false"])
    runner = load(tmp_path / "model")
    sound = inputs["waveforms"][2, :6001]
    x = np.zeros((1, 9000), "float32")
    x[0, :6001] = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
    model = wav2vec2.from_pretrained(folders / "group", mask_padding=False)
    found = runner.run({name: value[2:3] for name, value in inputs.items()})
    np.testing.assert_allclose(found["logits"], model(x), atol=1e-4)
    assert runner.pipeline["convert"]["serving_default"]["paddable"] is False


def test_what_is_not_to_be_normalized_is_not(folders, inputs, tmp_path):
    model = wav2vec2.from_pretrained(folders / "layer")
    changed = wav2vec2.config.PreprocessingConfig(normalize=False, trained_with_mask=True)
    wav2vec2.save_pretrained(model, tmp_path / "folder", preprocessing=changed)
    main(["--pytorch_model_dir", str(tmp_path / "folder"), f"--output_dir={tmp_path / 'model'}"])
    found = load(tmp_path / "model").run({k: x[:1] for k, x in inputs.items()})
    np.testing.assert_allclose(found["logits"], model(inputs["waveforms"][:1]), atol=1e-4)


def test_silence_has_no_frames_and_a_constant_is_finite(exports, kind):
    runner = load(exports / kind)
    lengths = np.array([2000], np.int32)
    found = runner.run({"waveforms": np.zeros((1, 2000), "float32"), "lengths": lengths})
    assert found["logit_lengths"] == [0] and np.isfinite(found["logits"]).all()
    found = runner.run({"waveforms": np.full((1, 2000), 0.25, "float32"), "lengths": lengths})
    assert found["logit_lengths"] == [6] and np.isfinite(found["logits"]).all()


def wav(sound, rate_hz=RATE_HZ, channels=1):
    return wav_bytes(np.repeat(sound[:, None], channels, axis=1), rate_hz)


@pytest.mark.parametrize("channels", [1, 2])
def test_serve_bytes_writes_the_best_path(exports, inputs, expected, vocabulary, kind, channels):
    rows = zip(inputs["waveforms"], LENGTHS, strict=True)
    files = np.array([wav(row[:length], channels=channels) for row, length in rows], object)
    found = load(exports / kind).run({"bytes": files}, "serve_bytes")["text"]
    texts = [vocabulary.decode_path(x.argmax(-1)) for x in expected[kind]]
    assert [x.decode() for x in found] == texts
    assert len(texts[0]) > 3 and texts[3] == ""


def test_serve_bytes_of_empty_files_and_of_another_rate(exports, inputs):
    runner = load(exports / "group")
    found = runner.run(
        {"bytes": np.array([wav(inputs["waveforms"][0, :0])], object)}, "serve_bytes"
    )
    assert found["text"].tolist() == [b""]
    files = np.array([wav(inputs["waveforms"][0], 8000)], object)
    with refused(match=r"^Expected a WAV of 16000 Hz\. Resample it first\.$"):
        runner.run({"bytes": files}, "serve_bytes")


def test_texts_in_the_graph_are_those_of_the_vocabulary(vocabulary, rng):
    """Paths have many repeats, blanks and delimiters, and garbage in the padding."""
    blank = vocabulary.blank_id
    paths = rng.choice([0, 1, vocabulary.delimiter_id, blank, 9], (50, 12)).astype("int32")
    lengths = rng.integers(0, 13, 50)
    found = best_path_text(tf.constant(paths), tf.constant(lengths), vocabulary).numpy()
    for path, length, text in zip(paths, lengths, found, strict=True):
        assert text.decode() == vocabulary.decode_path(path[:length])


@pytest.mark.parametrize("normalize", [True, False])
def test_moments_are_those_of_the_valid_samples(normalize, rng):
    preprocessing = PreprocessingConfig(normalize=normalize, variance_epsilon=0.01)
    waveforms = rng.normal(0.3, 0.2, (3, 50)).astype("float32")
    lengths = [50, 20, 0]
    for row, length in zip(waveforms, lengths, strict=True):
        row[length:] = np.nan
    inside = np.arange(50) < np.array(lengths)[:, None]
    found = np.asarray(normalized(tf.constant(waveforms), inside, preprocessing))
    for row, sound, length in zip(found, waveforms, lengths, strict=True):
        assert not row[length:].any()
        sound = sound[:length].astype("float64")
        if normalize and length:
            sound = (sound - sound.mean()) / np.sqrt(sound.var() + 0.01)
        np.testing.assert_allclose(row[:length], sound, atol=1e-5)


def test_less_than_a_frame_is_refused_by_name(exports):
    inputs = {"waveforms": np.ones((1, 399), "float32"), "lengths": np.array([399], np.int32)}
    with refused(match=r"^Expected waveforms of at least 400 samples\. Leave out shorter ones\.$"):
        load(exports / "group").run(inputs)


def test_the_pipeline_describes_the_model(exports, vocabulary, kind):
    pipeline = json.loads((exports / kind / "assets" / "pipeline.json").read_text())
    assert (pipeline["family"], pipeline["kind"], pipeline["blank"]) == ("wav2vec2", "ctc", 8)
    assert pipeline["convert"]["serving_default"]["dim_range"] == {"waveforms": [[400, 560000]]}
    assert pipeline["min_seconds"] == 0.025
    assert (pipeline["hop_samples"], pipeline["receptive_field_samples"]) == (320, 400)
    assert pipeline["vocabulary"]["surfaces"] == list(vocabulary.surfaces)
    assert pipeline["vocabulary"]["tokens"] == list(vocabulary.tokens)
    assert pipeline["vocabulary"]["delimiter"] == 7
    assert pipeline["normalize"] and pipeline["mask_padding"]
    assert (pipeline["sample_rate_hz"], pipeline["max_seconds"]) == (16000, 35.0)
    conversion = pipeline["convert"]["serving_default"]
    assert conversion["paddable"] and conversion["keep_in_float"] == ["feature_encoder", "head"]
    # One convolution over samples and six over 16 channels, with their norms and biases.
    convolutions = 16 * 10 + 16 * 16 * (3 + 3 + 3 + 3 + 2 + 2)
    norms = 16 * 3 * 7 if kind == "layer" else 16 * 2
    projection, position, whole = 16 * 2 + 16 * 32 + 32, 32 * 8 * 8 + 8 + 32, 32 * 2
    block = 4 * (32 * 32 + 32) + 32 * 64 + 64 + 64 * 32 + 32 + 4 * 32
    head, embedding = 32 * 12 + 12, 32
    assert pipeline["num_parameters"] == (
        convolutions + norms + projection + position + whole + 2 * block + head + embedding
    )


def test_weights_without_a_folder(build_small, folders, inputs, tmp_path, monkeypatch, capsys):
    """An architecture by name, with or without weights, with the default or another vocabulary."""
    sizes = build_small().config
    monkeypatch.setitem(wav2vec2.config.ARCHITECTURES, "base", sizes)
    place = ["--output_dir", str(tmp_path / "named")]
    weights = ["--checkpoint", str(folders / "group" / "model.safetensors")]
    main(["--model=base", *weights, "--vocabulary_dir", str(folders / "group"), *place])
    one = {name: value[:1] for name, value in inputs.items()}
    model = wav2vec2.from_pretrained(folders / "group")
    found = load(tmp_path / "named").run(one)["logits"][0, :27]
    np.testing.assert_allclose(found, alone(model, one["waveforms"][0]), atol=1e-4)
    main(["--model=base", "--seed=3", "--max_seconds=20", *place])
    assert "untrained initial weights" in capsys.readouterr().err
    runner = load(tmp_path / "named")
    keras.utils.set_random_seed(3)
    model = wav2vec2.build_model(sizes, vocabulary_size=32)
    found = runner.run(one)["logits"][0, :27]
    np.testing.assert_allclose(found, alone(model, one["waveforms"][0]), atol=1e-4)
    assert runner.pipeline["vocabulary"]["tokens"] == list(LIBRISPEECH)
    assert runner.pipeline["convert"]["serving_default"]["dim_range"]["waveforms"] == [
        [400, 320000]
    ]
    with refused(match="lm_head"):  # weights for another vocabulary
        main(["--model=base", *weights, *place])


def edited(folder, tmp_path, name, change):
    """Returns a copy of a folder in which one file is changed or missing."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    content = change(json.loads((copy / name).read_text())) if change else None
    (copy / name).unlink() if content is None else (copy / name).write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vocab.json", None, "vocab.json"),
        (
            "vocab.json",
            lambda x: {k: v for k, v in x.items() if k != "<pad>"},
            "symbols with <pad>",
        ),
        ("config.json", lambda x: x | {"feat_extract_norm": "layer"}, "feature_norm"),
        ("config.json", lambda x: x | {"vocab_size": 11}, "Expected 11 symbols in .*vocab.json"),
        ("preprocessor_config.json", lambda x: x | {"feature_size": 2}, "feature_size"),
    ],
)
def test_folders_that_do_not_fit_are_one_line(folders, tmp_path, name, change, message):
    folder = edited(folders / "group", tmp_path, name, change)
    with refused(match=message):
        main(["--pytorch_model_dir", str(folder), "--output_dir", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--pretrained SOURCE or --model NAME"),
        (["stray"], "stray"),
        (["--model=huge"], "huge"),
        (["--pytorch_model_dir=/nowhere"], "/nowhere"),
        (["--pytorch_model_dir=a", "--model=base"], "--pretrained SOURCE or --model NAME"),
        (["--pytorch_model_dir=a", "--checkpoint=b"], "--checkpoint with --model"),
        (["--model=base", "--vocabulary_dir=/nowhere"], "/nowhere"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message):
    with refused(message):
        main(arguments)


def test_a_folder_is_no_training_run(folders, tmp_path):
    """A checkpoint without a head can be fine-tuned, but must not be exported."""
    with refused(match="Give it as --pytorch_model_dir"):
        main([f"--checkpoint={folders / 'group'}", f"--output_dir={tmp_path / 'new'}"])


@pytest.mark.parametrize("rate_hz", [0, -16000, 10**9])
def test_rates_that_no_sound_has_are_refused(folders, tmp_path, rate_hz):
    change = {"sampling_rate": rate_hz}
    folder = edited(folders / "group", tmp_path, "preprocessor_config.json", lambda x: x | change)
    with refused(match=rf"sample_rate_hz at least 4000 and at most 384000\. Received: {rate_hz}"):
        main(["--pytorch_model_dir", str(folder), f"--output_dir={tmp_path / 'new'}"])


def test_the_usual_vocabulary_is_that_of_the_checkpoints(folders):
    assert len(LIBRISPEECH) == 32 and LIBRISPEECH[4:8] == ("|", "E", "T", "A")
    assert load_vocabulary(folders / "group").blank_id == 8
