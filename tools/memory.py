"""Memory of processes."""

from pathlib import Path


def peak_resident_bytes(pid: int | str = "self") -> int:
    """Returns the peak resident memory of a process; 0 if the process has ended.

    It is read from /proc. `getrusage` would include the peak of the process that started this one.
    """
    return _bytes_of("VmHWM", pid)


def anonymous_bytes(pid: int | str = "self") -> int:
    """Returns the resident memory of a process without pages of files; 0 if it has ended.

    The system can take back pages of files that are mapped into memory, such as weights.
    """
    return _bytes_of("RssAnon", pid)


def _bytes_of(key: str, pid: int | str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith(key)]
    return int(found[0]) * 1024 if found else 0
