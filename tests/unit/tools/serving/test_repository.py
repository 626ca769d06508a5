"""The models of a server: versions that come, go and fail."""

import shutil
import threading

import pytest

from tests.support.served import served
from tools.errors import UserError
from tools.serving.batching import Closed
from tools.serving.repository import Repository, UnknownModel


class Opener:
    """Opens fake models and keeps them; a folder with the file `broken` cannot be opened."""

    def __init__(self):
        self.opened = []

    def __call__(self, name, version, folder):
        if (folder / "broken").exists():
            raise UserError.expected("a model", "a broken one", "Export it again")
        model, model.runner = served(name, version, factor=float(version))
        self.opened.append((name, version))
        return model


@pytest.fixture
def root(tmp_path):
    (tmp_path / "toy" / "1").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def opener():
    return Opener()


@pytest.fixture
def repository(root, opener):
    found = Repository(opener, root=root)
    yield found
    found.close()


def test_the_newest_version_answers(repository, root):
    (root / "toy" / "10").mkdir()
    (root / "toy" / "9").mkdir()
    (root / "boat" / "3").mkdir(parents=True)
    (root / "toy" / "notes").mkdir()
    (root / "empty").mkdir()
    (root / "file").touch()
    repository.scan()
    assert repository.names == ["boat", "toy"]
    assert repository.get("toy").version == repository.get("toy", 10).version == 10
    for name, version in (("toy", 9), ("car", None), ("empty", None), ("toy", 1)):
        with pytest.raises(UnknownModel):
            repository.get(name, version)


def test_folders_without_versions_are_version_1(opener, tmp_path):
    repository = Repository(opener, {"toy": tmp_path})
    repository.scan()
    assert repository.get("toy", 1).name == "toy"
    assert opener.opened == [("toy", 1)]
    repository.close()


def test_a_scan_without_news_opens_nothing(repository, opener):
    for _ in range(3):
        repository.scan()
    assert opener.opened == [("toy", 1)]


def test_a_new_version_replaces_the_old_one_after_its_last_answer(repository, root):
    repository.scan()
    old = repository.get("toy")
    old.runner.gate.clear()
    waiting = old.submit_files([("hello", 1.0)])[0]
    (root / "toy" / "2").mkdir()
    scan = threading.Thread(target=repository.scan)
    scan.start()
    while repository.get("toy").version == 1:
        pass
    assert repository.states("toy") == {1: "UNLOADING", 2: "AVAILABLE"}
    old.runner.gate.set()
    assert waiting.result(20) == "hello"
    scan.join(20)
    while repository.states("toy")[1] == "UNLOADING":
        pass
    assert repository.states("toy") == {1: "END", 2: "AVAILABLE"}
    with pytest.raises(Closed):
        old.submit_files([("late", 1.0)])


def test_a_version_that_cannot_be_loaded_leaves_the_old_one(repository, root, opener, caplog):
    repository.scan()
    (root / "toy" / "2").mkdir()
    (root / "toy" / "2" / "broken").touch()
    for _ in range(2):
        repository.scan()
    assert repository.get("toy").version == 1
    assert repository.states("toy")[2] == "END"
    assert [x.message for x in caplog.records if x.levelname == "ERROR"] == [
        "toy version 2 is not loaded: Expected a model. Received: a broken one. Export it again."
    ]
    (root / "toy" / "3").mkdir()
    repository.scan()
    assert repository.get("toy").version == 3


def test_a_version_that_cannot_be_loaded_is_tried_again_after_a_change(repository, root, opener):
    new = root / "toy" / "2"
    new.mkdir()
    (new / "broken").touch()
    repository.scan()
    (new / "broken").unlink()  # such as by the end of a copy
    repository.scan()
    assert opener.opened == [("toy", 2)]
    assert repository.states("toy")[2] == "AVAILABLE"


def test_a_version_that_failed_goes_and_comes_back(repository, root):
    repository.scan()
    new = root / "toy" / "2"
    new.mkdir()
    for content in ("", "other"):
        (new / "broken").write_text(content)
        repository.scan()
        assert repository.get("toy").version == 1
    shutil.rmtree(new)
    repository.scan()
    new.mkdir()
    repository.scan()
    assert repository.get("toy").version == 2


def test_an_unknown_error_of_a_version_leaves_the_others(root, caplog):
    def open_model(name, version, folder):
        if version == 2:
            raise KeyError("weights\n")
        return served(name, version)[0]

    repository = Repository(open_model, root=root)
    (root / "toy" / "2").mkdir()
    (root / "zebra" / "1").mkdir(parents=True)
    repository.scan()
    assert repository.names == ["zebra"]
    (error,) = (x.message for x in caplog.records if x.levelname == "ERROR")
    assert error == r"toy version 2 is not loaded: KeyError('weights\n')"
    repository.close()


def test_a_model_whose_folder_is_gone_answers_no_more(repository, root):
    repository.scan()
    (root / "toy" / "1").rmdir()
    repository.scan()
    assert repository.names == []


def test_a_root_that_cannot_be_read_is_no_news(repository, root, caplog):
    repository.scan()
    (root / "toy" / "1").rmdir()
    (root / "toy").rmdir()
    root.rmdir()
    repository.scan()
    assert "cannot be read" in caplog.text


def test_new_versions_are_found_while_it_watches(repository, root):
    repository.scan()
    repository.watch(0.01)
    (root / "toy" / "2").mkdir()
    for _ in range(2000):
        if repository.get("toy").version == 2:
            break
        threading.Event().wait(0.01)
    assert repository.get("toy").version == 2


def test_versions_with_labels_stay_loaded(root, opener):
    labels = {"toy": {"stable": 1, "canary": 2, "gone": 9}}
    repository = Repository(opener, root=root, labels=lambda: labels)
    (root / "toy" / "2").mkdir()
    (root / "toy" / "3").mkdir()
    repository.scan()
    assert sorted(opener.opened) == [("toy", 1), ("toy", 2), ("toy", 3)]
    assert repository.get("toy").version == 3
    assert repository.get("toy", label="stable").version == 1
    assert repository.get("toy", label="canary").version == 2
    for label in ("gone", "unknown"):
        with pytest.raises(UnknownModel):
            repository.get("toy", label=label)
    with pytest.raises(UnknownModel):
        repository.get("boat", label="stable")
    labels["toy"] = {"stable": 3}  # a label moves; its old version is closed
    repository.scan()
    assert repository.get("toy", label="stable").version == 3
    for version in (1, 2):
        with pytest.raises(UnknownModel):
            repository.get("toy", version)
    repository.close()


def test_labels_that_cannot_be_read_stay_as_they_were(root, opener, caplog):
    answers = [{"toy": {"stable": 1}}, {"toy": {"stable": 1}}]

    def labels():
        if not answers:
            raise UserError.expected("labels", "none", "Correct the file")
        return answers.pop()

    repository = Repository(opener, root=root, labels=labels)
    for _ in range(2):
        repository.scan()
    assert repository.get("toy", label="stable").version == 1
    assert "labels stay as they were" in caplog.text
    repository.close()


def test_a_model_is_closed_when_nobody_holds_it(repository, root):
    repository.scan()
    old = repository.get("toy")
    with old.held():
        (root / "toy" / "2").mkdir()
        repository.scan()
        assert repository.states("toy") == {1: "UNLOADING", 2: "AVAILABLE"}
        old.session.check_open()
    repository.close()
    assert repository.states("toy") == {1: "END", 2: "END"}
    with pytest.raises(Closed), old.held():
        pass


def test_closing_does_not_wait_for_a_version_that_loads(root):
    gate, begun, opened = threading.Event(), threading.Event(), []

    def open_model(name, version, folder):
        if version == 2:
            begun.set()
            assert gate.wait(20)
        model, _ = served(name, version)
        opened.append(model)
        return model

    repository = Repository(open_model, root=root)
    repository.scan()
    (root / "toy" / "2").mkdir()
    repository.watch(0.01)
    assert begun.wait(20)
    repository.close()
    assert repository.is_loading and repository.names == []
    gate.set()
    while repository.is_loading:
        pass
    assert repository.states("toy") == {1: "END", 2: "END"}
    with pytest.raises(Closed):
        opened[1].submit_files([("late", 1.0)])
