"""The list of planted faults fits the code; a fault is caught by a test that fails in its call."""

import shutil

import pytest
import yaml

from tests.mutation import run
from tests.mutation.run import CAUGHT, Fault, ListError, judge, read_faults

GOOD = {
    "name": "sign",
    "file": "tools/sum.py",
    "old": "a + b",
    "new": "a - b",
    "tests": ["tests/test_sum.py::test_sum"],
}
TESTS = """
import pytest
from tools.sum import add


@pytest.fixture
def three():
    return add(1, 2)


@pytest.fixture
def checked(three):
    if three != 3:
        raise ValueError("a precondition elsewhere")
    return three


def test_sum(three):
    assert three == 3


def test_something_else(checked):
    pass


def test_zero():
    assert add(2, 0) == 2
"""


def test_the_list_fits_the_code_and_covers_every_library_and_family():
    faults = read_faults()
    assert len(faults) >= 80
    places = {"/".join(fault.file.split("/")[:-1]) for fault in faults}
    libraries = (
        "config conversion inference recognition speech training weights cli benchmark".split()
    )
    assert places >= {"conformer", "vision", "wav2vec2"} | {f"tools/{name}" for name in libraries}


@pytest.fixture
def project(tmp_path):
    """A project of one function with three tests."""
    root = tmp_path / "project"
    for folder in ("tools", "tests/mutation"):
        (root / folder).mkdir(parents=True)
    (root / "tools" / "__init__.py").touch()
    (root / "tools" / "sum.py").write_text("def add(a, b):\n    return a + b\n")
    (root / "tests" / "test_sum.py").write_text(TESTS)
    (root / "tests" / "__init__.py").touch()
    for name in ("record.py", "worker.py"):
        text = (run.PROJECT / "tests" / "mutation" / name).read_text()
        # Nothing has to be loaded ahead for such small tests.
        text = text.replace("for name in PACKAGES.split():", "for name in ():")
        (root / "tests" / "mutation" / name).write_text(text)
    return root


def write_list(tmp_path, *entries):
    path = tmp_path / "faults.yml"
    path.write_text(yaml.safe_dump(list(entries)))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"old": "return"}, None),
        ({"old": "a"}, "occurs 3 times"),
        ({"old": "a * b"}, "occurs 0 times"),
        ({"file": "tools/product.py"}, "no file tools/product.py"),
        ({"tests": ["tests/test_product.py"]}, "no test file tests/test_product.py"),
        ({"tests": []}, "names no tests"),
        ({"new": "a + b"}, "changes nothing"),
        ({"line": 3}, "unknown key line"),
    ],
)
def test_an_entry_that_does_not_fit_is_named(project, tmp_path, change, message):
    path = write_list(tmp_path, GOOD | change)
    if message is None:
        assert len(read_faults(path, project)) == 1
        return
    with pytest.raises(ListError, match=f"sign: .*{message}"):
        read_faults(path, project)


def test_a_name_that_occurs_twice_and_a_missing_key_are_errors(project, tmp_path):
    short = {key: value for key, value in GOOD.items() if key != "new"}
    with pytest.raises(ListError, match=r"sign: occurs twice\nsign: no new"):
        read_faults(write_list(tmp_path, GOOD, GOOD, short), project)


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([["a", "call", "passed"], ["b", "call", "failed"]], (CAUGHT, "b")),
        ([["a", "setup", "failed"]], ("broke setup", "a")),
        ([["a.py", "collect", "failed"]], ("broke collect", "a.py")),
        ([["a", "call", "passed"]], ("survived", "")),
        ([["a", "setup", "skipped"]], ("tests skipped", "")),
        ([], ("no test ended", "")),
    ],
)
def test_only_a_failing_call_counts(outcomes, expected):
    verdict = judge(Fault(**GOOD), outcomes, 1.0)
    assert (verdict.outcome, verdict.test) == expected


def test_a_fault_that_is_said_to_survive_must_survive():
    survivor = Fault(**GOOD, survives="a reason")
    assert judge(survivor, [["a", "call", "passed"]], 1.0).as_wanted
    assert not judge(survivor, [["a", "call", "failed"]], 1.0).as_wanted


def test_faults_are_planted_in_copies_one_by_one(project, tmp_path, monkeypatch, capsys):
    def copy(target):
        shutil.copytree(project, target)
        return target

    monkeypatch.setattr(run, "copy_project", copy)
    entries = [
        GOOD,
        GOOD | {"name": "survivor", "tests": ["tests/test_sum.py::test_zero"]},
        GOOD | {"name": "elsewhere", "tests": ["tests/test_sum.py::test_something_else"]},
    ]
    faults = read_faults(write_list(tmp_path, *entries), project)
    (tmp_path / "copies").mkdir()
    assert run.run(faults, tmp_path / "copies", jobs=1) == 1
    *_, summary, first, second = capsys.readouterr().out.splitlines()
    assert summary == "1 of 3 faults are caught (33%)."
    assert [first, second] == ["survivor: survived", "elsewhere: broke setup"]
    assert (tmp_path / "copies" / "copy-0" / "tools" / "sum.py").read_text().count("a + b") == 1


def test_a_test_that_fails_without_a_fault_is_an_error(project):
    (project / "tools" / "sum.py").write_text("def add(a, b):\n    return a + b + 1\n")
    copy = run.Copy(project)
    with pytest.raises(ListError, match=r"without a fault fails tests/test_sum\.py::test_sum"):
        run.check_sound(copy, [Fault(**GOOD | {"tests": ("tests/test_sum.py::test_sum",)})])
    copy.close()


def test_an_unknown_name_is_an_error(capsys):
    assert run.main(["no_such_fault"]) == 2
    assert "no fault is called no_such_fault" in capsys.readouterr().err
