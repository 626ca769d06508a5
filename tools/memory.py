"""Memory of processes."""

from pathlib import Path


def peak_resident_bytes(pid: int | str = "self") -> int:
    """Returns the peak resident memory of a process; 0 if the process has ended.

    It is read from /proc. `getrusage` would include the peak of the process that started this one.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    peak = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return int(peak[0]) * 1024 if peak else 0
