"""The server as a process."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request


class Process:
    """A running server."""

    def __init__(self, project, *flags):
        program = [sys.executable, "-m", "tools.cli.serve", "--rest_api_port=0", *map(str, flags)]
        self.process = subprocess.Popen(
            program, cwd=project, stderr=subprocess.PIPE, text=True, env=os.environ
        )
        self.log = []
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"on (http://\S+)$", line):
                self.address = found[1]
                return
        raise AssertionError("".join(self.log))

    def get(self, path):
        with urllib.request.urlopen(self.address + path, timeout=30) as answer:
            return answer.read()

    def post(self, path, content):
        request = urllib.request.Request(self.address + path, json.dumps(content).encode())
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def end(self):
        """Asks the server to end; returns its exit code and the rest of its log."""
        self.process.send_signal(signal.SIGTERM)
        _, rest = self.process.communicate(timeout=60)
        return self.process.returncode, rest
