"""Sources of published Conformers: folders of Hugging Face and `.nemo` archives."""

import io
import json
import tarfile

import numpy as np
import pytest
import yaml
from huggingface_hub import constants

from conformer.published import open_source, read_published
from tests.support import parakeet, pickles
from tests.support.errors import refused
from tests.support.fake_hub import fake_hub
from tests.support.parakeet import Sizes
from tools.weights.files import write_safetensors
from tools.weights.hub import local_source

SIZES = Sizes()
RNNT = Sizes(kind="rnnt", bias=True, scale=True, lstms=1)


@pytest.fixture(scope="module")
def tensors():
    """Returns the tensors of a token-and-duration transducer."""
    return parakeet.make_tensors(SIZES, np.random.default_rng(6))


@pytest.fixture(scope="module")
def rnnt_tensors():
    return parakeet.make_tensors(RNNT, np.random.default_rng(6))


def test_a_folder_in_shards_is_the_same_model(tensors, tmp_path):
    folder = parakeet.write_folder(tmp_path, SIZES, tensors)
    (folder / "model.safetensors").unlink()
    names, index = sorted(tensors), {}
    for number in (1, 2):
        file = f"model-0000{number}-of-00002.safetensors"
        part = {x: tensors[x] for x in names[number - 1 :: 2]}
        write_safetensors(folder / file, part)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    found = read_published(folder).tensors
    assert found.keys() == tensors.keys()
    for name, x in tensors.items():
        np.testing.assert_array_equal(found[name], x)


def test_an_archive_is_the_same_model_as_a_folder(tensors, sentencepiece_model, tmp_path):
    members = parakeet.nemo_members(SIZES, tensors, sentencepiece_model, tmp_path)
    published = read_published(parakeet.write_nemo(tmp_path / "m.nemo", members))
    folder = parakeet.write_folder(tmp_path / "folder", SIZES, tensors)
    assert published.config == read_published(folder).config
    for name, x in tensors.items():
        np.testing.assert_array_equal(published.tensors[name], x)


def test_a_hybrid_archive_has_both_heads(rnnt_tensors, sentencepiece_model, tmp_path):
    head = {"weight": np.ones((21, 8, 1), "f4"), "bias": np.ones(21, "f4")}
    tensors = rnnt_tensors | {f"ctc_decoder.decoder_layers.0.{k}": x for k, x in head.items()}
    members = parakeet.nemo_members(RNNT, tensors, sentencepiece_model, tmp_path)
    published = read_published(parakeet.write_nemo(tmp_path / "m.nemo", members))
    model = published.build()
    np.testing.assert_array_equal(model.ctc_head.kernel, np.ones((8, 21)))
    assert published.config.decoding.head == "transducer"


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_a_model_of_the_hub_cut_continued_and_offline(
    tensors, sentencepiece_model, tmp_path, monkeypatch, kind
):
    folder = parakeet.write_folder(tmp_path / "folder", SIZES, tensors)
    files, weights = {x.name: x.read_bytes() for x in folder.iterdir()}, "model.safetensors"
    if kind == "archive":
        members = parakeet.nemo_members(SIZES, tensors, sentencepiece_model, tmp_path)
        path = parakeet.write_nemo(tmp_path / "m.nemo", members)
        files, weights = {path.name: path.read_bytes()}, path.name
    with fake_hub(tmp_path / "hub") as hub:
        hub.repositories["owner/tiny"], hub.cut = files, {weights}
        for offline in (False, True):
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
            found = read_published(local_source("hf:owner/tiny")).tensors
            for name, x in tensors.items():
                np.testing.assert_array_equal(found[name], x)
            hub.repositories.clear()


class TestFoldersThatAreRefused:
    @pytest.fixture
    def folder(self, tensors, tmp_path):
        return parakeet.write_folder(tmp_path, SIZES, tensors)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model_type": "nemotron_asr_streaming"}, "a streaming model"),
            ({"model_type": "whisper"}, "parakeet_ctc, parakeet_rnnt, parakeet_tdt"),
            ({"model_type": None}, "Received: null"),
            ({"vocab_size": 1}, "vocab_size"),
            ({"vocab_size": "40"}, "vocab_size"),
            ({"blank_token_id": 99}, "blank_token_id below vocab_size"),
            ({"durations": [0, 0]}, "increasing"),
            ({"durations": ["a"]}, "durations"),
            ({"hidden_act": "gelu"}, "hidden_act"),
            ({"num_decoder_layers": 0}, "num_decoder_layers"),
            ({"encoder_config": 3}, "keys and values"),
            ({"vocab_size": 30}, "symbols besides the blank"),
        ],
        ids=str,
    )
    def test_for_their_config(self, folder, changes, message):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        with refused(message):
            read_published(folder)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("hidden_act", "relu", "hidden_act silu"),
            ("subsampling_conv_stride", 3, "subsampling_conv_stride 2"),
            ("subsampling_factor", 16, "subsampling_factor"),
            ("hidden_size", 9, "hidden_size"),
            ("num_mel_bins", 40, "feature_size"),
        ],
    )
    def test_for_their_encoder(self, folder, key, value, message):
        path = folder / "config.json"
        content = json.loads(path.read_text())
        content["encoder_config"][key] = value
        path.write_text(json.dumps(content))
        with refused(message):
            read_published(folder)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.pop("joint.head.bias"), "missing: joint.head.bias"),
            (lambda t: t.update(extra=np.zeros(2, "f4")), "unexpected: extra"),
            (lambda t: t.update({"joint.head.bias": np.zeros(3, "f4")}), "another shape"),
            (lambda t: t["joint.head.bias"].fill(np.nan), "NaN or infinity"),
        ],
        ids=["missing", "unexpected", "shape", "nan"],
    )
    def test_for_their_weights(self, folder, tensors, change, message):
        tensors = {name: x.copy() for name, x in tensors.items()}
        change(tensors)
        write_safetensors(folder / "model.safetensors", tensors)
        with refused(message):
            read_published(folder).build()

    def test_for_missing_files(self, folder):
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        (folder / "model.safetensors").write_text(pointer)
        with refused("git-lfs pointer"):
            read_published(folder)
        (folder / "model.safetensors").unlink()
        with refused("model.safetensors"):
            read_published(folder)
        (folder / "tokenizer.json").unlink()
        with refused("tokenizer.json"):
            read_published(folder)
        (folder / "config.json").unlink()
        with refused("config.json"):
            read_published(folder)


class TestArchivesThatAreRefused:
    @pytest.fixture
    def members(self, rnnt_tensors, sentencepiece_model, tmp_path):
        return parakeet.nemo_members(RNNT, rnnt_tensors, sentencepiece_model, tmp_path)

    @pytest.mark.parametrize(
        ("section", "key", "value", "message"),
        [
            ("encoder", "self_attention_model", "rel_pos_local_attn", "self_attention_model"),
            ("encoder", "att_context_size", [128, 128], "att_context_size"),
            ("encoder", "causal_downsampling", True, "causal_downsampling"),
            ("encoder", "subsampling", "vggnet", "subsampling: striding or dw_striding"),
            ("encoder", "_target_", "nemo.SqueezeformerEncoder", "ConformerEncoder"),
            ("encoder", "conv_context_size", "causal", "conv_context_size"),
            ("preprocessor", "normalize", "all_features", "normalize"),
            ("preprocessor", "window_size", None, "preprocessor.window_size"),
            ("preprocessor", "n_fft", "x", "n_fft"),
            ("tokenizer", "type", "wpe", "tokenizer.type: bpe"),
            ("tokenizer", "model_path", "tokenizer.model", "nemo:NAME"),
            ("tokenizer", "model_path", "nemo:other.model", "other.model"),
            ("tokenizer", "model_path", "nemo:model_config.yaml", "not a SentencePiece model"),
            ("joint", "jointnet", {"activation": "gelu"}, "joint.jointnet.activation"),
        ],
    )
    def test_for_their_config(self, members, tmp_path, section, key, value, message):
        content = yaml.safe_load(members["model_config.yaml"])
        content[section][key] = value
        members["model_config.yaml"] = yaml.safe_dump(content).encode()
        with refused(message):
            read_published(parakeet.write_nemo(tmp_path / "m.nemo", members))

    @pytest.mark.parametrize("content", [b"a: [", b"3", b"\xff", b"{}"], ids=repr)
    def test_for_another_yaml(self, members, tmp_path, content):
        members["model_config.yaml"] = content
        with refused("m.nemo"):
            read_published(parakeet.write_nemo(tmp_path / "m.nemo", members))

    @pytest.mark.parametrize("name", ["model_config.yaml", "model_weights.ckpt"])
    def test_for_a_missing_member(self, members, tmp_path, name):
        del members[name]
        with refused(name):
            read_published(parakeet.write_nemo(tmp_path / "m.nemo", members))

    def test_for_missing_tensors(self, members, rnnt_tensors, sentencepiece_model, tmp_path):
        tensors = {k: x for k, x in rnnt_tensors.items() if ".bias_u" not in k}
        members = parakeet.nemo_members(RNNT, tensors, sentencepiece_model, tmp_path)
        with refused("bias_u"):
            read_published(parakeet.write_nemo(tmp_path / "m.nemo", members))

    @pytest.mark.parametrize(
        ("name", "kind", "message"),
        [
            ("../evil", tarfile.REGTYPE, "a path out of the archive"),
            ("/etc/evil", tarfile.REGTYPE, "a path out of the archive"),
            ("model_config.yaml", tarfile.REGTYPE, "twice"),
            ("link", tarfile.SYMTYPE, "a link or a device"),
            ("hard", tarfile.LNKTYPE, "a link or a device"),
            ("device", tarfile.CHRTYPE, "a link or a device"),
        ],
    )
    def test_for_odd_members(self, members, tmp_path, name, kind, message):
        path = parakeet.write_nemo(tmp_path / "m.nemo", members)
        with tarfile.open(path, "a") as archive:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "model_config.yaml"
            archive.addfile(info, io.BytesIO())
        with refused(message):
            read_published(path)
        assert not (tmp_path.parent / "evil").exists()

    def test_for_objects_among_the_weights(self, members, tmp_path):
        call = pickles.Call(pickles.Global("os", "system"), f"touch {tmp_path}/ran")
        pickles.save(tmp_path / "bad.ckpt", {"encoder.x": call})
        members["model_weights.ckpt"] = (tmp_path / "bad.ckpt").read_bytes()
        with refused("m.nemo"):
            read_published(parakeet.write_nemo(tmp_path / "m.nemo", members))
        assert not (tmp_path / "ran").exists()

    def test_for_being_none(self, members, tmp_path):
        path = tmp_path / "m.nemo"
        with refused("No such file"):
            read_published(path)
        whole = parakeet.write_nemo(path, members, compressed=True).read_bytes()
        for content in (b"", b"text", whole[: len(whole) // 2]):
            path.write_bytes(content)
            with refused("a complete .nemo archive"):
                read_published(path)
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
        with refused("git-lfs pointer"):
            read_published(path)


@pytest.mark.parametrize("kind", ["does not exist", "is a file", "is an empty folder"])
def test_a_path_that_is_no_source_lists_the_kinds_of_sources(tmp_path, kind):
    path = tmp_path / "source"
    if kind == "is a file":
        path.write_text("text")
    elif kind == "is an empty folder":
        path.mkdir()
    with refused(match=f"a folder of Hugging Face.*Received: {path}, which {kind}[.] Correct"):
        open_source(path)
