"""Writing of files and folders so that they appear complete or not at all."""

import contextlib
import errno
import fcntl
import glob
import itertools
import json
import math
import os
import re
import select
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tools.errors import UserError

_FRESH_SECONDS = 3600.0  # another machine may still be writing an unfinished file of this age
_WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_HOME = re.compile(r"~[\w.-]*/")
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
_ESCAPES = {code: repr(chr(code))[1:-1] for code in _CONTROLS}


def expand_home(text: str) -> str:
    """Replaces `~/` or `~NAME/` at the start by the home folder.

    Shells do this only at the start of a word, for example not in `--output=~/model`.
    """
    return os.path.expanduser(text) if _HOME.match(text) else text


def environment_path(name: str) -> str:
    """Returns the path in an environment variable, with `~/` expanded; empty if it is not set."""
    return expand_home(os.environ.get(name, ""))


def folders_above(path: str | os.PathLike[str]) -> frozenset[str]:
    """Returns the real paths of all folders above a path, before and after following its links."""
    named, real = Path(os.path.abspath(path)), Path(os.path.realpath(path))
    return frozenset((*map(os.path.realpath, named.parents), *map(str, real.parents)))


def one_line(path: object) -> str:
    """Returns a path as one line: newlines, tabs and other control characters are escaped."""
    return str(path).translate(_ESCAPES)


def write_text(path: Path, text: str) -> None:
    """Writes a text file: writes a temporary file in the same folder, then renames it.

    Args:
        path: of the file; its folder is created, and an existing file is replaced.
        text: written as UTF-8. Surrogate escapes, as in file names, are written as their bytes.

    Raises:
        UserError: the file cannot be written; an existing file is left unchanged.
    """
    with _new_file(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def result_file(path: Path, suffix: str, known: tuple[str, ...] = (".json", ".tsv")) -> Path:
    """Returns the path of a result file: replaces a known suffix, and appends it otherwise.

    Args:
        path: path from the user. In `results/crop_0.875`, `.875` is part of the name.
        suffix: suffix of the file, such as `.json`.
        known: suffixes that are replaced.
    """
    name = path.name
    if path.suffix.lower() in known:
        name = name[: -len(path.suffix)]
    return path.with_name(name + suffix)


def to_json(content: object, **options: object) -> str:
    """Returns content as JSON. NaN and infinite numbers become null, as JSON has neither.

    Args:
        content: dictionaries, lists and tuples of JSON types.
        options: options of `json.dumps`, such as `indent`.
    """
    return json.dumps(_with_finite_numbers(content), allow_nan=False, **options)


def _with_finite_numbers(content: object) -> object:
    if isinstance(content, Mapping):
        return {_with_finite_numbers(key): _with_finite_numbers(x) for key, x in content.items()}
    if isinstance(content, list | tuple):
        return [_with_finite_numbers(x) for x in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a binary file in the same way as `write_text`."""
    with _new_file(path) as beside:
        beside.write_bytes(content)


def user_cache() -> Path:
    """Returns the folder of this project in the cache of the user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "conformer-zoo"


def check_writable(path: Path) -> None:
    """Checks, before long work, that a result file can be written. Creates the folders above it.

    Raises:
        UserError: the file cannot be written.
    """
    with contextlib.suppress(_Enough), _new_file(path) as beside:
        beside.touch()
        beside.unlink()
        raise _Enough


def check_not_input(path: Path, inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Checks, before work, that a result file does not replace a file that the program reads.

    Args:
        path: result file.
        inputs: files that are read; folders and missing files are ignored.

    Raises:
        UserError: `path` is one of the inputs, also by another name or through a link.
    """
    if path.is_file() and any(os.path.isfile(x) and path.samefile(x) for x in inputs):
        raise UserError.expected(
            "a result file that is no input", one_line(path), "Choose another path"
        )


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError.expected(
        f"room and permission to write {path}",
        error.strerror or error,
        "Free space or choose another path",
    )


class _Enough(Exception):
    """Leaves a `_new_file` block before the file is renamed to its place."""


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; renames it to `path` if the block succeeds."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        if path.exists() and not path.is_file():
            raise UserError.expected("a regular file or a new path", path, "Choose another path")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_overs(path)
        yield beside
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise _cannot_write(path, error) from error


@contextlib.contextmanager
def new_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary empty folder; renames it to `path` if the block succeeds.

    Args:
        path: must not exist or must be an empty folder.
        replace: allows a folder with content at `path`; it is deleted after the block.

    Raises:
        UserError: something cannot be written; the temporary folder is removed.
    """
    beside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.unfinished"
    old = beside.with_suffix(".old")
    descriptor = None
    try:
        beside.mkdir(parents=True)
        descriptor = os.open(beside, os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # marks it as being written
        _remove_left_overs(path)
        yield beside
        if replace and path.exists():
            path.rename(old)
        try:
            beside.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    except OSError as error:
        raise UserError.expected(
            f"room and permission to write {path}",
            error.strerror or error,
            "Free space or name another folder",
        ) from error
    finally:
        if descriptor is not None:
            os.close(descriptor)
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _remove_left_overs(path: Path) -> None:
    """Removes unfinished files of killed processes; keeps those that are still being written."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.unfinished"):
        with contextlib.suppress(OSError):
            if _is_left(left):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _is_left(left: Path) -> bool:
    """Returns whether no process writes this unfinished file or folder any more."""
    if time.time() - left.stat().st_mtime < _FRESH_SECONDS:
        return False
    if not left.is_dir():
        number = left.name.split(".")[-2]
        return number.isdigit() and not Path(f"/proc/{number}").exists()
    descriptor = os.open(left, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder on the same disk as `path`; removes it after the block.

    Args:
        path: path of the result; the temporary folder is created in the folder above it.

    Raises:
        UserError: the folder, or something in it, cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", suffix=".unfinished", dir=path.parent) as name:
            yield Path(name)
    except OSError as error:
        raise _cannot_write(path, error) from error


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Lets one process or thread at a time run a block that makes `path`; others wait.

    Args:
        path: file or folder that is made. A hidden lock file exists beside it meanwhile.

    Raises:
        UserError: the folder above `path` cannot be written.
    """
    lock = path.parent / f".{path.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(lock)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def alone_in(folder: Path, new: bool = False) -> Iterator[None]:
    """Locks a folder while the block runs; other processes that try to lock it get an error.

    The lock is a kernel lock on a hidden file in the folder, so it also ends if the process is
    killed. A folder that was created here and is still empty after the block is removed.

    Args:
        folder: created if it does not exist.
        new: the folder must not exist yet.

    Raises:
        FileExistsError: `new` is set and the folder exists.
        UserError: another process has locked the folder, or it cannot be written.
    """
    lock = folder / ".lock"
    makes = new or not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=not new)
        descriptor = _lock(lock, wait=False)
    except BlockingIOError:
        raise UserError.expected(
            "a folder that no other process writes",
            f"{folder}, which is in use",
            "Wait until that process has ended, or name another folder",
        ) from None
    except OSError as error:
        if new and isinstance(error, FileExistsError):
            raise
        raise UserError.expected(
            "room and permission for a folder", f"{folder}: {error.strerror}", "Name another folder"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)
            if makes:
                folder.rmdir()  # fails if the folder has content, which is kept
        os.close(descriptor)


@contextlib.contextmanager
def alone_in_new(name: str, *roots: Path) -> Iterator[list[Path]]:
    """Creates a new folder of the same name in each root and locks them, as `alone_in` does.

    Args:
        name: name of the folders. If one exists already, all get a number, as in `name-2`.
        roots: folders that are created if they do not exist.
    """
    with contextlib.ExitStack() as held:
        for number in itertools.count(1):
            places = [root / (f"{name}-{number}" if number > 1 else name) for root in roots]
            try:
                for place in places:
                    held.enter_context(alone_in(place, new=True))
                break
            except FileExistsError:
                held.close()
        yield places


def _lock(path: Path, wait: bool = True) -> int:
    """Locks a file and returns its descriptor; closing the descriptor ends the lock.

    Raises:
        BlockingIOError: another process holds the lock and `wait` is False.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock_descriptor(descriptor, path, wait)
            with contextlib.suppress(FileNotFoundError):
                # The previous holder may have removed the file: check that `path` still names it.
                if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock_descriptor(descriptor: int, path: Path, wait: bool) -> None:
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            print(f"waiting for another process that has locked {path}", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        print(
            f"the file system of {path.parent} does not support locks ({error.strerror}): "
            "make sure that no other process writes there",
            file=sys.stderr,
        )


def is_made_of(record: Path, arguments: Mapping[str, object], what: str) -> bool:
    """Returns whether a folder was already generated with the same arguments.

    Args:
        record: JSON file of the arguments, directly in the folder.
        arguments: arguments of the generation.
        what: content of the folder in words, for the message.

    Raises:
        UserError: the folder holds something else.
    """
    folder = record.parent
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UserError.expected("a folder as --output_dir", f"the file {folder}", "Name a folder")
    if not any(folder.iterdir()):
        return False
    try:
        found = json.loads(record.read_text())
    except (OSError, ValueError):
        found = None
    if found == arguments:
        return True
    content = f"{what} made with other arguments" if found else "other files"
    raise UserError.expected(
        "an empty or new --output_dir",
        f"{folder} with {content}",
        "Name another folder or remove it",
    )


def drop_lost_output() -> None:
    """Redirects stdout and stderr to /dev/null if nothing reads them, so that writes do not fail.

    Nothing reads them after the terminal was closed or the launcher was killed.
    """
    outputs = select.poll()
    for descriptor in (1, 2):
        outputs.register(descriptor, 0)  # poll always reports errors and hang-ups
    for descriptor, event in outputs.poll(0):
        if event & (select.POLLERR | select.POLLHUP):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)
