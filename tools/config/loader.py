"""Loads YAML configs into frozen dataclasses. Unknown keys and wrong types are errors."""

import dataclasses
import difflib
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tools.config.originals import config_answer
from tools.config.values import Mismatch, convert, optional, show
from tools.errors import UserError
from tools.ranges import check_range

Config = TypeVar("Config")
COMMAND_LINE = "on the command line"


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, with an error for duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Builds a mapping; raises ConstructorError for duplicate keys, except those from `<<`."""
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key_node, yaml.ScalarNode) and key_node.value != "<<":
                if key_node.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key_node.value!r} is given twice", key_node.start_mark
                    )
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _section_class(field_type: Any) -> type | None:
    """Returns the dataclass of a field of type `Section` or `Section | None`; else None."""
    inner = optional(field_type) or field_type
    return inner if dataclasses.is_dataclass(inner) else None


def leaf_keys(config_class: type) -> dict[str, Any]:
    """Returns the type of every value of a config class by dotted key, in definition order."""
    leaves = {}
    for name, field_type in _field_types(config_class).items():
        section = _section_class(field_type)
        if section is None:
            leaves[name] = field_type
        else:
            leaves |= {f"{name}.{key}": kind for key, kind in leaf_keys(section).items()}
    return leaves


def _field_types(config_class: type) -> dict[str, Any]:
    """Returns the resolved types of a dataclass's fields by name, in definition order."""
    hints = typing.get_type_hints(config_class)
    return {field.name: hints[field.name] for field in dataclasses.fields(config_class)}


def _nearest(key: str, valid: list[str]) -> str | None:
    """Returns the valid key most similar to `key`, or None if none is similar.

    The right name in a wrong section counts as similar.
    """
    if not valid:
        return None

    def likeness(candidate: str) -> float:
        whole = difflib.SequenceMatcher(None, key, candidate).ratio()
        last = difflib.SequenceMatcher(None, key.split(".")[-1], candidate.split(".")[-1]).ratio()
        return max(0.9 * last, whole) + 0.1 * whole

    best = max(valid, key=likeness)
    return best if likeness(best) > 0.7 else None


def _unknown(
    key: str,
    config_class: type,
    origin: str,
    *,
    is_section: bool = False,
    is_foreign: bool = False,
) -> UserError:
    """Returns the error for an unknown key.

    Args:
        key: dotted name of the key.
        config_class: class of the config.
        origin: where the key was found, for the message.
        is_section: whether its value is a mapping.
        is_foreign: whether most keys beside it are unknown, too.
    """
    leaves = list(leaf_keys(config_class))
    sections = {leaf.rpartition(".")[0] for leaf in leaves if "." in leaf}
    # Suggest sections of the same depth for a misspelt section, and also leaves for a leaf.
    alike = [name for name in sections if name.count(".") == key.count(".")]
    near = _nearest(key, alike if is_section else leaves + alike)
    parent, _, name = key.rpartition(".")
    if near == key and key in leaves:
        do = f"Write {name} indented under {parent.replace('.', ', ')}"
    elif near is None or near == key:
        inside = f"{key}." if near else f"{parent}." if parent in sections else ""
        below = (leaf.removeprefix(inside) for leaf in leaves if leaf.startswith(inside))
        children = dict.fromkeys(inside + name.partition(".")[0] for name in below)
        do = "Use one of: " + ", ".join(children)
    else:
        do = f"Use {near}"
    if is_foreign or (near in (None, key) and is_section and not parent):
        do += ", or use the config with the program of its family"
    return UserError.expected(f"a known key {origin}", key, do)


_CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def _check_family(config_class: type, path: Path) -> None:
    """Raises UserError if a file of the project's `configs/` is in the folder of another family."""
    family, folder = config_class.__module__.partition(".")[0], path.resolve().parent
    if folder.parent == _CONFIGS and (_CONFIGS / family).is_dir() and folder.name != family:
        raise UserError.expected(
            f"a config of {family}",
            f"{path}, a config of {folder.name}",
            f"Use it with python -m {folder.name}.train, or choose one in configs/{family}",
        )


class _Builder:
    """Builds the sections of one config and collects the missing keys."""

    def __init__(self, root: type, origin: str, overrides: Mapping[str, object]):
        self.root, self.origin, self.overrides = root, origin, overrides
        self.missing: list[str] = []

    def convert(self, key: str, value: object, field_type: Any, origin: str) -> object:
        """Converts one value; raises a UserError that names the key and its origin."""
        try:
            return convert(value, field_type, textual=origin == COMMAND_LINE)
        except Mismatch as mismatch:
            quotes = field_type is str and origin != COMMAND_LINE and value is not None
            raise UserError.expected(
                f"{mismatch} for {key} {origin}",
                show(value),
                f"Put the value of {key} in quotes" if quotes else f"Correct {key}",
            ) from None

    def build(self, section: type, given: object, base: object, prefix: str) -> Any:
        """Builds one section.

        Args:
            section: dataclass of the section.
            given: the section's mapping in the file; `{}` if it is not in the file.
            base: instance with the default values; None uses the defaults of the fields.
            prefix: dotted key of the section, ending in a dot; empty at the root.

        Returns:
            An instance of the dataclass, or None if keys are missing.
        """
        if not isinstance(given, Mapping):
            raise UserError.expected(
                f"keys and values under {prefix.rstrip('.') or 'the top level'} {self.origin}",
                show(given),
                "Use some of: " + ", ".join(_field_types(section)),
            )
        kinds = _field_types(section)
        for key in given:
            if key not in kinds:
                is_section = isinstance(given[key], Mapping)
                unknown = sum(name not in kinds for name in given)
                kind = {"is_section": is_section, "is_foreign": unknown > max(1, len(given) / 2)}
                raise _unknown(f"{prefix}{key}", self.root, self.origin, **kind)
        values, num_missing = {}, len(self.missing)
        for field in dataclasses.fields(section):
            key, kind = prefix + field.name, kinds[field.name]
            default = _default(field) if base is None else getattr(base, field.name)
            nested = _section_class(kind)
            if nested is not None:
                # An optional section stays None unless the file or the command line sets it.
                content = given.get(field.name, None if default is None else {})
                if content is None and optional(kind):
                    if not any(name.startswith(f"{key}.") for name in self.overrides):
                        values[field.name] = None
                        continue
                    content = {}
                base_section = None if default is MISSING else default
                values[field.name] = self.build(nested, content, base_section, f"{key}.")
                continue
            if field.name in given:
                default = self.convert(key, given[field.name], kind, self.origin)
            if key in self.overrides:
                default = self.convert(key, self.overrides[key], kind, COMMAND_LINE)
            if default is MISSING:
                self.missing.append(key)
            else:
                check_range(field, key, default)
            values[field.name] = default
        if len(self.missing) > num_missing:
            return None
        config = section(**values)
        if hasattr(config, "validate"):
            config.validate()
        return config


def _default(field: dataclasses.Field) -> object:
    """Returns a field's default, or MISSING if it is required."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


def read_mapping(path: Path, sections: list[str]) -> Mapping:
    """Reads a YAML file whose top level is a mapping.

    Args:
        path: YAML file.
        sections: names of the valid sections, for messages.

    Raises:
        UserError: the file cannot be read, is not valid YAML, or is empty.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = yaml.load(text, Loader=_StrictLoader)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError.expected(
            f"UTF-8 text in {path}", f"another encoding in line {line}", "Save it as UTF-8"
        ) from None
    except OSError as error:
        raise UserError.expected(
            f"a readable config file at {path}",
            error.strerror,
            config_answer(path) or "Give the path of a YAML file, such as those in configs",
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        problem = error.problem or error.context
        raise UserError.expected(
            f"valid YAML in {path}", f"{where}{problem}", "Correct that line"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # ValueError: an invalid scalar that looks like a date or number, such as 2020-13-45.
        problem = str(error).splitlines()[0]
        raise UserError.expected(f"valid YAML in {path}", problem, "Correct the file") from None
    if not isinstance(content, Mapping) or not content:
        raise UserError.expected(
            f"the sections {', '.join(sections)} in {path}",
            "an empty file" if content is None else show(content),
            "Write at least one of them",
        )
    return content


def load(
    config_class: type[Config],
    path: str | Path | None,
    overrides: Mapping[str, object] | None = None,
    translate: Callable[[Mapping], Mapping] = lambda content: content,
) -> Config:
    """Loads a config. Overrides take precedence over the file, and the file over the defaults.

    A config class may define `validate(self) -> None`, which raises UserError. It is called for
    every section, inner sections first.

    Args:
        config_class: frozen dataclass. A field whose type is a dataclass is a section. Other field
            types: int, float, bool, str, `tuple[T, ...]`, `tuple[T, T]`, `Literal[...]`,
            `T | None`.
        path: YAML file; None uses the defaults only.
        overrides: values by dotted key. Strings are parsed as on the command line: "1e-3", "true",
            "a,b" for a list, "null".
        translate: function that returns the content of the file in the sections of `config_class`.

    Returns:
        An instance of `config_class`.

    Raises:
        UserError: the file cannot be read or is empty, a key is unknown or missing, or a value has
            the wrong type or is out of range.
    """
    if path is not None:
        _check_family(config_class, Path(path))
    overrides = dict(overrides or {})
    leaves = leaf_keys(config_class)
    for key in overrides:
        if key not in leaves:
            raise _unknown(key, config_class, COMMAND_LINE)
    given = {}
    if path is not None:
        given = translate(read_mapping(Path(path), list(_field_types(config_class))))
    builder = _Builder(config_class, "in the config" if path is None else f"in {path}", overrides)
    config = builder.build(config_class, given, base=None, prefix="")
    if builder.missing:
        raise UserError.expected(
            f"a value for each key without a default {builder.origin}",
            f"no {', '.join(builder.missing)}",
            "Add the missing keys",
        )
    return config


def leaf_values(config: object) -> dict[str, object]:
    """Returns every value of a config by dotted key, with tuples as lists."""
    values = {}
    for name, value in _plain(config).items():
        nested = getattr(config, name)
        if dataclasses.is_dataclass(nested):
            values |= {f"{name}.{key}": leaf for key, leaf in leaf_values(nested).items()}
        else:
            values[name] = value
    return values


def nested(values: Mapping[str, object]) -> dict[str, Any]:
    """Returns values by dotted key as sections inside sections."""
    content: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        section = content
        for one in sections:
            section = section.setdefault(one, {})
        section[name] = value
    return content


def to_yaml(config: object) -> str:
    """Returns a config as YAML. `load` of this YAML returns an equal config."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)


def _plain(value: object) -> object:
    """Returns a value with sections converted to dicts and tuples to lists."""
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
