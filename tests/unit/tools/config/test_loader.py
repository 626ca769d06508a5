from dataclasses import dataclass, field
from typing import Literal

import pytest

from conformer.config import load_config
from tests.support.errors import refused
from tools.config.loader import leaf_keys, leaf_values, load, to_yaml
from tools.errors import UserError


@dataclass(frozen=True, slots=True)
class Schedule:
    peak: float = 0.1
    warmup_steps: int = 10


@dataclass(frozen=True, slots=True)
class Optimizer:
    name: Literal["adam", "sgd"] = "adam"
    clip_norm: float | None = None
    schedule: Schedule = field(default_factory=lambda: Schedule(peak=0.5))

    def validate(self) -> None:
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise UserError.expected("clip_norm > 0", self.clip_norm, "Raise it")


@dataclass(frozen=True, slots=True)
class Data:
    splits: tuple[str, ...] = ("train",)
    image_size: tuple[int, int] = (2, 3)
    shuffle: bool = True
    rate_hz: int = 16000
    data_dir: str = ""


@dataclass(frozen=True, slots=True)
class Teacher:
    path: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Experiment:
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    teacher: Teacher | None = None


@dataclass(frozen=True, slots=True)
class Required:
    name: str
    teacher: Teacher
    size: int = 1


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes):
        path = tmp_path / "config.yml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def failure(config_class, path, overrides=None) -> str:
    with refused("Received: ") as caught:
        load(config_class, path, overrides)
    message = str(caught.value)
    assert message.startswith("Expected ")
    return message


def test_defaults_without_a_file():
    assert load(Experiment, None) == Experiment()


def test_command_line_beats_file_beats_defaults(write):
    path = write("data: {rate_hz: 8000, shuffle: false}\noptimizer: {schedule: {peak: 2}}\n")
    config = load(Experiment, path, {"data.rate_hz": "4000", "optimizer.clip_norm": 3})
    assert config.data == Data(rate_hz=4000, shuffle=False)
    assert config.optimizer == Optimizer(clip_norm=3.0, schedule=Schedule(peak=2.0))
    assert type(config.optimizer.clip_norm) is type(config.optimizer.schedule.peak) is float


def test_a_partly_given_section_keeps_its_parents_default(write):
    config = load(Experiment, write("optimizer: {schedule: {warmup_steps: 3}}"))
    assert config.optimizer.schedule == Schedule(peak=0.5, warmup_steps=3)


@pytest.mark.parametrize(
    ("key", "yaml_text", "expected"),
    [
        ("optimizer.schedule.peak", "1e-3", 1e-3),  # which PyYAML reads as a string
        ("optimizer.schedule.peak", "1", 1.0),
        ("optimizer.schedule.peak", ".inf", float("inf")),
        ("optimizer.clip_norm", "null", None),
        ("optimizer.clip_norm", "", None),
        ("optimizer.name", "sgd", "sgd"),
        ("data.splits", "[a, b]", ("a", "b")),
        ("data.splits", "[]", ()),
        ("data.image_size", "[4, 5]", (4, 5)),
        ("data.shuffle", "no", False),
        ("data.data_dir", "'12'", "12"),
    ],
)
def test_conversion_from_yaml(write, key, yaml_text, expected):
    *sections, name = key.split(".")
    text = "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(sections))
    config = load(Experiment, write(f"{text}{'  ' * len(sections)}{name}: {yaml_text}\n"))
    for part in key.split("."):
        config = getattr(config, part)
    assert config == expected
    assert type(config) is type(expected)


def test_the_home_folder_is_put_in(write, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    path = write("data: {data_dir: ~/LibriSpeech, splits: [~/a, b]}\nteacher: {path: ~/model}\n")
    config = load(Experiment, path, {"data.splits": "c,~/d"})
    assert config.data == Data(data_dir="/somewhere/LibriSpeech", splits=("c", "/somewhere/d"))
    assert config.teacher == Teacher("/somewhere/model")


@pytest.mark.parametrize(
    ("key", "word", "expected"),
    [
        ("optimizer.schedule.peak", "1e-3", 1e-3),
        ("optimizer.schedule.warmup_steps", "7", 7),
        ("optimizer.clip_norm", "null", None),
        ("optimizer.clip_norm", "None", None),
        ("optimizer.clip_norm", "2", 2.0),
        ("data.splits", "a,b", ("a", "b")),
        ("data.splits", "[a, b]", ("a", "b")),
        ("data.splits", "a", ("a",)),
        ("data.splits", "", ()),
        ("data.image_size", "4,5", (4, 5)),
        ("data.shuffle", "False", False),
        ("data.shuffle", "true", True),
        ("data.shuffle", "0", False),
        ("data.shuffle", "1", True),
        ("data.data_dir", "12", "12"),
        ("data.data_dir", "", ""),
        ("data.splits", ["x", "y"], ("x", "y")),
        ("data.shuffle", False, False),
    ],
)
def test_conversion_from_the_command_line(key, word, expected):
    config = load(Experiment, None, {key: word})
    for part in key.split("."):
        config = getattr(config, part)
    assert config == expected
    assert type(config) is type(expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: {rate_hz: 16000.0}", ["an integer", "data.rate_hz", "16000.0"]),
        ("data: {rate_hz: true}", ["an integer", "data.rate_hz"]),
        ("data: {rate_hz: '16000'}", ["an integer", "data.rate_hz"]),
        ("data: {rate_hz: null}", ["an integer", "data.rate_hz", "null"]),
        ("data: {shuffle: 1}", ["true or false", "data.shuffle"]),
        ("data: {shuffle: 'true'}", ["true or false", "data.shuffle"]),
        ("data: {data_dir: 12}", ["a string", "data.data_dir", "quotes"]),
        ("data: {data_dir: 2024-01-01}", ["a string", "data.data_dir", "quotes"]),
        ("data: {splits: train}", ["a list", "data.splits"]),
        ("data: {splits: [train, 1]}", ["a string", "data.splits"]),
        ("data: {image_size: [1, 2, 3]}", ["a list of 2", "data.image_size"]),
        ("optimizer: {name: rmsprop}", ["adam, sgd", "optimizer.name", "rmsprop"]),
        ("optimizer: {schedule: {peak: true}}", ["a number", "optimizer.schedule.peak"]),
        ("optimizer: {schedule: {peak: fast}}", ["a number", "optimizer.schedule.peak"]),
        ("optimizer: {schedule: {peak: .nan}}", ["a number", "optimizer.schedule.peak"]),
        ("optimizer: {schedule: 3}", ["optimizer.schedule", "warmup_steps"]),
        ("optimizer: {clip_norm: -1.0}", ["clip_norm > 0"]),
        ("data:", ["under data", "null", "shuffle"]),
    ],
)
def test_wrong_types_name_key_and_value(write, text, words):
    path = write(text)
    message = failure(Experiment, path)
    assert all(word in message for word in words), message
    assert str(path) in message or "clip_norm > 0" in message


def test_a_wrong_value_in_the_file_is_an_error_even_where_it_is_overridden(write):
    failure(Experiment, write("data: {rate_hz: fast}"), {"data.rate_hz": "8000"})


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("data.rate_hz", "8000.0"),
        ("data.rate_hz", "true"),
        ("data.rate_hz", True),
        ("data.shuffle", "maybe"),
        ("data.shuffle", 1),
        ("data.image_size", "1"),
        ("data.image_size", "1,x"),
        ("data.rate_hz", "null"),
        ("data.data_dir", None),
        ("optimizer.clip_norm", "nan"),
        ("optimizer.schedule.peak", 10**400),
    ],
)
def test_wrong_words_on_the_command_line(key, word):
    message = failure(Experiment, None, {key: word})
    assert key in message and "command line" in message


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("optimiser: {name: sgd}", "optimiser", "Use optimizer."),
        ("data: {rate_hertz: 1}", "data.rate_hertz", "Use data.rate_hz."),
        ("optimizer: {schedule: {warmup: 1}}", "optimizer.schedule.warmup", "warmup_steps."),
        ("optimizer: {warmup_steps: 1}", "optimizer.warmup_steps", "optimizer.schedule.warmup_s"),
        ("zzz: 1", "zzz", "Use one of: data, optimizer, teacher."),
        ("data: {zzzzzzzz: 1}", "data.zzzzzzzz", "data.splits, data.image_size"),
        ("data.rate_hz: 1", "data.rate_hz", "Write rate_hz indented under data."),
        ("data: {true: 1}", "data.True", "Use "),
        ("dato: 1", "dato", "Use data."),
        # What holds keys and values is no leaf, however alike.
        ("optimizer: {clip_norms: {a: 1}}", "optimizer.clip_norms", "optimizer.clip_norm, opt"),
        (
            "rate_hz: {a: 1}",
            "rate_hz",
            "teacher, or use the config with the program of its family.",
        ),
    ],
)
def test_unknown_keys_name_the_nearest(write, text, key, near):
    path = write(text)
    message = failure(Experiment, path)
    assert f"Received: {key}." in message
    assert near in message
    assert str(path) in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("optimizer: {clip_norms: 1, b: 2, c: 3}", True),
        ("a: 1\nb: 2\ndata: {}", True),
        ("data: {rate_hertz: 1}", False),
        ("optimizer: {clip_norms: 1, name: sgd}", False),
    ],
)
def test_a_config_of_another_program_is_told(write, text, told):
    """Most of its keys are unknown."""
    words = ", or use the config with the program of its family."
    assert failure(Experiment, write(text)).endswith(words) == told


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("data.rate", "Use data.rate_hz."),
        ("rate_hz", "Use data.rate_hz."),
        ("optimizer", "Use one of: optimizer.name, optimizer.clip_norm, optimizer.schedule."),
        ("", "Use one of: data, optimizer, teacher."),
    ],
)
def test_unknown_overrides_name_the_nearest(key, near):
    message = failure(Experiment, None, {key: "1"})
    assert near in message and "command line" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data:\n  rate_hz: [1\nother: 2\n", ["line "]),
        ("a: 1\n\tb: 2\n", ["line 2"]),
        ("data:\n  rate_hz: 1\n  rate_hz: 2\n", ["line 3", "given twice"]),
        ("data: !!python/object:os.system {}\n", ["line 1"]),
        ("data: !!map [1, 2]\n", ["line 1"]),
        ("data: 2020-13-45\n", ["month"]),
        ("data: \x00\n", ["YAML"]),
        ("a: 1\n---\nb: 2\n", ["line "]),
        ("[" * 600, ["YAML"]),
        ("data:\n  data_dir: é\n".encode("latin-1"), ["UTF-8", "line 2"]),
        ("", ["data, optimizer, teacher", "empty"]),
        ("# nothing\n", ["data, optimizer, teacher", "empty"]),
        ("{}", ["data, optimizer, teacher"]),
        ("- 1\n- 2\n", ["data, optimizer, teacher"]),
        ("just words", ["data, optimizer, teacher"]),
    ],
)
def test_broken_files(write, text, words):
    path = write(text)
    message = failure(Experiment, path)
    assert str(path) in message
    assert all(word in message for word in words), message


def test_missing_file_and_folder(tmp_path):
    assert "No such file" in failure(Experiment, tmp_path / "no.yml")
    assert "directory" in failure(Experiment, tmp_path)


def test_byte_order_mark_windows_lines_and_anchors(write):
    config = load(Experiment, write(b"\xef\xbb\xbfdata: &a\r\n  rate_hz: 8000\r\n"))
    assert config.data.rate_hz == 8000
    merged = "optimizer: &o {name: sgd}\nteacher: {<<: *o}\n"
    assert "teacher.name" in failure(Experiment, write(merged))


def test_keys_without_a_default_are_all_named(write):
    message = failure(Required, write("size: 2"))
    assert "name" in message and "teacher.path" in message and "weight" not in message
    assert "name, teacher.path" in failure(Required, None)
    config = load(Required, None, {"name": "a", "teacher.path": "b"})
    assert config == Required("a", Teacher("b"))


def test_optional_section(write):
    assert load(Experiment, write("teacher: null\n")).teacher is None
    assert load(Experiment, write("teacher: {path: x}\n")).teacher == Teacher("x")
    assert load(Experiment, None, {"teacher.path": "x"}).teacher == Teacher("x")
    assert load(Experiment, write("teacher:\n"), {"teacher.path": "x"}).teacher == Teacher("x")
    assert "teacher.path" in failure(Experiment, write("teacher: {weight: 1.0}\n"))


def test_leaf_keys():
    assert leaf_keys(Experiment) == {
        "data.splits": tuple[str, ...],
        "data.image_size": tuple[int, int],
        "data.shuffle": bool,
        "data.rate_hz": int,
        "data.data_dir": str,
        "optimizer.name": Literal["adam", "sgd"],
        "optimizer.clip_norm": float | None,
        "optimizer.schedule.peak": float,
        "optimizer.schedule.warmup_steps": int,
        "teacher.path": str,
        "teacher.weight": float,
    }


def test_values_by_dotted_key():
    values = leaf_values(load(Experiment, None, {"data.rate_hz": "8000"}))
    assert values == {
        "data.splits": ["train"],
        "data.image_size": [2, 3],
        "data.shuffle": True,
        "data.rate_hz": 8000,
        "data.data_dir": "",
        "optimizer.name": "adam",
        "optimizer.clip_norm": None,
        "optimizer.schedule.peak": 0.5,
        "optimizer.schedule.warmup_steps": 10,
        "teacher": None,
    }


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"optimizer.clip_norm": 1e-9, "data.splits": (), "data.shuffle": False},
        {"optimizer.schedule.peak": float("inf"), "data.data_dir": "null"},
        {"data.data_dir": "été: #1 'x'\n\ty", "data.splits": ("no", "1e-3", "", "~")},
        {"teacher.path": "2020-01-01"},
    ],
)
def test_to_yaml_round_trips(write, overrides):
    # Python values, not words: "null" has to stay a string.
    config = load(Experiment, None, overrides)
    assert load(Experiment, write(to_yaml(config))) == config


def test_unsupported_field_type_is_a_programmers_error(write):
    @dataclass(frozen=True)
    class Odd:
        value: bytes = b""

    with pytest.raises(TypeError, match="bytes"):
        load(Odd, None, {"value": "x"})


def test_several_anchors_may_be_merged_and_their_keys_given_again(write):
    text = (
        "optimizer: {schedule: &a {peak: 0.25}}\n"
        "data: &b {rate_hz: 8000, shuffle: false}\n"
        "teacher:\n  <<: {path: x}\n  <<: {weight: 2.0}\n  weight: 3.0\n"
    )
    config = load(Experiment, write(text))
    assert config.teacher == Teacher("x", 3.0)
    assert "'weight' is given twice" in failure(
        Experiment, write("teacher: {path: x, weight: 2.0, weight: 3.0}\n")
    )


@dataclass(frozen=True)
class Mode:
    mode: str = "fast"


@dataclass(frozen=True)
class Model:
    layers: int = 1


@dataclass(frozen=True)
class Whole:
    model: Model = field(default_factory=Model)
    scale: Mode = field(default_factory=Mode)


def test_a_misspelt_section_is_no_key_of_another_one(write):
    assert "Use model." in failure(Whole, write("modle: {layers: 2}"))


def test_a_config_of_another_family_is_answered_with_its_program(project):
    path = project / "configs" / "vision" / "smoke.yml"
    with refused(f"a config of conformer. Received: {path}, a config of vision.") as caught:
        load_config(path, {})
    assert "python -m vision.train" in str(caught.value)
