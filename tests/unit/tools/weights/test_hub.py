"""Sources on the Hugging Face Hub, against a hub on localhost."""

import os
import subprocess
import sys

import pytest
from huggingface_hub import constants

from tests.support.errors import refused
from tests.support.fake_hub import fake_hub
from tools.weights.hub import HubSource, is_hub_source, local_source, parse

MODEL = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 1000,
    "pytorch_model.bin": b"the same weights in another format",
    "README.md": b"not needed",
}


@pytest.fixture
def hub(tmp_path):
    """A hub with one repository, and an empty cache."""
    with fake_hub(tmp_path / "hub") as server:
        server.repositories["owner/name"] = MODEL
        yield server


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("hf:owner/name", HubSource("owner/name", None, "")),
        ("hf:o-1/n.a_m@v1.0", HubSource("o-1/n.a_m", "v1.0", "")),
        ("hf:owner/name/folder/tiny.pth", HubSource("owner/name", None, "folder/tiny.pth")),
        ("hf:owner/name@main/tiny.pth", HubSource("owner/name", "main", "tiny.pth")),
    ],
)
def test_parts_of_a_source(text, place):
    assert is_hub_source(text)
    assert parse(text) == place


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:owner",
        "hf:owner/",
        "hf:/name",
        "hf:owner/name@",
        "hf:owner/na me",
        "hf:owner/name/../../etc/passwd",
        "hf:owner/name/a/..",
        "hf:owner/name/a\\b",
        "hf:../name",
        "hf:owner/name@v 1",
    ],
)
def test_other_forms_are_refused(text):
    with refused("hf:owner/name[@revision][/path]") as error:
        parse(text)
    assert text in str(error.value)


def test_paths_are_returned_as_they_are(tmp_path):
    assert local_source(tmp_path) == tmp_path
    assert local_source("a/hf:b") != local_source("hf")


def test_a_model_is_downloaded_once(hub):
    folder = local_source("hf:owner/name")
    assert {x.name: x.read_bytes() for x in folder.iterdir()} == {
        name: MODEL[name] for name in ("config.json", "model.safetensors")
    }
    hub.requests.clear()
    assert local_source("hf:owner/name@v1") == folder
    assert [path for _, path in hub.requests if "resolve" in path] == []


def test_a_new_commit_of_the_branch_is_downloaded(hub):
    old = local_source("hf:owner/name")
    hub.repositories["owner/name"] = MODEL | {"model.safetensors": b"trained on"}
    new = local_source("hf:owner/name")
    assert (new / "model.safetensors").read_bytes() == b"trained on"
    assert (old / "model.safetensors").read_bytes() == MODEL["model.safetensors"]


def test_a_cut_download_is_continued(hub):
    hub.cut.add("model.safetensors")
    path = local_source("hf:owner/name/model.safetensors")
    assert path.read_bytes() == MODEL["model.safetensors"]
    assert sum(kind == "GET" for kind, _ in hub.requests) == 2


def test_other_weights_are_downloaded_where_there_are_no_safetensors(hub):
    hub.repositories["o/torch"] = {
        name: x for name, x in MODEL.items() if not name.endswith("safetensors")
    }
    names = {x.name for x in local_source("hf:o/torch").iterdir()}
    assert names == {"config.json", "pytorch_model.bin"}
    hub.repositories["o/nemo"] = {"README.md": b"", "conformer.nemo": b"archive"}
    archive = local_source("hf:o/nemo")
    assert (archive.name, archive.read_bytes()) == ("conformer.nemo", b"archive")
    hub.repositories["o/empty"] = {"README.md": b""}
    with refused(match="hf:o/empty.*nemo"):
        local_source("hf:o/empty")


def test_the_cache_is_used_without_network(hub, monkeypatch):
    folder = local_source("hf:owner/name")
    file = local_source("hf:owner/name/config.json")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert local_source("hf:owner/name") == folder
    assert local_source("hf:owner/name/config.json") == file
    assert hub.requests == []
    for absent in ("hf:owner/other", "hf:owner/other/config.json"):
        with refused(match=f"{absent}.*no complete copy in the cache.*HF_HUB_OFFLINE"):
            local_source(absent)


def test_a_refusal_of_the_hub_says_what_to_do(hub):
    hub.refused |= {"o/gated": ("GatedRepo", 403), "o/busy": ("", 418)}
    for source, words in (
        ("hf:o/gated", "terms must be accepted.*HF_TOKEN"),
        ("hf:o/gated/tiny.pth", "terms must be accepted.*HF_TOKEN"),
        ("hf:o/none", "does not exist or is private.*HF_TOKEN"),
        ("hf:owner/name@v9", "without the revision v9"),
        ("hf:owner/name/no.pth", "without this file"),
        ("hf:o/busy", "no answer from the hub"),
    ):
        with refused(source, match=words):
            local_source(source)


def test_the_token_of_the_environment_is_sent(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    local_source("hf:owner/name/config.json")
    assert hub.tokens == {"Bearer hf_secret"}


def test_retries_print_nothing(tmp_path):
    program = """
import time
from tools.errors import UserError
from tools.weights.hub import local_source
time.sleep = lambda seconds: None
try:
    local_source("hf:owner/name/tiny.pth")
except UserError as error:
    print(error)
"""
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_CACHE": str(tmp_path)}
    environment.pop("HF_HUB_VERBOSITY", None)  # set in this process by other tests
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert "no answer from the hub" in done.stdout
    assert done.stderr == ""
