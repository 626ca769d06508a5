"""Describes the machine on which models are converted and timed."""

import os
import platform
from pathlib import Path

from tools.amounts import counted

# Instruction sets that the runtimes use; the rounding of results can depend on them.
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")


def machine() -> str:
    """Returns the architecture and its instruction sets that the runtimes use, as `x86_64 avx2`."""
    flags = _processor().get("flags", "").split()
    return " ".join([platform.machine(), *(x for x in _INSTRUCTIONS if x in flags)])


def processor() -> str:
    """Returns the processor's name and the number of cores that this process may use."""
    name = _processor().get("model name", platform.processor() or platform.machine())
    return f"{name}, {counted(num_cores(), 'core')}"


def num_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> dict[str, str]:
    """Returns the entries of `/proc/cpuinfo` for the first processor; empty on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
