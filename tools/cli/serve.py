"""Serves models over HTTP: the REST interface of TensorFlow Serving, and transcriptions."""

import contextlib
import functools
import ipaddress
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tools import families
from tools.config.command_line import CommandLine, run
from tools.config.making_options import from_flags
from tools.errors import UserError
from tools.inference.flags import add_conversion_flags
from tools.inference.opening import restrict_devices
from tools.inference.options import RunnerOptions
from tools.serving.batching import BatchingOptions
from tools.serving.metrics import Metrics
from tools.serving.repository import Open, Repository
from tools.serving.served_model import ServedModel

_PROJECT = Path(__file__).resolve().parents[2]
# The models that are served where none is named.
_BUNDLED = {"conformer": "conformer/pretrained/digits", "photos": "vision/pretrained/photos"}
_BATCHING = BatchingOptions()


def command_line() -> CommandLine:
    """Returns the flags of the program."""
    flags = CommandLine(
        "tools.cli.serve",
        "Serves models over HTTP, with the REST interface of TensorFlow Serving.",
        "[FLAGS] [NAME=DIR ...]",
        example="conformer=exports/m --rest_api_port=8501",
    )
    flags.group("Model")
    about = "Folder with NAME/VERSION/ folders of models. New versions are loaded while it serves."
    flags.string("model_root", None, about, default_text="none")
    about = "Further names of models, such as whisper-1=conformer, separated by commas."
    flags.string("alias", "", about)
    about = "Seconds between two looks into --model_root."
    flags.number("poll_seconds", 2.0, about)
    flags.group("Server")
    flags.integer("rest_api_port", 8501, "Port.")
    flags.string("host", "127.0.0.1", "Interface to listen on; 0.0.0.0 listens on all of them.")
    flags.string("api_key_file", None, "File of API keys, one per line.", default_text="none")
    flags.boolean("insecure", False, "Allows other machines to use the server without a key.")
    about = "Web pages of these origins may use the server; separated by commas."
    flags.string("cors_origins", "", about)
    flags.integer("max_request_mb", 256, "Largest request in MiB.")
    flags.number("request_seconds", 300.0, "Longest time of a request in the queue.")
    flags.number("drain_seconds", 30.0, "Longest time for the last answers after SIGTERM.")
    flags.group("Runtime")
    about = "Largest number of inputs that run together."
    flags.integer("max_batch_size", _BATCHING.max_batch_size, about)
    about = "Milliseconds that an input waits for others when no batch runs."
    flags.number("batch_timeout_ms", _BATCHING.batch_timeout_ms, about)
    flags.integer("max_enqueued", _BATCHING.max_enqueued, "Largest number of inputs in a queue.")
    about = "Runs SavedModels in TensorFlow instead of converted models."
    flags.boolean("run_eagerly", False, about)
    flags.integer("threads", None, "Threads of the runtime.", default_text="chosen by the runtime")
    add_conversion_flags(flags)
    return flags


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    values, places = command_line().parse(argv)
    from tools.serving.app import create_app  # takes 0.3 s: after the flags
    from tools.serving.http_server import listen, serve
    from tools.serving.requests import RequestLimits
    from tools.serving.server import AppOptions

    batching = _batching_options(values)
    keys = _keys(values)
    folders = _folders(places, values.model_root)
    aliases = dict(_pair(pair, "--alias NAME=MODEL") for pair in _words(values.alias))
    restrict_devices(values.visible_devices)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    metrics = Metrics()
    runner = from_flags(RunnerOptions, values, batch_size=batching.max_batch_size)
    root = Path(values.model_root) if values.model_root else None
    options = AppOptions(
        request_seconds=values.request_seconds,
        limits=RequestLimits(max_bytes=values.max_request_mb * 1024 * 1024),
        api_keys=keys,
        cors_origins=_words(values.cors_origins),
        aliases=aliases,
    )
    with listen(values.host, values.rest_api_port) as connection:
        repository = Repository(_opener(runner, batching, metrics), folders, root)
        with contextlib.closing(repository):
            _load(repository, folders)
            if root is not None:
                repository.watch(values.poll_seconds)
            address = f"http://{values.host}:{connection.getsockname()[1]}"

            def started() -> None:
                names = ", ".join(repository.names)
                print(f"serving {names} on {address}", file=sys.stderr, flush=True)

            app = create_app(repository, options, metrics)
            serve(app, connection, drain_seconds=values.drain_seconds, on_start=started)
    return 0


def _load(repository: Repository, folders: Mapping[str, Path]) -> None:
    """Loads the models. All that are named must load, and at least one of a root."""
    repository.scan()
    missing = sorted(set(folders) - set(repository.names))
    if missing or not repository.names:
        raise UserError.expected(
            "models that can be loaded",
            f"{', '.join(missing) or 'none'}, see the message above",
            "Correct their folders",
        )


def _opener(runner: RunnerOptions, batching: BatchingOptions, metrics: Metrics) -> Open:
    """Returns the function that opens models for the repository."""

    def open_model(name: str, version: int, folder: Path) -> ServedModel:
        session = families.open_session(folder, runner)
        model = ServedModel(name, version, session, batching, report=metrics.batches_of(name))
        metrics.watch_queue(name, functools.partial(getattr, model, "num_enqueued"))
        return model

    return open_model


def _folders(places: list[str], root: str | None) -> dict[str, Path]:
    """Returns the folders of the named models; the bundled ones if none are named."""
    if root is not None and not Path(root).is_dir():
        raise UserError.expected("a folder as --model_root", root, "Correct the path")
    if not places and root is None:
        return {name: _PROJECT / folder for name, folder in _BUNDLED.items()}
    pairs = (_pair(place, "models as NAME=DIR") for place in places)
    return {name: Path(folder) for name, folder in pairs}


def _pair(text: str, expected: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value) or set(name) & set("/:?#%"):
        raise UserError.expected(expected, text, "Correct it")
    return name, value


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _batching_options(values: SimpleNamespace) -> BatchingOptions:
    for name, least in (
        ("max_batch_size", 1),
        ("batch_timeout_ms", 0),
        ("max_enqueued", 1),
        ("max_request_mb", 1),
        ("request_seconds", 0.001),
        ("drain_seconds", 0),
        ("poll_seconds", 0.01),
    ):
        if not getattr(values, name) >= least:
            raise UserError.expected(
                f"--{name} >= {least}", getattr(values, name), f"Correct --{name}"
            )
    return from_flags(BatchingOptions, values)


def _keys(values: SimpleNamespace) -> tuple[str, ...]:
    """Returns the API keys. Other machines may use the server only with a key, or if asked for."""
    if values.api_key_file:
        try:
            lines = Path(values.api_key_file).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError.expected(
                "a readable --api_key_file", f"{values.api_key_file}, {error}", "Correct the path"
            ) from error
        if not lines:
            raise UserError.expected(
                f"keys in {values.api_key_file}", "an empty file", "Write one key per line"
            )
        return tuple(lines)
    if not values.insecure and not _is_loopback(values.host):
        raise UserError.expected(
            f"--api_key_file FILE with --host {values.host}, which other machines can reach",
            "no key",
            "Name a file of keys, or allow it with --insecure",
        )
    return ()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    run(main)
