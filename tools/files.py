"""Files and folders that appear whole or not at all."""

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
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.errors import UserError

_FRESH_SECONDS = 3600.0  # an unfinished file of another machine may still be written
_WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_HOME = re.compile(r"~[\w.-]*/")
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)
_ESCAPES = {code: repr(chr(code))[1:-1] for code in _CONTROLS}


def expand_home(text: str) -> str:
    """Puts the home folder in place of `~/` or `~NAME/`, which a shell does not do inside words."""
    return os.path.expanduser(text) if _HOME.match(text) else text


def environment_path(name: str) -> str:
    """Gives the path in an environment variable, with the home folder for `~/`; empty: none."""
    return expand_home(os.environ.get(name, ""))


def folders_above(path: str | os.PathLike[str]) -> frozenset[str]:
    """The real paths of the folders that hold a place, by its name and by where links lead."""
    named, real = Path(os.path.abspath(path)), Path(os.path.realpath(path))
    return frozenset((*map(os.path.realpath, named.parents), *map(str, real.parents)))


def one_line(path: object) -> str:
    """Gives a path as output shows it: newlines, tabs and other controls escaped as in Python."""
    return str(path).translate(_ESCAPES)


def write_text(path: Path, text: str) -> None:
    """Writes a text file beside its place, then renames it; makes the folders above it.

    Args:
        path: an earlier file of that name is replaced.
        text: written as UTF-8; names of files inside it may hold any bytes (surrogate escapes).

    Raises:
        UserError: the file cannot be written; what was there before is left.
    """
    with _new_file(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def result_file(path: Path, suffix: str, known: tuple[str, ...] = (".json", ".tsv")) -> Path:
    """Names a file of results: the suffix takes the place of a known one, else it comes behind.

    Args:
        path: that a user named, such as `results/crop_0.875`, in which nothing is a suffix.
        suffix: of the file.
        known: suffixes that give way.
    """
    name = path.name
    if path.suffix.lower() in known:
        name = name[: -len(path.suffix)]
    return path.with_name(name + suffix)


def to_json(content: object, **options: object) -> str:
    """Writes JSON, which knows neither NaN nor infinity: such numbers become null.

    Args:
        content: dictionaries, lists and tuples of what JSON knows.
        options: of `json.dumps`, such as `indent`.
    """
    return json.dumps(_with_finite_numbers(content), allow_nan=False, **options)


def _with_finite_numbers(content: object) -> object:
    if isinstance(content, Mapping):
        return {_with_finite_numbers(key): _with_finite_numbers(x) for key, x in content.items()}
    if isinstance(content, list | tuple):
        return [_with_finite_numbers(x) for x in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file of bytes; see `write_text`."""
    with _new_file(path) as beside:
        beside.write_bytes(content)


def check_writable(path: Path) -> None:
    """Tells before long work whether its result can be written; leaves nothing but the folders.

    Raises:
        UserError: it cannot.
    """
    with contextlib.suppress(_Enough), _new_file(path) as beside:
        beside.touch()
        beside.unlink()
        raise _Enough


def _cannot_write(path: Path, error: OSError) -> UserError:
    return UserError.expected(
        f"room and permission to write {path}",
        error.strerror or error,
        "Free space or choose another place",
    )


class _Enough(Exception):
    """Ends a block that is to write nothing."""


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """Gives a path beside a place, whose file takes that place when the block has ended well."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        if path.exists() and not path.is_file():
            raise UserError.expected("a regular file, or none yet", path, "Choose another place")
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
    """Gives an empty folder beside a place, which takes that place when the block has ended well.

    Args:
        path: must not exist, or be an empty folder.
        replace: whether it may also be a folder with content, which ends then.

    Raises:
        UserError: something cannot be written; nothing is left.
    """
    beside = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.unfinished"
    old = beside.with_suffix(".old")
    descriptor = None
    try:
        beside.mkdir(parents=True)
        descriptor = os.open(beside, os.O_RDONLY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # says that it is being written
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
    """Removes what killed processes left beside a place; what is still being written stays."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.unfinished"):
        with contextlib.suppress(OSError):
            if _is_left(left):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _is_left(left: Path) -> bool:
    """Tells whether nobody writes an unfinished file or folder any more."""
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
    """Gives an empty folder on the disk of a place, which ends with the block.

    Args:
        path: of what is made in it; the folders above it are made.

    Raises:
        UserError: it cannot be made there, or something in it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", suffix=".unfinished", dir=path.parent) as name:
            yield Path(name)
    except OSError as error:
        raise _cannot_write(path, error) from error


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Lets one process or thread at a time make what belongs in a place; others say that they wait.

    Args:
        path: of the file or folder to be made; the lock is a hidden file beside it, while it lasts.

    Raises:
        UserError: the folder above it cannot be written.
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
    """Holds a folder while the block runs: another process that wants to hold it is refused.

    The lock is the kernel's, on a hidden file in the folder: it ends with the process, however that
    ends. A folder that is made here is removed again where the block leaves nothing in it.

    Args:
        folder: made where it does not exist.
        new: whether it must not exist.

    Raises:
        FileExistsError: it exists, and must not.
        UserError: another process holds it, or it cannot be written.
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
            "room and permission for a folder", f"{folder}: {error.strerror}", "Name another"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink(missing_ok=True)
            if makes:
                folder.rmdir()  # nothing but an empty one
        os.close(descriptor)


@contextlib.contextmanager
def alone_in_new(name: str, *roots: Path) -> Iterator[list[Path]]:
    """Makes a new folder in each of some roots, and holds them; see `alone_in`.

    Args:
        name: of the folders; where one of them exists already, all get a number behind it.
        roots: made where they do not exist.
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
    """Locks a file and gives its descriptor; the lock ends when that is closed.

    Raises:
        BlockingIOError: another process holds it, and this one does not wait.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _lock_descriptor(descriptor, path, wait)
            with contextlib.suppress(FileNotFoundError):
                # Its last holder removes the file: who comes later has locked another one.
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
            print(f"waiting for another process that holds {path}", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        print(
            f"the file system of {path.parent} has no locks ({error.strerror}): "
            "let no other process write there",
            file=sys.stderr,
        )


def is_made_of(record: Path, arguments: Mapping[str, object], what: str) -> bool:
    """Tells whether a generated folder is there already, by what it was made of.

    Args:
        record: JSON of the arguments, right in the folder.
        arguments: of the generation.
        what: the folder holds, for the message.

    Raises:
        UserError: something else is there.
    """
    folder = record.parent
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UserError.expected("a folder as --output_dir", f"the file {folder}", "Name another")
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
        "an empty or new --output_dir", f"{folder} with {content}", "Name another or remove it"
    )


def drop_lost_output() -> None:
    """Points stdout and stderr to nowhere where nobody reads them any more.

    As of a terminal that was closed, or of a launcher that was killed: a write would raise OSError.
    """
    outputs = select.poll()
    for descriptor in (1, 2):
        outputs.register(descriptor, 0)  # errors and hang-ups are always told
    for descriptor, event in outputs.poll(0):
        if event & (select.POLLERR | select.POLLHUP):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)
