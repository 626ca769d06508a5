# shellcheck shell=bash
# Finds Python 3.11. Sourced by setup.sh; sets `python`.

# Run each candidate to check it: pyenv has shims for versions that are not installed.
readonly python_probe='
import os, sys
if sys.version_info[:2] != (3, 11) or sys.maxsize < 2**32:
    sys.exit(3)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(4)
print(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))'

python=
python_without_venv=

try_python() { # CANDIDATE
  local answer status=0
  answer=$("$1" -c "$python_probe" 2>/dev/null) || status=$?
  if ((status == 0)) && [[ -x $answer ]]; then python=$answer; fi
  if ((status == 4)); then python_without_venv=$1; fi
  [[ -n $python ]]
}

try_uv() { # UV
  local answer
  answer=$("$1" python find --system --no-project 3.11 2>/dev/null) && try_python "$answer"
}

find_python() {
  local candidate uv pyenv=${PYENV_ROOT:-~/.pyenv}
  while IFS= read -r candidate; do
    if try_python "$candidate"; then return; fi
  done < <(
    type -aP python3.11 python3 python || true
    printf '%s\n' "$pyenv"/versions/3.11*/bin/python3.11 | sort -rV
  )
  for uv in "$(type -P uv)" ~/.local/bin/uv ~/.cargo/bin/uv; do
    [[ -x $uv ]] || continue
    if try_uv "$uv"; then return; fi
    say "no Python 3.11 found: installing it with uv"
    if "$uv" python install --quiet 3.11 2>/dev/null && try_uv "$uv"; then return; fi
  done
  [[ -z $python_without_venv ]] ||
    refuse "Python 3.11 with the modules venv and ensurepip" "$python_without_venv without them" \
      "Install them; on Debian and Ubuntu: apt-get install python3.11-venv"
  refuse "Python 3.11" "no working python3.11 in PATH, in pyenv or from uv" \
    "Install it: apt-get install python3.11-venv, pyenv install 3.11, or uv python install 3.11"
}
