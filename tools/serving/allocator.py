"""The memory allocator of the C library in a server."""

import ctypes

from tools.conversion.machine import num_cores

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGE_BYTES = 1 << 20
_KEPT_BYTES = 1 << 24


def return_freed_memory() -> None:
    """Makes the C library return freed memory to the system. Does nothing if it is not glibc.

    glibc keeps freed blocks of up to 32 MiB for later ones, in eight heaps for each core. With
    batches of different sizes and many threads, these heaps grow for a long time. From here on,
    blocks of 1 MiB and more are returned when they are freed, and there is one heap for each core.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return
    set_option(_MMAP_THRESHOLD, _LARGE_BYTES)
    set_option(_TRIM_THRESHOLD, _KEPT_BYTES)  # 128 KiB otherwise, as it does not grow now
    set_option(_ARENA_MAX, num_cores())
