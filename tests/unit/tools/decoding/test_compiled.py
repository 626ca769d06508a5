"""The machine code of compiled functions: where it is kept, and when it is made again."""

import os
import shutil
import subprocess
import sys

TRY = "from tools.decoding.two import twice; print(twice(3))"
ONE = (
    "from tools.decoding.compiled import compiled\n\n\n@compiled\ndef once(x):\n    return x + {}\n"
)
TWO = """from tools.decoding.compiled import compiled
from tools.decoding.one import once


@compiled
def twice(x):
    return once(once(x))
"""


def test_a_change_in_another_module_compiles_again(project, tmp_path):
    package = tmp_path / "tools" / "decoding"
    package.mkdir(parents=True)
    for name in ("__init__.py", "errors.py", "files.py", "hashing.py", "decoding/compiled.py"):
        shutil.copy(project / "tools" / name, tmp_path / "tools" / name)
    (package / "__init__.py").touch()
    (package / "two.py").write_text(TWO)
    found = []
    for number in (1, 2):
        (package / "one.py").write_text(ONE.format(number))
        result = subprocess.run(
            [sys.executable, "-c", TRY],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": "", "XDG_CACHE_HOME": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(int(result.stdout))
    assert found == [5, 7]
    kept = tmp_path / "cache" / "conformer-zoo" / "machine_code"
    assert len(list(kept.iterdir())) == 2
    assert not (package / "__pycache__" / "two.twice-6.py311.nbi").exists()
