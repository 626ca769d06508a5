"""Answers the name of a program of the original pages with the command that replaces it.

The old names are links to this file; renamed.sh passes the name of a script.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.config.originals import program_answer

words = [Path(sys.argv[0]).name, *sys.argv[1:]]
if words[0] == "renamed.py":
    words.pop(0)
print("Error:", program_answer(words[0], words[1:]), file=sys.stderr)
sys.exit(2)
