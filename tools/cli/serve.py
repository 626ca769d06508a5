"""Serves models over HTTP: the REST interface of TensorFlow Serving, and transcriptions."""

import contextlib
import functools
import ipaddress
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tools import families
from tools.config.command_line import CommandLine, run
from tools.config.making_options import from_flags
from tools.conversion.machine import num_cores
from tools.errors import UserError
from tools.inference.flags import add_conversion_flags
from tools.inference.opening import restrict_devices
from tools.inference.options import RunnerOptions, check_seconds
from tools.serving.allocator import return_freed_memory
from tools.serving.batching import BatchingOptions
from tools.serving.model_config import MODELS_CONFIG, labels_of, merged
from tools.serving.repository import Labels, Open, Repository
from tools.serving.served_model import ServedModel
from tools.serving.warm_up import parse_seconds, warm_up

if TYPE_CHECKING:
    from tools.serving.metrics import Metrics

_PROJECT = Path(__file__).resolve().parents[2]
# The models that are served where none is named.
_BUNDLED = {"conformer": "conformer/pretrained/digits", "photos": "vision/pretrained/photos"}
_BATCHING = BatchingOptions()
_MAX_SECONDS = 14400.0


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
    about = "Labels of versions, such as conformer:stable=3, separated by commas."
    flags.string("version_labels", "", about)
    flags.group("Server")
    flags.integer("rest_api_port", 8501, "Port.")
    flags.integer("port", 0, "Port of TensorFlow Serving's gRPC interface; 0: none.")
    flags.integer("workers", 1, "Number of processes that share the ports, each with its models.")
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
    about = "Lengths of sounds, such as 1:8, for which converted models are prepared at the start."
    flags.string("warm_up_seconds", "", about, default_text="none")
    about = "Runs SavedModels in TensorFlow instead of converted models."
    flags.boolean("run_eagerly", False, about)
    flags.integer("threads", None, "Threads of the runtime.", default_text="chosen by the runtime")
    add_conversion_flags(flags, longest_sound=f"{_MAX_SECONDS:g}")
    return flags


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    values, places = command_line().parse(argv)
    batching = _batching_options(values)
    seconds = parse_seconds(values.warm_up_seconds)
    keys = _keys(values)
    folders = _folders(places, values.model_root)
    aliases = _by_name(_words(values.alias), "--alias NAME=MODEL")
    _check_aliases(aliases, folders, values.model_root)
    labels = _labels(values)
    labels()  # errors are reported before models are loaded
    restrict_devices(values.visible_devices)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return_freed_memory()
    root = Path(values.model_root) if values.model_root else None
    runner = from_flags(
        RunnerOptions,
        values,
        batch_size=batching.max_batch_size,
        threads=_threads(values),
        max_seconds=_max_seconds(values),
    )
    with contextlib.ExitStack() as stack:
        # Before anything imports prometheus_client.
        counts = stack.enter_context(_counts(values.workers))
        from tools.serving.http_server import listen  # takes 0.3 s: after the flags

        if values.port:
            _check_grpc(values)
        connection = stack.enter_context(listen(values.host, values.rest_api_port))
        address = f"http://{values.host}:{connection.getsockname()[1]}"

        def work(ready: Callable[[str], None]) -> int:
            """Loads the models and answers requests; in each of several processes."""
            from tools.serving.app import create_app
            from tools.serving.http_server import serve
            from tools.serving.metrics import Metrics
            from tools.serving.requests import RequestLimits
            from tools.serving.server import AppOptions

            metrics = Metrics(counts)
            options = AppOptions(
                request_seconds=values.request_seconds,
                limits=RequestLimits(max_bytes=values.max_request_mb * 1024 * 1024),
                api_keys=keys,
                cors_origins=_words(values.cors_origins),
                aliases=aliases,
                max_enqueued=batching.max_enqueued,
            )
            services = _services(values)
            opener = _opener(runner, batching, metrics, seconds)
            with contextlib.closing(Repository(opener, folders, root, labels=labels)) as models:
                _load(models, folders, root)
                if root is not None:
                    models.watch(values.poll_seconds)
                app = create_app(models, options, metrics, services=services)
                serve(
                    app,
                    connection,
                    drain_seconds=values.drain_seconds,
                    on_start=lambda: ready(", ".join(models.names)),
                )
            if models.is_loading:  # in a runtime that cannot be interrupted
                logging.shutdown()
                os._exit(0)
            return 0

        def started(names: str) -> None:
            print(f"serving {names} on {address}", file=sys.stderr, flush=True)

        if counts is None:
            return work(started)
        from tools.serving.workers import Workers

        def ended(pid: int) -> None:
            from prometheus_client.multiprocess import mark_process_dead

            mark_process_dead(pid, counts)

        workers = Workers(work, values.workers, ended=ended, ending=connection.close)
        return workers.run(started)


@contextlib.contextmanager
def _counts(workers: int) -> Iterator[str | None]:
    """Makes a folder in which processes share their counts; None for a single process.

    The processes leave the `with` statement, too, and only the first one removes the folder.
    """
    if workers == 1:
        yield None
        return
    first, folder = os.getpid(), tempfile.mkdtemp(prefix="counts-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read when prometheus_client is imported
    try:
        yield folder
    finally:
        if os.getpid() == first:
            shutil.rmtree(folder, ignore_errors=True)


def _threads(values: SimpleNamespace) -> int | None:
    """Returns the threads of the runtime: several processes divide the cores."""
    if values.threads is None and values.workers > 1:
        return max(1, num_cores() // values.workers)
    return values.threads


def _max_seconds(values: SimpleNamespace) -> float | None:
    """Returns the length of the longest sound; None: that of the shape of the model."""
    check_seconds(values.max_seconds)
    is_chosen = values.max_seconds is not None or not values.enable_dim_range
    return values.max_seconds if is_chosen else _MAX_SECONDS


def _check_grpc(values: SimpleNamespace) -> None:
    """Checks that the gRPC interface can be opened."""
    from tools.serving.http_server import listen

    missing = [name for name in ("grpc", "tensorflow_serving") if not find_spec(name)]
    if missing:
        raise UserError.expected(
            "the packages of the extra grpc with --port",
            f"no {' and no '.join(missing)}",
            "Run bash run_scripts/setup.sh --grpc",
        )
    listen(values.host, values.port, "port").close()


def _services(values: SimpleNamespace) -> list:
    """Returns the interfaces besides HTTP."""
    if not values.port:
        return []
    from tools.serving.grpc_server import grpc_service  # imports TensorFlow

    return [
        functools.partial(
            grpc_service,
            host=values.host,
            port=values.port,
            shares_port=values.workers > 1,
            drain_seconds=values.drain_seconds,
        )
    ]


def _labels(values: SimpleNamespace) -> Callable[[], Labels]:
    """Returns a function that returns the labels of the model config file and of the flag."""
    given: dict[str, dict[str, int]] = {}
    for text in _words(values.version_labels):
        found = re.fullmatch(r"([^:=]+):([^:=/]+)=(\d{1,18})", text, re.ASCII)
        if found is None:
            expected = "--version_labels NAME:LABEL=VERSION"
            raise UserError.expected(expected, text, "Correct the flag")
        given.setdefault(found[1], {})[found[2]] = int(found[3])

    def labels() -> Labels:
        if values.model_root is None:
            return given
        return merged(labels_of(Path(values.model_root) / MODELS_CONFIG), given)

    return labels


def _load(repository: Repository, folders: Mapping[str, Path], root: Path | None) -> None:
    """Loads the models. All that are named must load, and at least one of a root."""
    repository.scan()
    if not repository.known and root is not None:
        raise UserError.expected(
            "folders NAME/VERSION/ in --model_root, such as conformer/1",
            f"none in {root}",
            "Publish a model with python -m tools.cli.publish",
        )
    missing = sorted(set(folders) - set(repository.names))
    if missing or not repository.names:
        raise UserError.expected(
            "models that can be loaded",
            f"{', '.join(missing) or 'none'}, see the message above",
            "Correct their folders",
        )


def _opener(
    runner: RunnerOptions,
    batching: BatchingOptions,
    metrics: "Metrics",
    seconds: tuple[float, float] | None,
) -> Open:
    """Returns the function that opens models for the repository."""

    def open_model(name: str, version: int, folder: Path) -> ServedModel:
        session = families.open_session(folder, runner)
        if seconds is not None:
            warm_up(session, seconds, batching.max_batch_size)
        model = ServedModel(name, version, session, batching, report=metrics.batches_of(name))
        metrics.watch_queue(name, model)
        return model

    return open_model


def _folders(places: list[str], root: str | None) -> dict[str, Path]:
    """Returns the folders of the named models; the bundled ones if none are named."""
    if root is not None and not Path(root).is_dir():
        raise UserError.expected("a folder as --model_root", root, "Correct the path")
    if not places and root is None:
        return {name: _PROJECT / folder for name, folder in _BUNDLED.items()}
    given = _by_name(places, "models as NAME=DIR")
    return {name: Path(folder) for name, folder in given.items()}


def _check_aliases(aliases: Mapping[str, str], folders: Mapping[str, Path], root: str | None):
    """Checks that each further name is a new one of a model. Those of a root can come later."""
    for name, model in aliases.items():
        hides = name in folders or (root is not None and Path(root, name).is_dir())
        unknown = model in aliases or (root is None and model not in folders)
        if hides or unknown:
            raise UserError.expected(
                "--alias NAME=MODEL with a new name and the name of a model",
                f"{name}={model}",
                "Correct the flag",
            )


def _by_name(texts: Sequence[str], expected: str) -> dict[str, str]:
    """Returns the values of texts `NAME=VALUE`, of which each has another name."""
    found: dict[str, str] = {}
    for text in texts:
        name, value = _pair(text, expected)
        if name in found:
            raise UserError.expected(f"{expected}, each name once", f"{name} twice", "Correct it")
        found[name] = value
    return found


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
        ("workers", 1),
        ("port", 0),
    ):
        if not getattr(values, name) >= least:
            raise UserError.expected(
                f"--{name} >= {least}", getattr(values, name), f"Correct --{name}"
            )
    if 0 < values.port == values.rest_api_port:
        raise UserError.expected(
            "a --port other than --rest_api_port", values.port, "Choose another --port"
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
