"""Plants the faults of `faults.yml` one at a time in a copy of the project and runs their tests.

    python tests/mutation/run.py [NAME ...] [--jobs N] [--faults FILE]

A fault is caught when a test that the list names for it fails in its call. A test that cannot be
collected or set up does not count, since it says nothing of the behaviour. The exit code is 1 when
a fault survives that is not listed with a reason, and 2 when the list does not fit the code.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[2]
FAULTS = Path(__file__).with_name("faults.yml")
TIME_LIMIT_S = 300
CAUGHT = "caught"


class ListError(Exception):
    """The list of faults does not fit the code."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """A change of one place in the code that tests must notice.

    Attributes:
        name: unique.
        file: path in the project.
        old: text that occurs exactly once in the file.
        new: what takes its place.
        tests: pytest's ids of what must fail: `FILE` or `FILE::TEST`.
        survives: reason why no test can notice it; such a fault must survive.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    survives: str = ""

    def plant(self, root: Path) -> str:
        """Changes the file in a copy of the project and returns its former text."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")
        return text


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a fault."""

    fault: Fault
    outcome: str  # CAUGHT, or what happened instead
    test: str  # the first test that failed
    seconds: float

    @property
    def as_wanted(self) -> bool:
        """Whether it was caught, or survived as its entry says."""
        return (self.outcome == CAUGHT) != bool(self.fault.survives)


def read_faults(path: Path = FAULTS, root: Path = PROJECT) -> list[Fault]:
    """Reads the list and checks every entry against the code.

    Args:
        path: of the YAML list.
        root: of the project.

    Raises:
        ListError: one line for each entry that is wrong.
    """
    fields = {field.name for field in dataclasses.fields(Fault)}
    faults, problems = [], []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        label = entry.get("name", entry)
        if unknown := entry.keys() - fields:
            problems.append(f"{label}: unknown key {sorted(unknown)[0]}")
            continue
        if missing := fields - {"survives"} - entry.keys():
            problems.append(f"{label}: no {sorted(missing)[0]}")
            continue
        fault = Fault(**{**entry, "tests": tuple(entry["tests"])})
        file = root / fault.file
        count = file.read_text(encoding="utf-8").count(fault.old) if file.is_file() else None
        if count is None:
            problems.append(f"{label}: no file {fault.file}")
        elif count != 1:
            problems.append(f"{label}: the old text occurs {count} times in {fault.file}, not once")
        elif fault.old == fault.new or not fault.tests:
            problems.append(f"{label}: changes nothing, or names no tests")
        absent = [test for test in fault.tests if not (root / test.partition("::")[0]).is_file()]
        problems += [f"{label}: no test file {test}" for test in absent]
        if fault.name in {other.name for other in faults}:
            problems.append(f"{label}: occurs twice")
        faults.append(fault)
    if problems:
        raise ListError("\n".join(problems))
    return faults


def copy_project(target: Path, root: Path = PROJECT) -> Path:
    """Copies what git tracks or would track, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
    # Tests of real recordings look for them beside the checkout.
    shared = root.parent / "shared"
    if shared.is_dir() and not (target.parent / "shared").exists():
        (target.parent / "shared").symlink_to(shared)
    return target


class Copy:
    """A copy of the project with a process that runs its tests; see `worker`.

    Args:
        root: of the copy.
    """

    def __init__(self, root: Path):
        self.root = root
        self._record = root.parent / f"{root.name}.json"
        environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            # Python tells by time and size whether compiled code is still good: faults keep both.
            "PYTHONDONTWRITEBYTECODE": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "KERAS_BACKEND": "tensorflow",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "tests.mutation.worker"],
            cwd=root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run_tests(self, tests: Sequence[str], stop_early: bool) -> dict:
        """Runs tests and checks that it is the copy's code that was tested.

        Args:
            tests: pytest's ids.
            stop_early: whether to stop at the first failure, and after `TIME_LIMIT_S`.

        Returns:
            `outcomes`: [id, phase, outcome] of what ran; `output`: what pytest printed.

        Raises:
            ListError: modules of another checkout were imported.
        """
        self._record.unlink(missing_ok=True)
        limit_s = TIME_LIMIT_S if stop_early else None
        asked = {"tests": [*tests], "record": str(self._record), "stop_early": stop_early}
        print(json.dumps({**asked, "limit_s": limit_s}), file=self._worker.stdin, flush=True)
        if not self._worker.stdout.readline():
            raise ListError(f"the process that runs the tests of {self.root} ended")
        output = Path(f"{self._record}.out").read_text(errors="replace")
        if not self._record.is_file():
            return {"outcomes": [], "output": output}
        found = json.loads(self._record.read_text())
        root = self.root.resolve()
        elsewhere = [file for file in found["files"] if not Path(file).is_relative_to(root)]
        if elsewhere:
            raise ListError(f"the tests of the copy {self.root} imported {elsewhere[0]}")
        return {"outcomes": found["outcomes"], "output": output}

    def close(self) -> None:
        """Ends the process."""
        self._worker.stdin.close()
        self._worker.wait()
        self._worker.stdout.close()


def judge(fault: Fault, outcomes: Sequence[Sequence[str]], seconds: float) -> Verdict:
    """Says what became of a fault from the outcomes of its tests."""
    for test, phase, outcome in outcomes:
        if outcome == "failed":
            caught = phase == "call"
            return Verdict(fault, CAUGHT if caught else f"broke {phase}", test, seconds)
    if not outcomes:
        return Verdict(fault, "no test ended", "", seconds)
    ran = any(outcome == "passed" for _, _, outcome in outcomes)
    return Verdict(fault, "survived" if ran else "tests skipped", "", seconds)


def try_fault(fault: Fault, copies: "queue.Queue[Copy]") -> Verdict:
    """Plants a fault in a free copy, runs its tests and mends the copy."""
    copy = copies.get()
    started = time.monotonic()
    original = fault.plant(copy.root)
    try:
        found = copy.run_tests(fault.tests, stop_early=True)
        return judge(fault, found["outcomes"], time.monotonic() - started)
    finally:
        (copy.root / fault.file).write_text(original, encoding="utf-8")
        copies.put(copy)


def check_sound(copy: Copy, faults: Sequence[Fault]) -> None:
    """Checks that every named test passes without a fault.

    Raises:
        ListError: one does not.
    """
    tests = sorted({test for fault in faults for test in fault.tests})
    found = copy.run_tests(tests, stop_early=False)
    failed = [test for test, _, outcome in found["outcomes"] if outcome == "failed"]
    if failed or not found["outcomes"]:
        raise ListError(f"without a fault fails {', '.join(failed)}\n{found['output'][-2000:]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the faults and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults to plant; default: all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="copies at work at once")
    parser.add_argument("--faults", type=Path, default=FAULTS, help="another list")
    options = parser.parse_args(arguments)
    try:
        faults = read_faults(options.faults)
        if unknown := set(options.names) - {fault.name for fault in faults}:
            raise ListError(f"no fault is called {', '.join(sorted(unknown))}")
        chosen = [x for x in faults if not options.names or x.name in options.names]
        with tempfile.TemporaryDirectory(prefix="faults-") as folder:
            return run(chosen, Path(folder), options.jobs)
    except ListError as error:
        print(error, file=sys.stderr)
        return 2


def run(faults: Sequence[Fault], folder: Path, jobs: int) -> int:
    """Tries faults in copies below a folder; prints a line for each as it ends, and the sum."""
    opened = [Copy(copy_project(folder / f"copy-{n}")) for n in range(min(jobs, len(faults)))]
    try:
        verdicts = try_all(faults, opened)
    finally:
        for copy in opened:
            copy.close()
    caught = sum(verdict.outcome == CAUGHT for verdict in verdicts)
    print(f"{caught} of {len(verdicts)} faults are caught ({caught / len(verdicts):.0%}).")
    for verdict in verdicts:
        if not verdict.as_wanted:
            print(f"{verdict.fault.name}: {verdict.outcome}")
    return 0 if all(verdict.as_wanted for verdict in verdicts) else 1


def try_all(faults: Sequence[Fault], opened: Sequence[Copy]) -> list[Verdict]:
    """Checks the tests, then tries every fault and prints its verdict."""
    # Each copy checks a share of the tests.
    tested = sorted(faults, key=lambda fault: fault.tests)
    size = -(-len(tested) // len(opened))
    shares = [tested[first : first + size] for first in range(0, len(tested), size)]
    with concurrent.futures.ThreadPoolExecutor(len(opened)) as pool:
        list(pool.map(check_sound, opened[: len(shares)], shares))
    copies: queue.Queue[Copy] = queue.Queue()
    for copy in opened:
        copies.put(copy)
    verdicts = []
    with concurrent.futures.ThreadPoolExecutor(len(opened)) as pool:
        pending = [pool.submit(try_fault, fault, copies) for fault in faults]
        for number, future in enumerate(concurrent.futures.as_completed(pending), 1):
            verdict = future.result()
            verdicts.append(verdict)
            row = f"{verdict.fault.name:45} {verdict.fault.file:38} {verdict.outcome:14}"
            reason = f" [{verdict.fault.survives}]" if verdict.fault.survives else ""
            print(
                f"{number:3}/{len(faults)} {row} {verdict.seconds:4.0f} s  {verdict.test}{reason}"
            )
    return verdicts


if __name__ == "__main__":
    sys.exit(main())
