"""Weights of TensorFlowASR: every array in its variable, and files that do not fit."""

import logging
import shutil

import h5py
import numpy as np
import pytest

import conformer
from conformer.keras2_weights import load_keras2_weights
from conformer.tokenizer import CharacterTokenizer, save_tokenizer
from conformer.train import main
from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.training.checkpoint import open_checkpoint

SIZES = {
    "features.num_mel_bins": 8,
    "model.num_layers": 1,
    "model.hidden_dim": 8,
    "model.num_heads": 2,
    "model.kernel_size": 4,
    "model.subsampling_filters": 3,
    "model.prediction_dim": 6,
    "model.joint_dim": 5,
}
# Variables whose arrays have the same layout, and a part of the name in the file.
SAME = {
    "subsampling/convolution_0/": "subsampling_1/",
    "subsampling/convolution_1/": "subsampling_2/",
    "subsampling/projection/": "encoder_linear/",
    "feedforward_0/expansion/": "ff_module_1_dense_1/",
    "feedforward_0/projection/": "ff_module_1_dense_2/",
    "feedforward_1/expansion/": "ff_module_2_dense_1/",
    "feedforward_1/projection/": "ff_module_2_dense_2/",
    "attention/content_bias": "mhsa/pos_bias_u",
    "attention/position_bias": "mhsa/pos_bias_v",
    "attention/output_projection/bias": "mhsa/projection_bias",
    "block_0/convolution/expansion/bias": "pw_conv_1/bias",
    "block_0/convolution/depthwise/kernel": "dw_conv/depthwise_kernel",
    "block_0/convolution/depthwise/bias": "dw_conv/bias",
    "convolution/normalization/": "conv_module_bn/",
    "block_0/convolution/projection/bias": "pw_conv_2/bias",
    "norm_feedforward_0/": "ff_module_1_ln/",
    "norm_attention/": "mhsa_module_ln/",
    "norm_convolution/": "layer_normalization_3/",
    "norm_feedforward_1/": "ff_module_2_ln/",
    "norm_output/": "block_0_ln/",
    "prediction/embedding/": "prediction_embedding/",
    "prediction/norm/": "prediction_ln_0/",
    "prediction/lstm/lstm_cell/": "lstm_0/lstm_cell_7/",
    "joint/encoded_projection/": "joint_enc/",
    "joint/predicted_projection/": "joint_pred/",
    "joint/vocabulary_projection/": "joint_vocab/",
}


@pytest.fixture(scope="module")
def golden(project):
    """A file that tf-keras has written; see tests/golden/make_keras2_weights.py."""
    return project / "tests" / "golden" / "keras2_weights.h5"


@pytest.fixture(scope="module")
def file_arrays(golden):
    found = {}
    with h5py.File(golden) as file:
        file.visititems(lambda name, x: found.update({name: x[()]} if hasattr(x, "shape") else {}))
    return found


@pytest.fixture(scope="module")
def model():
    return conformer.build_model(conformer.load_config(None, SIZES), 7, "float32")


@pytest.fixture
def changed(golden, tmp_path):
    """A function that changes a copy of the file, and returns its path."""

    def change(edit):
        path = tmp_path / "50.h5"
        shutil.copy(golden, path)
        with h5py.File(path, "r+") as file:
            edit(file)
        return path

    return change


def check(model, arrays):
    """Checks the value of every variable against the array with its name."""

    def array(part):
        (value,) = (x for name, x in arrays.items() if part in name)
        return value

    left = {variable.path: variable.numpy() for variable in model.weights}
    for ours, theirs in SAME.items():
        for path in [path for path in left if ours in path]:
            leaf = path.rpartition("/")[2] + ":0" if ours.endswith("/") else ""
            np.testing.assert_array_equal(left.pop(path), array(theirs + leaf), err_msg=path)
    x = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
    block = "conformer/encoder/block_0"
    heads = (x @ left.pop(f"{block}/attention/query_key_value/kernel")).reshape(5, 3, 2, 4)
    for number, name in enumerate(("query", "key", "value")):
        expected = np.einsum("td,hdk->thk", x, array(f"mhsa/{name}_kernel"))
        np.testing.assert_allclose(heads[:, number], expected, rtol=1e-5)
    positions = (x @ left.pop(f"{block}/attention/position/kernel")).reshape(5, 2, 4)
    expected = np.einsum("td,hdk->thk", x, array("pos_kernel"))
    np.testing.assert_allclose(positions, expected, rtol=1e-5)
    mixed = x @ left.pop(f"{block}/attention/output_projection/kernel")
    expected = np.einsum("thk,hkd->td", x.reshape(5, 2, 4), array("projection_kernel"))
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)
    for ours, theirs in (("expansion", "pw_conv_1/kernel"), ("projection", "pw_conv_2/kernel")):
        value = left.pop(f"{block}/convolution/{ours}/kernel")
        np.testing.assert_array_equal(value, array(theirs)[0, 0])
    assert not left


def test_every_array_is_in_its_variable(model, golden, file_arrays, caplog):
    with caplog.at_level(logging.WARNING):
        load_keras2_weights(model, golden)
    check(model, file_arrays)
    assert "fine-tune" in caplog.text and "features." not in caplog.text


def test_one_rank_warns_of_a_front_end_that_differs(golden, caplog, monkeypatch):
    """TensorFlowASR normalizes over the utterance and keeps the mean of each frame."""
    values = {"features.normalization": "loud_frames", "features.remove_dc_offset": "true"}
    config = conformer.load_config(None, SIZES | values)
    model = conformer.build_model(config, 7, "float32")
    with caplog.at_level(logging.WARNING):
        monkeypatch.setenv("HOROVOD_RANK", "1")
        load_keras2_weights(model, golden)
        assert not caplog.records
        monkeypatch.setenv("HOROVOD_RANK", "0")
        load_keras2_weights(model, golden)
    assert len(caplog.records) == 1
    assert "features.normalization is loud_frames instead of utterance" in caplog.text
    assert "features.remove_dc_offset is True instead of False" in caplog.text
    assert "features.max_hz" not in caplog.text


def test_long_lists_of_names_are_split_and_other_groups_ignored(model, changed, file_arrays):
    def edit(file):
        names = file["conformer_encoder"].attrs["weight_names"]
        del file["conformer_encoder"].attrs["weight_names"]
        file["conformer_encoder"].attrs["weight_names0"] = names[:30]
        file["conformer_encoder"].attrs["weight_names1"] = names[30:]
        file.create_group("loss").attrs["weight_names"] = [b"total:0"]
        parts = ("encoder", "prediction", "joint")
        file.attrs["layer_names"] = [*(f"conformer_{x}".encode() for x in parts), b"loss"]

    for variable in model.weights:
        variable.assign(np.zeros(variable.shape))
    load_keras2_weights(model, changed(edit))
    check(model, file_arrays)


def without_last(file):
    group = file["conformer_joint"]
    group.attrs["weight_names"] = group.attrs["weight_names"][:-1]


def exchanged(file):
    group = file["conformer_prediction"]
    group.attrs["weight_names"] = group.attrs["weight_names"][[1, 0, 2, 3, 4, 5]]


def smaller(file):
    name = "conformer_joint/conformer_joint/conformer_joint_vocab/bias:0"
    del file[name]
    file[name] = np.zeros(6)


def not_finite(file):
    file["conformer_joint/conformer_joint/conformer_joint_vocab/bias:0"][0] = np.nan


def lost(file):
    del file["conformer_joint/conformer_joint/conformer_joint_vocab/bias:0"]


def without_joint(file):
    file.attrs["layer_names"] = file.attrs["layer_names"][:2]


@pytest.mark.parametrize(
    "edit, message",
    [
        (without_last, "5 arrays for the joint"),
        (exchanged, "an array embeddings as number 0"),
        (smaller, "[6] for [7]"),
        (not_finite, "NaN or infinity"),
        (lost, "Keras 2 weights in"),
        (without_joint, "the group of the joint"),
    ],
)
def test_files_that_do_not_fit(model, changed, edit, message):
    before = [variable.numpy() for variable in model.weights]
    with refused(message):
        load_keras2_weights(model, changed(edit))
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_a_model_of_another_depth(golden):
    config = conformer.load_config(None, {**SIZES, "model.num_layers": 2})
    with refused("a model of 2 blocks"):
        load_keras2_weights(conformer.build_model(config, 7, "float32"), golden)


def test_files_that_are_no_weights(model, tmp_path):
    (tmp_path / "50.h5").write_text("no weights")
    for name in ("50.h5", "nowhere.h5"):
        with refused(name):
            load_keras2_weights(model, tmp_path / name)


def test_training_starts_with_the_weights(golden, tmp_path, caplog):
    sounds = [("ABC", 0.1 * np.sin(np.arange(8000))), ("DE", 0.1 * np.cos(np.arange(7000)))]
    write_librispeech(tmp_path / "corpus" / "train", sounds)
    save_tokenizer(CharacterTokenizer("ABCDE"), tmp_path / "v.json")
    values = {
        **SIZES,
        "data.train_splits": "train",
        "tokenizer.vocabulary_file": f"{tmp_path}/v.json",
        "training.schedule.peak": "1e-12",
        "training.batch_size": "2",
    }
    flags = [f"--set={key}={value}" for key, value in values.items()]
    flags += [f"--data_dir={tmp_path}/corpus", f"--output_dir={tmp_path}/run", "--steps=1"]
    assert main([*flags, "--skip_eval", f"--pretrained={golden}"]) == 0
    weights = open_checkpoint(tmp_path / "run").weights()
    with h5py.File(golden) as file:
        name = "conformer_prediction/conformer_prediction/conformer_prediction_embedding"
        expected = file[f"{name}/embeddings:0"][()]
    found = weights["conformer/prediction/embedding/embeddings"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert "fine-tune" in caplog.text
