"""Sources of weights: paths, and repositories of the Hugging Face Hub as `hf:owner/name`."""

import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tools.errors import UserError
from tools.files import one_line

PREFIX = "hf:"
_FORM = f"{PREFIX}owner/name[@revision][/path]"
_NAME = r"[A-Za-z0-9][\w.-]*"
_SOURCE = re.compile(rf"{PREFIX}({_NAME}/{_NAME})(?:@([^/@\s]+))?(?:/(.+))?", re.ASCII)
# Files that are downloaded for a model: descriptions, and weights of the first pattern that
# matches any file of the repository.
_DESCRIPTIONS = ("*.json", "*.txt", "*.model")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.nemo")

# What an error of `huggingface_hub` means, and what the user can do. "": all other errors.
_REASONS = {
    "GatedRepoError": (
        "a repository whose terms must be accepted first",
        "Accept them on its page, and set HF_TOKEN to a token of that account",
    ),
    "RepositoryNotFoundError": (
        "a repository that does not exist or is private",
        "Correct the name, or set HF_TOKEN to a token that may read it",
    ),
    "RevisionNotFoundError": (
        "a repository without the revision {revision}",
        "Name one of its branches, tags or commits",
    ),
    "LocalEntryNotFoundError": (
        "no answer from the hub, and no complete copy in the cache",
        "Check the network, HF_ENDPOINT and HF_HUB_OFFLINE, or name a folder on this machine",
    ),
    "EntryNotFoundError": (
        "a repository without this file",
        "Correct the path in the repository",
    ),
    "": (
        "a download that failed: {reason}",
        "Start the program again; it continues the download",
    ),
}


class HubSource(NamedTuple):
    """A repository of the Hugging Face Hub, or a file in it.

    Attributes:
        repository: `owner/name`.
        revision: branch, tag or commit; None is the default branch.
        path: path of a file in the repository; empty: the whole model.
    """

    repository: str
    revision: str | None
    path: str


def is_hub_source(source: object) -> bool:
    """Returns whether a source is in a repository of the Hugging Face Hub."""
    return isinstance(source, str) and source.startswith(PREFIX)


def parse(source: str) -> HubSource:
    """Parses `hf:owner/name[@revision][/path]`.

    Raises:
        UserError: the text has another form, or the path leaves the repository.
    """
    match = _SOURCE.fullmatch(source)
    path = match[3] or "" if match else ""
    if not match or "\\" in path or {"..", "."} & set(path.split("/")):
        raise UserError.expected(
            f"a source of the form {_FORM}", one_line(source), "Correct the source"
        )
    return HubSource(match[1], match[2], str(PurePosixPath(path)) if path else "")


def local_source(source: str | os.PathLike[str]) -> Path:
    """Returns the local path of a source, and downloads it first if it is on the Hugging Face Hub.

    Downloads are kept in the cache of `huggingface_hub`, and are not repeated. A source in the
    cache is used without network. `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` and `HF_HUB_CACHE`
    have the meaning that the documentation of `huggingface_hub` gives.

    Args:
        source: a path, `hf:owner/name[@revision]` for a model, or
            `hf:owner/name[@revision]/path` for a file.

    Returns:
        The path itself, the folder of the model's files, or the file. For a repository that has
        no other weights, the path of its `.nemo` archive.

    Raises:
        UserError: the source has another form, does not exist, needs permission, has no weights,
            or cannot be downloaded.
    """
    if not is_hub_source(source):
        return Path(source)
    place = parse(str(source))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else a line for each retry
    import huggingface_hub  # only here: it takes 0.2 s to import
    from huggingface_hub import errors

    failures = (
        errors.HfHubHTTPError,
        errors.EntryNotFoundError,
        errors.HFValidationError,
        errors.IncompleteSnapshotError,
        OSError,
    )
    try:
        if not place.path:
            return _folder(place)
        path = huggingface_hub.hf_hub_download(
            place.repository, place.path, revision=place.revision
        )
        return Path(path)
    except failures as error:
        received, do = _REASONS[""]
        for kind in type(error).__mro__:  # an error is one of its most special kind
            if kind.__name__ in _REASONS:
                received, do = _REASONS[kind.__name__]
                break
        reason = " ".join(str(error).split())[:200]
        received = received.format(reason=reason, revision=place.revision)
        raise UserError.expected(f"a source that can be read: {source}", received, do) from error


def _folder(place: HubSource) -> Path:
    """Returns the folder of a repository's files, or the path of its `.nemo` archive."""
    from huggingface_hub import snapshot_download

    for weights in _WEIGHTS:
        folder = snapshot_download(
            place.repository,
            revision=place.revision,
            allow_patterns=[*_DESCRIPTIONS, weights],
        )
        found = sorted(Path(folder).glob(weights))
        if found:
            return found[0] if weights == "*.nemo" else Path(folder)
    raise UserError.expected(
        f"weights in {PREFIX}{place.repository} ({', '.join(_WEIGHTS)})",
        "a repository without them",
        f"Name a file of it: {PREFIX}{place.repository}/PATH",
    )
