"""Answers the name of a program of the original pages with the command that replaces it.

The old names are links to this file; renamed.sh passes the name of a script.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.config.originals import program_answer
from tools.launcher import leave_to_first_rank

name, *words = [Path(sys.argv[0]).name, *sys.argv[1:]]
if name == "renamed.py":
    name, *words = words or ["none"]
leave_to_first_rank()
print("Error:", program_answer(name, words), file=sys.stderr)
sys.exit(2)
