"""The page, its files, and activation maps, over models that are stand-ins."""

import re
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.support.served import FakeRunner, FilesKind, served
from tools.conversion.protocol import TensorSpec
from tools.errors import UserError
from tools.inference.session import Session
from tools.serving.app import create_app
from tools.serving.batching import BatchingOptions
from tools.serving.repository import Repository
from tools.serving.served_model import ServedModel
from tools.serving.server import AppOptions

SIDE, NUM_CLASSES = 4, 4
# [S, S, 3]: each number tells its row, column and channel.
IMAGE = np.arange(SIDE * SIDE * 3, dtype=np.float32).reshape(SIDE, SIDE, 3)


class MapRunner(FakeRunner):
    """Its maps are the red channel times the class, and the blue channel."""

    def __init__(self, layout, **preprocessing):
        super().__init__()
        self.pipeline = {
            "num_classes": NUM_CLASSES,
            "preprocessing": {"crop_pct": 0.875, **preprocessing},
        }
        self.layout = layout
        sizes = (3, SIDE, SIDE) if layout == "NCHW" else (SIDE, SIDE, 3)
        self.signatures = {
            "activation_map": (
                TensorSpec("classes", "int32", (None,)),
                TensorSpec("input", "float32", (None, *sizes)),
            )
        }

    def run(self, inputs, signature="serving_default"):
        images, classes = inputs["input"], inputs["classes"]
        if self.layout == "NCHW":
            assert images.shape == (1, 3, SIDE, SIDE)
            images = images.transpose(0, 2, 3, 1)
        classes = np.where(classes == -1, 2, classes)
        return {
            "classes": classes,
            "red_map": classes[:, None, None] * images[..., 0],
            "blue_map": images[..., 2],
        }


class ImageKind(FilesKind):
    def read(self, content):
        if content != b"image":
            raise UserError.expected("an image", "no image", "Check it")
        return IMAGE, 1.0


def client_of(*models, **options):
    """Returns a client of an application over models."""
    opened = {model.name: model for model in models}
    folders = dict.fromkeys(opened, Path(__file__).parent)
    repository = Repository(lambda name, *_: opened[name], folders)
    repository.scan()
    return TestClient(create_app(repository, AppOptions(**options)))


def photos(layout="NHWC", **preprocessing):
    runner = MapRunner(layout, **preprocessing)
    session = Session(runner)
    return ServedModel("photos", 1, session, BatchingOptions(), kind=ImageKind(runner))


@pytest.fixture
def client():
    with client_of(served()[0]) as client:
        yield client


def linked(client):
    """Returns the addresses of all files that the page loads, by its HTML and its scripts."""
    found, left = set(), ["/"]
    while left:
        path = left.pop()
        if path in found:
            continue
        found.add(path)
        text = client.get(path).text
        names = re.findall(r'(?:src|href)="([^"]+)"', text) if path == "/" else []
        names += re.findall(r'from "\./([^"]+)"|URL\("([^"]+)", import', text)
        for name in names:
            name = name if isinstance(name, str) else "page/" + "".join(name)
            left.append(f"/{name}")
    return found


def test_every_file_of_the_page_is_found_and_has_its_type(client):
    paths = linked(client)
    assert {"/", "/page/page.js", "/page/page.css", "/page/recorder.js"} < paths
    for path in paths:
        found = client.get(path)
        assert found.status_code == 200
        ending = path.rpartition(".")[2]
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        assert found.headers["content-type"].startswith(kind.get(ending, "text/html"))


def test_the_page_loads_and_runs_nothing_from_elsewhere(client):
    for path in linked(client):
        found = client.get(path)
        rules = dict(
            rule.strip().split(" ", 1)
            for rule in found.headers["content-security-policy"].split(";")
        )
        assert rules["default-src"] == "'self'"
        assert all(set(value.split()) <= {"'self'", "blob:", "'none'"} for value in rules.values())
        assert not {"script-src", "connect-src"} & rules.keys()
        assert found.headers["x-content-type-options"] == "nosniff"
        addresses = set(re.findall(r"https?://[^\s\"']+", found.text))
        assert addresses <= {"http://www.w3.org/2000/svg"}
    html = client.get("/").text
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", html)


def test_files_are_sent_again_only_if_they_have_changed(client):
    found = client.get("/page/page.js")
    tag = found.headers["etag"]
    assert found.headers["cache-control"] == "no-cache"
    for known, status in ((tag, 304), (f'"other", {tag}', 304), ('"other"', 200)):
        again = client.get("/page/page.js", headers={"If-None-Match": known})
        assert (again.status_code, again.headers["etag"]) == (status, tag)
    assert client.get("/page/page.css").headers["etag"] != tag


@pytest.mark.parametrize("name", ["page.py", "../page.py", "..%2fpage.py", "%2e%2e%2fapp.py", ""])
def test_only_files_of_the_page_are_found(client, name):
    found = client.get(f"/page/{name}")
    assert (found.status_code, "error" in found.json()) == (404, True)


def test_the_page_needs_no_key_but_the_models_do():
    with client_of(served()[0], photos(), api_keys=("one",)) as client:
        for path in linked(client):
            assert client.get(path).status_code == 200
        for path in ("/v1/models", "/page/../v1/models", "/page/%2e%2e/v1/models"):
            assert client.get(path).status_code in (401, 404)
        assert client.post("/v1/activation_map", files={"file": b"image"}).status_code == 401


def test_the_list_of_models_tells_tasks_and_runners():
    with client_of(served()[0], photos(), aliases={"t": "toy", "gone": "boat"}) as client:
        rows = {row["id"]: row for row in client.get("/v1/models").json()["data"]}
    assert rows.keys() == {"toy", "photos", "t"}
    for name in ("toy", "t"):
        assert rows[name]["task"] == "classify"
        assert rows[name]["runner"] == {"mode": "eager", "backend": "numpy", "precision": "fp32"}
        assert rows[name]["version"] == "1"
    assert "activation_map" in rows["photos"]["signatures"]
    assert "activation_map" not in rows["toy"]["signatures"]


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(("fields", "number"), [({}, 2), ({"class": "0"}, 0), ({"class": "3"}, 3)])
def test_activation_maps(layout, fields, number):
    with client_of(photos(layout)) as client:
        found = client.post("/v1/activation_map", files={"file": b"image"}, data=fields)
    assert found.json() == {
        "model": "photos",
        "class": number,
        "maps": {
            "red_map": (number * IMAGE[..., 0]).tolist(),
            "blue_map": IMAGE[..., 2].tolist(),
        },
        "crop_pct": 0.875,
        "exif_orientation": False,
    }


def test_the_answer_tells_whether_exif_turns_the_image():
    with client_of(photos(exif_orientation=True)) as client:
        found = client.post("/v1/activation_map", files={"file": b"image"})
    assert found.json()["exif_orientation"] is True


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        (b"text", {}, "Expected an image."),
        (b"image", {"class": "4"}, "a class below 4. Received: '4'"),
        (b"image", {"class": "-1"}, "a class below 4. Received: '-1'"),
        (b"image", {"class": "9" * 5000}, "a class below 4"),
        (b"image", {"class": "two\n"}, "a class below 4"),
        (b"image", {"model": "toy"}, "the signature activation_map. Received: toy"),
    ],
)
def test_bad_requests_for_maps_are_one_line(file, fields, message):
    with client_of(served()[0], photos()) as client:
        fields = {"model": "photos", **fields}
        found = client.post("/v1/activation_map", files={"file": file}, data=fields)
    assert (found.status_code, message in found.json()["error"]) == (400, True)
    assert found.json()["error"].isprintable()


def test_a_converted_model_asks_for_run_eagerly(client):
    found = client.post("/v1/activation_map", files={"file": b"image"})
    assert found.status_code == 400
    assert found.json()["error"].endswith("Start the server with --run_eagerly.")
