"""A pytest plugin: records the outcome of every test, and which files the project's modules are.

`run.py` loads it in the process that tests a copy of the project.
"""

import json
import os
import sys
from pathlib import Path

PACKAGES = ("conformer", "tools", "vision", "wav2vec2")


class Recorder:
    """Collects outcomes and writes them to the file that `MUTATION_RECORD` names."""

    def __init__(self):
        self.outcomes = []

    def pytest_collectreport(self, report):
        """Records a file that cannot be collected."""
        if report.failed:
            self.outcomes.append([report.nodeid, "collect", "failed"])

    def pytest_runtest_logreport(self, report):
        """Records set-up, call and tear-down of a test."""
        if report.when == "call" or not report.passed:
            self.outcomes.append([report.nodeid, report.when, report.outcome])

    def pytest_sessionfinish(self):
        """Writes the record."""
        files = sorted(
            str(Path(module.__file__).resolve())
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] in PACKAGES and getattr(module, "__file__", None)
        )
        record = {"outcomes": self.outcomes, "files": files}
        Path(os.environ["MUTATION_RECORD"]).write_text(json.dumps(record))


def pytest_configure(config):
    """Starts the record."""
    config.pluginmanager.register(Recorder())
