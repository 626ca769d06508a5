"""Memory of the device that trains, and calls in processes of their own with a memory limit."""

import multiprocessing
import os
import signal
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

from tools.errors import UserError
from tools.memory import peak_resident_bytes

_POLL_SECONDS = 0.02
_TENSORFLOW_RAN_OUT = "ResourceExhaustedError"  # compared by name, to call without TensorFlow
# Files with the memory limit of a container, of the two versions of control groups.
_CONTAINER_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def gpu_memory_bytes() -> int:
    """Returns the memory of the smallest GPU that nvidia-smi lists.

    Raises:
        UserError: nvidia-smi is missing or fails, or does not know the memory of a GPU.
    """
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return min(int(line) for line in done.stdout.splitlines()) * 2**20
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise UserError.expected(
            "the memory of the GPU from nvidia-smi", error, "Give --memory_gb"
        ) from error


def available_bytes() -> int:
    """Returns the main memory that is available now, within the limit of a container."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    limits = [int(fields["MemAvailable"].split()[0]) * 1024]
    for name in _CONTAINER_LIMITS:
        path = Path(name)
        text = path.read_text().strip() if path.is_file() else ""
        limits += [int(text)] if text.isdigit() else []
    return min(limits)


def peak_within(
    limit_bytes: int, function: Callable, *arguments: object, use_gpu: bool = False
) -> int | None:
    """Calls a function in a new process and returns the peak memory of the process.

    On a CPU the memory is that of the whole process, the runtime included.

    Args:
        limit_bytes: memory limit. The process ends as soon as it exceeds the limit.
        function: function at the top level of a module.
        arguments: arguments of the function, which can be pickled.
        use_gpu: whether the limit is for the memory of the first GPU.

    Returns:
        Bytes, or None if the call exceeded the limit.

    Raises:
        RuntimeError: the call failed for another reason; the message has its traceback.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    limit = limit_bytes if use_gpu else None
    process = context.Process(target=_call, args=(sender, limit, function, arguments), daemon=True)
    process.start()
    sender.close()
    try:
        while not receiver.poll(_POLL_SECONDS):
            if not use_gpu and peak_resident_bytes(process.pid) > limit_bytes:
                return None
        peak, failure = receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGKILL:  # by the kernel, which was out of memory
            return None
        raise RuntimeError(f"A trial ended with exit code {process.exitcode}.") from None
    finally:
        receiver.close()
        process.kill()
        process.join()
    if failure:
        raise RuntimeError(failure)
    return peak if peak is not None and peak <= limit_bytes else None


def _call(sender, gpu_limit: int | None, function: Callable, arguments: tuple) -> None:
    """Sends `(peak, "")` of a call, `(None, "")` if memory ran out, or `(None, traceback)`."""
    if gpu_limit is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    else:
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        limit = tf.config.LogicalDeviceConfiguration(memory_limit=gpu_limit // 2**20)
        tf.config.set_logical_device_configuration(gpus[0], [limit])
    try:
        function(*arguments)
    except Exception as error:
        ran_out = isinstance(error, MemoryError) or type(error).__name__ == _TENSORFLOW_RAN_OUT
        sender.send((None, "" if ran_out else traceback.format_exc()))
        return
    if gpu_limit is None:
        sender.send((peak_resident_bytes(), ""))
    else:
        sender.send((tf.config.experimental.get_memory_info("GPU:0")["peak"], ""))


def largest_fitting(
    fits: Callable[[int], bool], most: int, *, start: int = 1, accuracy: float = 0.05
) -> int:
    """Searches for the largest number that fits, by doubling and bisection.

    Args:
        fits: function of a number; if a number fits, so do all smaller ones.
        most: largest number to try, at least 1.
        start: first number to try.
        accuracy: largest relative distance to a number that does not fit.

    Returns:
        A number from 1 to `most` that fits, or 0 if 1 does not fit.
    """
    low, high, trial = 0, most + 1, min(start, most)
    # Until a number does not fit, the distance to one is unknown.
    while high - low > (1 if high > most else max(1, accuracy * low)):
        if fits(trial):
            low = trial
        else:
            high = trial
        trial = min(2 * low, most) if high > most else (low + high) // 2
    return low
