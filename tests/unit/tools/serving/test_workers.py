"""Several processes: started, watched and ended together. Each test is a program of its own."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import os, signal, sys, threading
from tools.serving.workers import Workers

def work(ready):
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    {work}
    return 0

def say(text):
    os.write(1, (text + "\\n").encode())

workers = Workers(
    work, 3, ended=lambda pid: say(f"ended {{pid}}"), ending=lambda: say("ending")
)
sys.exit(workers.run(lambda text: say(f"started {{text}}")))
"""
SERVES = 'say(f"working {os.getpid()}"); ready("hello"); ended.wait(60)'


class Program:
    def __init__(self, project, work):
        program = PROGRAM.format(work=work)
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def line(self):
        return self.process.stdout.readline().split()

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=60)
        return self.process.returncode, output.split("\n")[:-1], errors


@pytest.fixture
def program(project):
    """Returns a function that starts a program with three workers."""
    made = []

    def start(work=SERVES):
        made.append(Program(project, work))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.communicate()


def working(program):
    """Returns the numbers of the processes, when all have started."""
    lines = [program.line() for _ in range(4)]
    assert [line[0] for line in lines] == ["working"] * 3 + ["started"]
    assert lines[-1] == ["started", "hello"]
    return {int(line[1]) for line in lines[:-1]}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all(program, number):
    running = program()
    pids = working(running)
    code, output, errors = running.end(number)
    assert (code, errors) == (0, "")
    assert output[0] == "ending"
    assert {int(line.split()[1]) for line in output[1:]} == pids


def test_ctrl_c_interrupts_only_the_first_process(program):
    running = program('signal.signal(signal.SIGINT, lambda *_: say("interrupted")); ' + SERVES)
    pids = working(running)
    os.killpg(running.process.pid, signal.SIGINT)
    output, errors = running.process.communicate(timeout=20)
    assert (running.process.returncode, errors) == (0, "")
    lines = [line.split() for line in output.splitlines()]
    assert lines[0] == ["ending"] and {int(pid) for _, pid in lines[1:]} == pids


def test_a_process_that_ends_is_started_again(program):
    running = program()
    pids = working(running)
    lost = min(pids)
    os.kill(lost, signal.SIGKILL)
    assert running.line() == ["ended", str(lost)]
    new = running.line()
    assert new[0] == "working" and int(new[1]) not in pids
    code, output, errors = running.end()
    assert code == 0 and f"process {lost} ended" in errors
    assert {int(line.split()[1]) for line in output[1:]} == pids - {lost} | {int(new[1])}


def test_an_error_of_the_first_process_is_reported_once(program):
    running = program('print("no model", file=sys.stderr); return 2')
    output, errors = running.process.communicate(timeout=60)
    assert running.process.returncode == 2
    assert errors == "no model\n" and output.startswith("ending\nended ")


def test_processes_end_if_the_first_one_is_killed(program):
    running = program()
    working(running)
    running.process.kill()
    output, _ = running.process.communicate(timeout=60)  # until no process has its pipe open
    assert output == ""
