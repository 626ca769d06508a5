#!/usr/bin/env bash
# Makes the environment if needed, checks the style of code and scripts, and runs the tests.
# Arguments go to pytest: bash run_scripts/test.sh tests/unit/tools -x
set -euo pipefail
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$project"
bash run_scripts/setup.sh --dev
# shellcheck source=../env.sh
source env.sh

ruff check --quiet .
ruff format --check --quiet .
find . -path ./.venv -prune -o -path ./.git -prune -o -name '*.sh' -print0 |
  xargs -0 shellcheck .ci/run
# A file at a time to each worker: what the tests of a file share is made once. tests/conftest.py puts the
# longest files first, and xdist keeps that order. -rfEs lists what failed, and what was skipped and why.
python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder -rfEs "$@"
