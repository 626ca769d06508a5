"""Tests checkpoints of Hugging Face: names, both directions, folders, errors."""

import json
import logging
from collections import OrderedDict

import numpy as np
import pytest

import wav2vec2
from tests.support import pickles
from tests.support.errors import refused
from tools.weights.files import write_safetensors
from wav2vec2.config import PreprocessingConfig
from wav2vec2.vocabulary import Vocabulary

VOCABULARY = Vocabulary(("<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFG"))
MASK_EMBEDDING = "wav2vec2.masked_spec_embed"
NEW_NAMES = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}


def randomized(model):
    """Returns a model in which all numbers differ."""
    rng = np.random.default_rng(5)
    for variable in model.weights:
        variable.assign(rng.standard_normal(variable.shape))
    return model


@pytest.fixture(scope="module")
def tensors(build_small):
    return wav2vec2.pytorch_state_dict(randomized(build_small()))


def equal(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        np.testing.assert_array_equal(value, right[name], err_msg=name)


def test_names_and_shapes_are_the_originals(build_small):
    group, layer = (wav2vec2.pytorch_state_dict(build_small(x)) for x in ("group", "layer"))
    shapes = {
        "lm_head.weight": (12, 32),
        "lm_head.bias": (12,),
        "wav2vec2.masked_spec_embed": (32,),
        "wav2vec2.feature_extractor.conv_layers.0.conv.weight": (16, 1, 10),
        "wav2vec2.feature_extractor.conv_layers.0.layer_norm.bias": (16,),
        "wav2vec2.feature_extractor.conv_layers.6.conv.weight": (16, 16, 2),
        "wav2vec2.feature_projection.layer_norm.weight": (16,),
        "wav2vec2.feature_projection.projection.weight": (32, 16),
        "wav2vec2.encoder.pos_conv_embed.conv.bias": (32,),
        "wav2vec2.encoder.pos_conv_embed.conv.weight_g": (1, 1, 8),
        "wav2vec2.encoder.pos_conv_embed.conv.weight_v": (32, 8, 8),
        "wav2vec2.encoder.layer_norm.weight": (32,),
        "wav2vec2.encoder.layers.1.attention.q_proj.weight": (32, 32),
        "wav2vec2.encoder.layers.1.attention.k_proj.bias": (32,),
        "wav2vec2.encoder.layers.0.attention.v_proj.bias": (32,),
        "wav2vec2.encoder.layers.0.attention.out_proj.weight": (32, 32),
        "wav2vec2.encoder.layers.0.layer_norm.weight": (32,),
        "wav2vec2.encoder.layers.0.feed_forward.intermediate_dense.weight": (64, 32),
        "wav2vec2.encoder.layers.0.feed_forward.output_dense.weight": (32, 64),
        "wav2vec2.encoder.layers.0.final_layer_norm.bias": (32,),
    }
    for found in (group, layer):
        assert {name: found[name].shape for name in shapes} == shapes
    convolutions = "wav2vec2.feature_extractor.conv_layers."
    more = {f"{convolutions}{i}.layer_norm.{x}" for i in range(1, 7) for x in ("weight", "bias")}
    assert layer.keys() - group.keys() == more | {f"{convolutions}{i}.conv.bias" for i in range(7)}
    assert len(group) == 2 + 1 + 7 + 2 + 4 + 3 + 2 + 2 * 16


def test_round_trip(kind, build_small):
    source, target = randomized(build_small(kind)), build_small(kind, seed=2)
    tensors = wav2vec2.pytorch_state_dict(source)
    report = wav2vec2.load_pytorch_weights(target, tensors)
    assert len(report.assigned) == len(target.weights)
    assert not report.kept and not report.ignored
    for left, right in zip(source.weights, target.weights, strict=True):
        np.testing.assert_array_equal(left, right)


def test_names_of_other_versions(build_small, tensors):
    others = dict(tensors)
    for ours, theirs in {**NEW_NAMES, "masked_spec_embed": "mask_time_emb_vector"}.items():
        others = {name.replace(f".{ours}", f".{theirs}"): x for name, x in others.items()}
    assert len(others.keys() - tensors.keys()) == 3
    model = build_small(seed=2)
    wav2vec2.load_pytorch_weights(model, others)
    equal(wav2vec2.pytorch_state_dict(model), tensors)


def test_a_missing_mask_embedding_is_told(build_small, tensors, caplog):
    model = build_small(seed=2)
    before = np.array(model.masking.embedding)
    shorter = {name: x for name, x in tensors.items() if name != MASK_EMBEDDING}
    with caplog.at_level(logging.INFO):
        report = wav2vec2.load_pytorch_weights(model, shorter)
    assert report.kept == ("wav2vec2/masking/embedding",)
    assert "wav2vec2/masking/embedding: not loaded" in caplog.text
    equal(wav2vec2.pytorch_state_dict(model), tensors | {MASK_EMBEDDING: before})


def test_no_masks_no_mask_embedding(build_small, tensors):
    model = build_small(seed=2, time_mask_rate=0.0)
    wav2vec2.load_pytorch_weights(model, tensors)
    shorter = {name: x for name, x in tensors.items() if name != MASK_EMBEDDING}
    equal(wav2vec2.pytorch_state_dict(model), shorter)


def test_masks_of_channels_alone_bring_the_embedding_too(build_small, tensors):
    """Hugging Face creates it if one of the mask rates is above 0."""
    model = build_small(seed=2, time_mask_rate=0.0, feature_mask_rate=0.1)
    wav2vec2.load_pytorch_weights(model, tensors)
    equal(wav2vec2.pytorch_state_dict(model), tensors)


def test_a_new_head(build_small, tensors):
    model = build_small(seed=2, vocabulary_size=20)
    head = np.array(model.head.kernel)
    pretrained = {name: x for name, x in tensors.items() if not name.startswith("lm_head")}
    for more in ({}, {"quantizer.codevectors": np.zeros(3)}, {"lm_head.bias": np.zeros(12)}):
        report = wav2vec2.load_pytorch_weights(model, pretrained | more, new_head=True)
        assert report.kept == ("wav2vec2/head/bias", "wav2vec2/head/kernel")
        assert report.ignored == tuple(more)
        np.testing.assert_array_equal(model.head.kernel, head)


def refusal(model, source):
    before = wav2vec2.pytorch_state_dict(model)
    with refused() as caught:
        wav2vec2.load_pytorch_weights(model, source)
    equal(wav2vec2.pytorch_state_dict(model), before)
    return str(caught.value)


def test_strict_both_ways(build_small, tensors):
    model = build_small(seed=2)
    shorter = {name: x for name, x in tensors.items() if name != "lm_head.bias"}
    assert "missing: lm_head.bias." in refusal(model, shorter)
    longer = tensors | {"quantizer.codevectors": np.zeros(3)}
    assert "unexpected: quantizer.codevectors." in refusal(model, longer)
    gain = "wav2vec2.encoder.pos_conv_embed.conv.weight_g"
    flat = tensors | {gain: np.zeros(8)}
    assert f"another shape: {gain} [8] for [1, 1, 8]" in refusal(model, flat)
    twice = tensors | {"wav2vec2.mask_time_emb_vector": np.zeros(32)}
    assert "unexpected: wav2vec2.mask_time_emb_vector." in refusal(model, twice)
    assert "Expected tensors by name" in refusal(model, {})
    assert "Received: epoch." in refusal(model, {"epoch": 3})


def test_other_architectures_are_refused(build_small, tensors):
    message = refusal(build_small(vocabulary_size=20), tensors)
    assert "lm_head.weight [12, 32] for [20, 32]" in message
    message = refusal(build_small("layer"), tensors)
    assert "Expected weights of a model with feature_norm layer. Received: feature_norm group" in (
        message
    )
    assert "missing: wav2vec2.encoder.layers.2." in refusal(build_small(num_layers=3), tensors)


@pytest.fixture
def folder(build_small, tmp_path):
    """Returns a Hugging Face folder of a model."""
    wav2vec2.save_pretrained(randomized(build_small("layer")), tmp_path / "model", VOCABULARY)
    return tmp_path / "model"


def test_folder_round_trip(kind, build_small, tmp_path, rng):
    model = build_small(kind, layer_drop_rate=0.0)
    preprocessing = PreprocessingConfig(normalize=False)
    wav2vec2.save_pretrained(model, tmp_path / "model", VOCABULARY, preprocessing)
    again = wav2vec2.from_pretrained(tmp_path / "model")
    assert again.config == model.config
    assert again.preprocessing == preprocessing
    assert again.vocabulary.tokens == VOCABULARY.tokens
    waveforms = rng.standard_normal((1, 800)).astype("float32")
    np.testing.assert_array_equal(again(waveforms), model(waveforms))
    wav2vec2.save_pretrained(again, tmp_path / "again")
    for file in (tmp_path / "model").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_folder_of_pickled_weights(folder):
    """The names that PyTorch uses since version 2.0."""
    model = wav2vec2.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    content, storages = OrderedDict(), {}
    for key, (name, value) in enumerate(wav2vec2.pytorch_state_dict(model).items()):
        for ours, theirs in NEW_NAMES.items():
            name = name.replace(f".{ours}", f".{theirs}")
        strides = tuple(stride // value.itemsize for stride in np.empty(value.shape, "f4").strides)
        storages[str(key)] = np.ascontiguousarray(value)
        content[name] = pickles.tensor("Float", str(key), value.size, value.shape, strides)
    pickles.save(folder / "pytorch_model.bin", content, storages)
    again = wav2vec2.from_pretrained(folder)
    for left, right in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(left, right, err_msg=left.path)


def save_pickled(path, tensors):
    """Writes a file like `torch.save`."""
    storages = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    content = {
        name: pickles.tensor(
            "Float", name, x.size, x.shape, tuple(n // 4 for n in np.empty(x.shape, "f4").strides)
        )
        for name, x in tensors.items()
    }
    pickles.save(path, OrderedDict(content), storages)


@pytest.mark.parametrize("whole", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_several_files(folder, whole):
    model = wav2vec2.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    tensors, index = wav2vec2.pytorch_state_dict(model), {}
    names = sorted(tensors)
    for number, some in enumerate((names[:9], names[9:]), 1):
        file = folder / whole.replace(".", f"-0000{number}-of-00002.")
        part = {name: np.ascontiguousarray(tensors[name]) for name in some}
        (save_pickled if file.suffix == ".bin" else write_safetensors)(file, part)
        index |= dict.fromkeys(some, file.name)
    (folder / f"{whole}.index.json").write_text(json.dumps({"weight_map": index}))
    again = wav2vec2.from_pretrained(folder)
    for left, right in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(left, right, err_msg=left.path)
    file.unlink()
    with refused(file.name):
        wav2vec2.from_pretrained(folder)
    for wrong in ({"a": "../b.bin"}, {"a": 1}, {}, 3):
        (folder / f"{whole}.index.json").write_text(json.dumps({"weight_map": wrong}))
        with refused("a weight_map from tensors to files in the folder of"):
            wav2vec2.from_pretrained(folder)


def test_biases_with_group_norm(build_small, tmp_path, rng):
    """The bias of the first convolution is in files of Hugging Face, without effect."""
    model = randomized(build_small("group", feature_bias=True))
    tensors = wav2vec2.pytorch_state_dict(model)
    biases = {f"wav2vec2.feature_extractor.conv_layers.{i}.conv.bias" for i in range(7)}
    assert {name for name in tensors if name.endswith(".conv.bias")} - biases == {
        "wav2vec2.encoder.pos_conv_embed.conv.bias"
    }
    first = "wav2vec2.feature_extractor.conv_layers.0.conv.bias"
    assert biases <= tensors.keys() and not tensors[first].any()
    again = build_small("group", seed=2, feature_bias=True)
    report = wav2vec2.load_pytorch_weights(again, tensors | {first: np.ones(16, "f4")})
    assert report.ignored == (first,)
    equal(wav2vec2.pytorch_state_dict(again), tensors)
    wav2vec2.save_pretrained(model, tmp_path / "model", VOCABULARY)
    assert wav2vec2.from_pretrained(tmp_path / "model").config.feature_bias
    assert "conv_layers.0.conv.bias" in refusal(build_small("group"), tensors)


def test_folder_options(folder):
    model = wav2vec2.from_pretrained(folder, "mixed_float16", mask_padding=False)
    assert not model.config.mask_padding
    assert model.compute_dtype == "float16"
    assert model.preprocessing.trained_with_mask


def test_safetensors_come_before_pickled_weights(folder):
    pickles.save(folder / "pytorch_model.bin", {"a": 1})
    wav2vec2.from_pretrained(folder)


def test_what_a_folder_says_of_its_model(build_small, tmp_path):
    """The blank pads labels there. Only models with layer norm are trained with masks."""
    vocabulary = Vocabulary((*"ABCDEFG", "|", "<pad>", "<s>", "</s>", "<unk>"))
    for kind in ("group", "layer"):
        wav2vec2.save_pretrained(build_small(kind), tmp_path / kind, vocabulary)
        config = json.loads((tmp_path / kind / "config.json").read_text())
        assert (config["pad_token_id"], config["num_feat_extract_layers"]) == (8, 7)
        again = wav2vec2.from_pretrained(tmp_path / kind)
        assert again.preprocessing == PreprocessingConfig(trained_with_mask=kind == "layer")
        assert again.vocabulary == vocabulary
        # A model keeps the vocabulary and preprocessing it was loaded with.
        again.preprocessing = PreprocessingConfig(8000, normalize=False)
        wav2vec2.save_pretrained(again, tmp_path / f"{kind}_again")
        once_more = wav2vec2.from_pretrained(tmp_path / f"{kind}_again")
        assert once_more.preprocessing == again.preprocessing


def test_refused_folders(folder, tmp_path):
    for name in ("config.json", "vocab.json", "preprocessor_config.json", "model.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        with refused(name):
            wav2vec2.from_pretrained(folder)
        (folder / name).write_bytes(content)
    with refused(match=r"config\.json of a Hugging Face folder"):
        wav2vec2.from_pretrained(tmp_path / "nowhere")


def test_refused_saving(build_small, folder, tmp_path):
    model = build_small()
    with refused(match=r"vocabulary with 12 symbols\. Received: none"):
        wav2vec2.save_pretrained(model, tmp_path / "new")
    with refused(match=r"vocabulary with 12 symbols\. Received: 3"):
        wav2vec2.save_pretrained(model, tmp_path / "new", Vocabulary(("<pad>", "|", "A")))
    with refused(match="Expected room and permission"):
        wav2vec2.save_pretrained(model, folder, VOCABULARY)
    assert not (tmp_path / "new").exists()
