"""Runs tests of a copy of the project, each time in a fork that has loaded other people's packages.

TensorFlow alone takes seconds to import, longer than most tests run. What is loaded before the fork
is nothing of the project, so every fork imports the copy's code as it is at that time.

`run.py` starts it in the root of the copy and gives it a line of JSON for each run.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
import warnings

import pytest

PACKAGES = (
    "tensorflow keras tf2onnx.convert onnx onnxruntime openvino soundfile soxr matplotlib.figure "
    "PIL.Image sklearn.linear_model librosa tqdm yaml jiwer sentencepiece"
)
POLL_S = 0.05


def run(tests: list[str], record: str, stop_early: bool, limit_s: float | None) -> bool:
    """Runs pytest in a fork; False where it had to be ended after `limit_s`."""
    child = os.fork()
    if child == 0:
        os.setsid()
        output = os.open(f"{record}.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ["MUTATION_RECORD"] = record
        options = ["-q", "-p", "no:cacheprovider", "-p", "tests.mutation.record"]
        try:
            pytest.main([*options, *(["-x"] if stop_early else []), *tests])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    started = time.monotonic()
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if limit_s is not None and time.monotonic() - started > limit_s:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(POLL_S)
    return True


def main() -> None:
    """Answers each line of the standard input with one on the standard output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in PACKAGES.split():
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
