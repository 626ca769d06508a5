"""Reads `.nemo` archives: tar files of a configuration, weights and a tokenizer.

Single members are read by their names. Nothing is extracted by the names in the archive, links and
devices are refused, and the weights are read without unpickling objects.

Source: NeMo, `core/connectors/save_restore_connector.py`.
"""

import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from tools.errors import UserError
from tools.weights.files import check_no_pointer
from tools.weights.pth import read_pth
from tools.weights.state_dict import state_dict

SUFFIX = ".nemo"
CONFIG_FILE, WEIGHTS_FILE = "model_config.yaml", "model_weights.ckpt"
_POINTER = "nemo:"
_MAX_TEXT_BYTES = 64 << 20  # of the configuration and of a tokenizer


class NemoArchive:
    """An open `.nemo` archive. Create it with `open_nemo`.

    Args:
        path: the archive, for messages.
        archive: the open tar file.

    Raises:
        UserError: the archive has a member that is a link or device, or whose name leads out of
            it, or has a member twice.
    """

    def __init__(self, path: Path, archive: tarfile.TarFile):
        self.path, self._archive = path, archive
        self._members: dict[str, tarfile.TarInfo] = {}
        for member in archive:
            if member.isdir():
                continue
            name = PurePosixPath(member.name)
            if not member.isfile():
                raise self._refused(f"{member.name!r}, a link or a device")
            if name.is_absolute() or ".." in name.parts:
                raise self._refused(f"{member.name!r}, a path out of the archive")
            if str(name) in self._members:
                raise self._refused(f"{member.name!r} twice")
            self._members[str(name)] = member

    def config(self) -> dict[str, Any]:
        """Returns the content of `model_config.yaml`.

        Raises:
            UserError: the file is missing or is not valid YAML with keys at the top level.
        """
        try:
            content = yaml.safe_load(self.read(CONFIG_FILE).decode("utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError.expected(
                f"valid YAML in {CONFIG_FILE} of {self.path}", reason, "Download the file again"
            ) from error
        if not isinstance(content, dict):
            raise UserError.expected(
                f"keys and values in {CONFIG_FILE} of {self.path}",
                type(content).__name__,
                "Download the file again",
            )
        return content

    def pointed(self, pointer: object) -> bytes:
        """Returns the member that a value of the configuration names, such as `nemo:ab12_x.model`.

        Raises:
            UserError: the value is not such a pointer, or there is no such member.
        """
        if not isinstance(pointer, str) or not pointer.startswith(_POINTER):
            raise UserError.expected(
                f"the name of a file in {self.path}, as nemo:NAME",
                repr(pointer)[:80],
                "Save the model again with its files",
            )
        return self.read(pointer.removeprefix(_POINTER))

    def read(self, name: str) -> bytes:
        """Returns the bytes of a member other than the weights."""
        member = self._member(name)
        if member.size > _MAX_TEXT_BYTES:
            raise self._refused(f"{name!r} of {member.size} bytes")
        return self._archive.extractfile(member).read()

    def weights(self) -> Mapping[str, np.ndarray]:
        """Returns the tensors of `model_weights.ckpt` by name.

        Raises:
            UserError: the file is missing, or holds other objects than tensors.
        """
        member = self._member(WEIGHTS_FILE)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / WEIGHTS_FILE
            with path.open("wb") as file:
                shutil.copyfileobj(self._archive.extractfile(member), file)
            try:
                return state_dict(read_pth(path)).tensors
            except UserError as error:
                line = str(error).replace(f"{path}: ", "")
                raise UserError(f"{WEIGHTS_FILE} of {self.path}: {line}") from error

    def _member(self, name: str) -> tarfile.TarInfo:
        found = self._members.get(str(PurePosixPath(name)))
        if found is None:
            raise UserError.expected(
                f"{name} in {self.path}", "no such file", "Download the file again"
            )
        return found

    def _refused(self, received: str) -> UserError:
        return UserError.expected(
            f"plain files in {self.path}", received, "Download the file from its publisher"
        )


@contextmanager
def open_nemo(path: Path) -> Iterator[NemoArchive]:
    """Opens a `.nemo` archive, compressed by gzip or not.

    Args:
        path: the archive.

    Raises:
        UserError: the file cannot be read, is not a tar file, ends too early, or is refused by
            `NemoArchive`.
    """
    check_no_pointer(path)
    try:
        with tarfile.open(path, "r:*") as archive:
            yield NemoArchive(path, archive)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        no_archive = isinstance(error, tarfile.ReadError) and "\n" in str(error)
        reason = "another kind of file" if no_archive else getattr(error, "strerror", None)
        reason = reason or " ".join(str(error).split()) or type(error).__name__
        raise UserError.expected(
            f"a complete .nemo archive at {path}", reason, "Correct the path, or download it again"
        ) from error
