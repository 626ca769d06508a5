"""The models that a server offers: named folders, or a root folder with numbered versions."""

import contextlib
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tools.errors import UserError
from tools.files import one_line
from tools.serving.served_model import ServedModel

_log = logging.getLogger(__name__)

_NO_VERSION = -1
_LAST_SCAN_SECONDS = 0.5
# Opens the model in a folder under a name and a version.
Open = Callable[[str, int, Path], ServedModel]


class UnknownModel(Exception):
    """No such model, or no such version of it, is loaded."""


# Number of the version of each label, by model.
Labels = Mapping[str, Mapping[str, int]]

_Content = tuple[tuple[str, int, int], ...]


@dataclass(slots=True)
class _Entry:
    """What is known of a name.

    Attributes:
        loaded: the versions that are loaded.
        states: state of each version.
        failed: versions that could not be loaded, with the content of their folders at that time.
    """

    loaded: dict[int, ServedModel] = field(default_factory=dict)
    states: dict[int, str] = field(default_factory=dict)
    failed: dict[int, "_Content"] = field(default_factory=dict)

    def newest(self) -> ServedModel | None:
        """Returns the model that answers requests without a version."""
        return self.loaded[max(self.loaded)] if self.loaded else None


def _content(folder: Path) -> _Content:
    """Returns names, sizes and times of the files in a folder."""
    found = []
    with contextlib.suppress(OSError):  # it changes at this moment
        for path in folder.rglob("*"):
            facts = path.stat()
            found.append((str(path), facts.st_size, facts.st_mtime_ns))
    return tuple(sorted(found))


class Repository:
    """The loaded models. The newest version of a name answers, as in TensorFlow Serving.

    Versions with labels are loaded, too. A new version is loaded while the old one answers; then
    the old one answers what is in its queue, and is closed.

    Args:
        open_model: function that opens a model.
        folders: folder of the only version of each model, by name.
        root: folder with a folder for each model, in which folders with numbers are its versions.
        labels: function that returns the labels of versions; each scan calls it.
    """

    def __init__(
        self,
        open_model: Open,
        folders: Mapping[str, Path] | None = None,
        root: Path | None = None,
        *,
        labels: Callable[[], Labels] = dict,
    ):
        self._open, self._folders, self._root = open_model, dict(folders or {}), root
        self._read_labels, self._labels = labels, dict(labels())
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()
        self._closing: list[threading.Thread] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def known(self) -> list[str]:
        """Names of all models, also of those that could not be loaded."""
        with self._lock:
            return sorted(self._entries)

    @property
    def names(self) -> list[str]:
        """Names of the models that answer."""
        with self._lock:
            return sorted(name for name, entry in self._entries.items() if entry.loaded)

    def get(self, name: str, version: int | None = None, label: str | None = None) -> ServedModel:
        """Returns a loaded model.

        Args:
            name: name of the model.
            version: number of the version; None returns the newest one.
            label: label of a version, in place of its number.

        Raises:
            UnknownModel: the model or the version is not loaded, or there is no such label.
        """
        with self._lock:
            if label is not None:
                version = self._labels.get(name, {}).get(label, _NO_VERSION)
            entry = self._entries.get(name, _Entry())
            model = entry.newest() if version is None else entry.loaded.get(version)
        if model is None:
            raise UnknownModel
        return model

    def states(self, name: str) -> dict[int, str]:
        """Returns the state of each version of a model.

        Raises:
            UnknownModel: there is no such model.
        """
        with self._lock:
            if name not in self._entries:
                raise UnknownModel
            return dict(self._entries[name].states)

    def scan(self) -> None:
        """Loads new models and new versions, and closes those whose folders are gone.

        A version that cannot be loaded is reported in the log, and the old version stays. It is
        tried again when its folder has changed, such as after the end of a copy.
        """
        found = self._found()
        try:
            labels = dict(self._read_labels())
        except UserError as error:
            _log.error("the labels stay as they were: %s", error)
            labels = self._labels
        with self._lock:
            self._labels = labels
        for name, versions in found.items():
            with self._lock:
                entry = self._entries.setdefault(name, _Entry())
            newest = max(versions)
            wanted = {newest, *(set(labels.get(name, {}).values()) & set(versions))}
            for version in sorted(wanted - set(entry.loaded)):
                self._load(name, entry, version, versions[version])
            if newest not in entry.loaded and entry.loaded:
                wanted.add(max(entry.loaded))  # the newest one cannot be loaded
            self._retire(entry, set(entry.loaded) - wanted)
        for name in set(self._entries) - set(found):
            self._retire(self._entries[name], set(self._entries[name].loaded))

    def _found(self) -> dict[str, dict[int, Path]]:
        """Returns the folders of all versions, by name and number."""
        found = {name: {1: folder} for name, folder in self._folders.items()}
        if self._root is None:
            return found
        try:
            folders = sorted(path for path in self._root.iterdir() if path.is_dir())
            for folder in folders:
                versions = {
                    int(path.name): path
                    for path in folder.iterdir()
                    if path.name.isascii() and path.name.isdigit() and path.is_dir()
                }
                if versions:
                    found[folder.name] = versions
        except OSError as error:
            _log.warning("%s cannot be read: %s", one_line(self._root), error)
        return found

    def _load(self, name: str, entry: _Entry, version: int, folder: Path) -> None:
        content = _content(folder)
        if entry.failed.get(version) == content:
            return
        with self._lock:
            entry.states[version] = "LOADING"
        try:
            model = self._open(name, version, folder)
        except Exception as error:  # of any library that reads files: other versions go on
            reason = error if isinstance(error, UserError) else repr(error)
            _log.error("%s version %d is not loaded: %s", name, version, reason)
            with self._lock:
                entry.failed[version] = content
                entry.states[version] = "END"
            return
        with self._lock:
            entry.failed.pop(version, None)
            if self._stop.is_set():
                entry.states[version] = "END"
                model.close()
                return
            _log.info("%s version %d answers", name, version)
            entry.loaded[version] = model
            entry.states[version] = "AVAILABLE"

    def _retire(self, entry: _Entry, versions: set[int]) -> None:
        """Closes versions in threads, since their last answers may take a while."""
        for version in versions:
            with self._lock:
                model = entry.loaded.pop(version)
                entry.states[version] = "UNLOADING"
            thread = threading.Thread(target=self._close, args=(entry, model), name="closing")
            self._closing = [x for x in self._closing if x.is_alive()] + [thread]
            thread.start()

    def _close(self, entry: _Entry, model: ServedModel) -> None:
        model.close()
        with self._lock:
            entry.states[model.version] = "END"

    def watch(self, seconds: float) -> None:
        """Scans in a thread, again and again, until `close`.

        Args:
            seconds: time between two scans.
        """

        def work() -> None:
            while not self._stop.wait(seconds):
                self.scan()

        self._thread = threading.Thread(target=work, name="versions", daemon=True)
        self._thread.start()

    @property
    def is_loading(self) -> bool:
        """Whether the thread of `watch` still loads a model, also after `close`."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Stops watching, answers what is in the queues, and closes all models.

        It does not wait for a version that loads, which may take minutes. That version is closed
        as soon as it is loaded.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_LAST_SCAN_SECONDS)
        for entry in self._entries.values():
            self._retire(entry, set(entry.loaded))
        for thread in self._closing:
            thread.join()
