"""Measures the built-in server: throughput, latency, right answers, memory and start.

The model is the bundled recognizer of digits, the clients are keep-alive connections over loopback
that send WAV files to `:predict`. Server, clients and offline inference share the same cores.
"""

import contextlib
import io
import itertools
import math
import shutil
import sys
import tempfile
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import soundfile
from tqdm import tqdm

import conformer
from tools.benchmark import turns  # before any runtime
from tools.benchmark.blocks import PROJECT
from tools.benchmark.server_process import ServerProcess
from tools.benchmark.serving_load import (
    BUSY,
    NO_ANSWER,
    Answer,
    as_fast_as_possible,
    at_rate,
    predict_request,
    text_of,
)
from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import check_writable, to_json, write_text
from tools.recognition.session import SpeechSession

_MODEL = PROJECT / "conformer" / "pretrained" / "digits"
_NAME = "digits"
_SEED = 7
_NUM_SOUNDS = 64
# Shortest and longest sounds: of throughput and latency, and of the other figures.
_SIMILAR_SECONDS, _DIFFERENT_SECONDS = (2.0, 3.0), (0.3, 8.0)
_NOISE = 1e-3
_OVERLOAD_QUEUE = 16


@dataclass(frozen=True, slots=True)
class Amounts:
    """How much is measured.

    Attributes:
        num_clients: keep-alive connections; twice as many at overload.
        batch_size: largest batch, of the server and of offline inference.
        rounds: number of alternating runs of server and offline inference.
        num_requests: requests of each run.
        num_single: requests of one client, for the latency of one request.
        num_overload: requests at overload, and of different lengths for the memory.
        num_before: requests before the first look at the memory.
        num_starts: starts of the server.
    """

    num_clients: int = 32
    batch_size: int = 16
    rounds: int = 3
    num_requests: int = 1000
    num_single: int = 200
    num_overload: int = 10_000
    num_before: int = 500
    num_starts: int = 5


QUICK = Amounts(4, 4, 1, 24, 8, 60, 20, 1)
FIGURES = ("throughput", "answers", "memory", "start")
# Target of each figure: the largest value, or the smallest one where the text says so.
TARGETS: dict[str, tuple[str, float]] = {
    "throughput_ratio": (">=", 0.7),
    "p95_ratio": ("<=", 3.0),
    "cost_ms": ("<=", 3.0),
    "wrong": ("<=", 0),
    "lost": ("<=", 0),
    "memory_ratio": ("<=", 1.1),
    "start_seconds": ("<=", 3.0),
}


def sounds(shortest_seconds: float, longest_seconds: float) -> list[bytes]:
    """Returns WAV files of different lengths, cut from the model's sample and with some noise.

    Args:
        shortest_seconds: length of the shortest one.
        longest_seconds: length of the longest one.
    """
    waveform, rate_hz = soundfile.read(_MODEL / "sample.flac", dtype="float32")
    rng, found = np.random.default_rng(_SEED), []
    longest = np.tile(waveform, 1 + round(longest_seconds * rate_hz) // len(waveform))
    for seconds in np.geomspace(shortest_seconds, longest_seconds, _NUM_SOUNDS):
        start = rng.integers(len(longest) - round(seconds * rate_hz) + 1)
        piece = longest[start : start + round(seconds * rate_hz)]
        noisy = piece + rng.normal(scale=_NOISE, size=len(piece))
        file = io.BytesIO()
        soundfile.write(file, noisy, rate_hz, "PCM_16", format="WAV")
        found.append(file.getvalue())
    rng.shuffle(found)
    return found


class Measuring:
    """What the measurements share: offline inference, sounds and their texts, amounts.

    Args:
        session: offline inference, with the largest batch of the server.
        amounts: how much is measured.
        threads: threads of the server's runtime; None: chosen by the runtime.
    """

    def __init__(self, session: SpeechSession, amounts: Amounts, threads: int | None):
        self.session, self.amounts = session, amounts
        self.sounds: list[bytes] = []
        self.texts: list[str] = []
        flags = [f"--max_batch_size={amounts.batch_size}"]
        self._flags = [*flags, *([] if threads is None else [f"--threads={threads}"])]

    def use(self, shortest_seconds: float, longest_seconds: float) -> None:
        """Makes the sounds, and recognizes each alone."""
        self.sounds = sounds(shortest_seconds, longest_seconds)
        self.texts = [self.session.transcribe(content).text for content in self.sounds]

    def server(self, *flags: object) -> ServerProcess:
        """Starts a server with the bundled model, or with the models that the flags name."""
        models = flags if any("model_root" in str(x) for x in flags) else (f"{_NAME}={_MODEL}",)
        return ServerProcess(PROJECT, *self._flags, *models)

    def requests(self, server: ServerProcess) -> list[bytes]:
        """Returns the request of each sound."""
        return [predict_request(server.address, _NAME, content) for content in self.sounds]

    def is_right(self, answer: Answer) -> bool:
        """Returns whether an answer has the text of offline inference."""
        return text_of(answer) == self.texts[answer.number % len(self.texts)]


def _repeat(requests: Sequence[bytes], count: int) -> Iterator[bytes]:
    return itertools.islice(itertools.cycle(requests), count)


def throughput(measuring: Measuring) -> dict:
    """Measures throughput, latencies, and what the server adds to a request."""
    amounts = measuring.amounts
    measuring.use(*_SIMILAR_SECONDS)
    contents = list(itertools.islice(itertools.cycle(measuring.sounds), amounts.num_requests))
    offline, served, session_seconds, single_seconds = [], [], [], []
    with measuring.server() as server:
        requests = measuring.requests(server)

        def serve_all() -> float:
            started = time.perf_counter()
            answers = as_fast_as_possible(
                server.address, _repeat(requests, amounts.num_requests), amounts.num_clients
            )
            seconds = time.perf_counter() - started
            _check(measuring, answers)
            return seconds

        serve_all()  # warm-up: the runtime is slower in the first runs of each shape
        measuring.session.transcribe(contents)
        for _ in tqdm(range(amounts.rounds), "throughput", file=sys.stderr):
            offline.append(turns.timed(measuring.session.transcribe, contents)())
            served.append(serve_all())
            numbers = range(amounts.num_single)
            one_by_one = [measuring.sounds[number % _NUM_SOUNDS] for number in numbers]
            session_seconds += [
                turns.timed(measuring.session.transcribe, content)() for content in one_by_one
            ]
            answers = as_fast_as_possible(server.address, _repeat(requests, amounts.num_single), 1)
            _check(measuring, answers)
            single_seconds += [answer.seconds for answer in answers]
        per_second = amounts.num_requests / float(np.median(served))
        for _ in range(2):  # the first time as a warm-up: batches have other sizes than before
            half = at_rate(
                server.address,
                list(_repeat(requests, amounts.num_requests)),
                amounts.num_clients,
                per_second=per_second / 2,
                seed=_SEED,
            )
            _check(measuring, half)
    single = float(np.median(single_seconds))
    p95 = float(np.quantile([answer.seconds for answer in half], 0.95))
    return {
        "requests_per_second": per_second,
        "offline_per_second": amounts.num_requests / float(np.median(offline)),
        "throughput_ratio": float(np.median(offline) / np.median(served)),
        "single_ms": 1000 * single,
        "session_ms": 1000 * float(np.median(session_seconds)),
        "cost_ms": 1000 * float(np.median(np.subtract(single_seconds, session_seconds))),
        "p95_ms": 1000 * p95,
        "p95_ratio": p95 / single,
    }


def _check(measuring: Measuring, answers: Sequence[Answer]) -> None:
    """Checks the answers of a measurement.

    Raises:
        UserError: an answer is an error or has another text than offline inference.
    """
    for answer in answers:
        if answer.status != 200 or not measuring.is_right(answer):
            raise UserError.expected(
                "answers with the texts of offline inference",
                f"status {answer.status}, {answer.body[:200].decode(errors='replace')}",
                "See the log of the server",
            )


def answers(measuring: Measuring) -> dict:
    """Counts right, wrong and lost answers at overload, with a new version and SIGTERM."""
    measuring.use(*_DIFFERENT_SECONDS)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "models")
        shutil.copytree(_MODEL, root / _NAME / "1")
        shutil.copytree(_MODEL, Path(folder, "2"))
        flags = (f"--model_root={root}", "--poll_seconds=0.1", f"--max_enqueued={_OVERLOAD_QUEUE}")
        with measuring.server(*flags) as server:
            return _overload(
                measuring, server, lambda: Path(folder, "2").rename(root / _NAME / "2")
            )


class _Overload:
    """Requests without end: publishes a version, waits for it, and asks the server to end.

    Args:
        server: the server.
        requests: a request of each sound.
        publish: puts the new version into the server's folder.
        num_requests: smallest number of requests before SIGTERM.
    """

    def __init__(
        self,
        server: ServerProcess,
        requests: Sequence[bytes],
        publish: Callable[[], object],
        num_requests: int,
    ):
        self._server, self._requests = server, requests
        self._publish, self._num_requests = publish, num_requests
        self._is_swapped, self._next_look, self._has_ended = False, 0.0, False
        self.signaled = math.inf

    def __iter__(self) -> Iterator[bytes]:
        for number in itertools.count():
            if number == self._num_requests // 3:
                self._publish()
                self._next_look = time.perf_counter()
            enough = number >= self._num_requests and self._swapped()
            if enough and self.signaled == math.inf:
                self.signaled = time.perf_counter()
                self._server.ask_to_end()
            if self._has_ended:
                return
            yield self._requests[number % len(self._requests)]

    def _swapped(self) -> bool:
        """Returns whether the new version answers; looks twice a second."""
        now = time.perf_counter()
        if not self._is_swapped and now >= self._next_look:
            self._next_look = now + 0.5
            with contextlib.suppress(urllib.error.HTTPError):
                self._server.get(f"/v1/models/{_NAME}/versions/2")
                self._is_swapped = True
        return self._is_swapped

    def keep(self, answer: Answer) -> None:
        """Ends the requests when the server accepts no more."""
        self._has_ended |= answer.status == NO_ANSWER and self.signaled < math.inf


def _overload(measuring: Measuring, server: ServerProcess, publish: Callable[[], object]) -> dict:
    amounts = measuring.amounts
    requests = measuring.requests(server)
    load = _Overload(server, requests, publish, amounts.num_overload)
    bar = tqdm(load, "answers", amounts.num_overload, file=sys.stderr)
    found = as_fast_as_possible(server.address, iter(bar), 2 * amounts.num_clients, load.keep)
    code = server.wait()
    drained = time.perf_counter() - load.signaled
    counts = dict.fromkeys(("right", "wrong", "busy", "ended", "lost"), 0)
    for answer in found:
        if answer.status == 200:
            counts["right" if measuring.is_right(answer) else "wrong"] += 1
        elif answer.status == BUSY:
            counts["busy"] += 1
        elif answer.status == NO_ANSWER and answer.sent >= load.signaled:
            counts["ended"] += 1  # the server accepted no more requests
        else:
            counts["lost"] += 1
    return {**counts, "num_requests": len(found), "drain_seconds": drained, "exit_code": code}


def memory(measuring: Measuring) -> dict:
    """Measures the memory of the server after many requests of different lengths."""
    amounts = measuring.amounts
    measuring.use(*_DIFFERENT_SECONDS)
    with measuring.server() as server:
        process = psutil.Process(server.pid)
        requests = measuring.requests(server)
        counts = amounts.num_before, amounts.num_overload - amounts.num_before
        sizes = []
        for count in tqdm(counts, "memory", file=sys.stderr):
            found = as_fast_as_possible(
                server.address, _repeat(requests, count), amounts.num_clients
            )
            _check(measuring, found)
            sizes.append(process.memory_info().rss)
    return {
        "memory_before_mb": sizes[0] / 1e6,
        "memory_after_mb": sizes[1] / 1e6,
        "memory_ratio": sizes[1] / sizes[0],
    }


def start(measuring: Measuring) -> dict:
    """Measures the time until the server is ready and shows its page."""
    seconds, has_tensorflow = [], False
    for _ in tqdm(range(measuring.amounts.num_starts), "start", file=sys.stderr):
        started = time.perf_counter()
        with measuring.server() as server:
            for path in ("/health/ready", "/"):
                server.get(path)
            seconds.append(time.perf_counter() - started)
            maps = Path(f"/proc/{server.pid}/maps").read_text(encoding="utf-8")
            has_tensorflow = has_tensorflow or "site-packages/tensorflow/" in maps
    return {"start_seconds": float(np.median(seconds)), "tensorflow_loaded": has_tensorflow}


_MEASUREMENTS = {"throughput": throughput, "answers": answers, "memory": memory, "start": start}


def met(name: str, value: float) -> bool:
    """Returns whether a figure meets its target."""
    relation, bound = TARGETS[name]
    return value >= bound if relation == ">=" else value <= bound


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "tools.benchmark.serving",
        "Measures the built-in server with the bundled recognizer of digits.",
        "[FLAGS]",
        example="--json=serving.json",
    )
    flags.group("Output")
    flags.string("json", None, "Report to write.", default_text="none")
    flags.group("Runtime")
    flags.integer("threads", None, "Threads of the runtime.", default_text="chosen by the runtime")
    flags.group("Measurement")
    about = f"What to measure: some of {', '.join(FIGURES)}, separated by commas."
    flags.string("figures", ",".join(FIGURES), about)
    flags.boolean("quick", False, "Sends few requests, to try the program.")
    values, rest = flags.parse(argv)
    names = values.figures.split(",")
    if rest or not set(names) <= set(FIGURES):
        raise UserError.expected(
            f"--figures among {', '.join(FIGURES)}", " ".join(rest) or values.figures, "See --help"
        )
    if values.json:
        check_writable(Path(values.json))
    amounts = QUICK if values.quick else Amounts()
    report: dict = {"seed": _SEED, "num_clients": amounts.num_clients}
    with conformer.load(_MODEL, batch_size=amounts.batch_size, threads=values.threads) as session:
        measuring = Measuring(session, amounts, values.threads)
        for name in names:
            report |= _MEASUREMENTS[name](measuring)
    for name, value in report.items():
        target = ""
        if name in TARGETS:
            relation, bound = TARGETS[name]
            target = f" (target {relation} {bound:g}{'' if met(name, value) else ', NOT MET'})"
        print(
            f"{name}: {value:.3g}{target}"
            if isinstance(value, float)
            else f"{name}: {value}{target}"
        )
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
