#!/usr/bin/env bash
# Creates the environment if required, checks the style of code and scripts, and runs the tests.
#   bash test.sh [arguments of pytest, such as tests/unit/tools -x]
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$project"
bash run_scripts/setup.sh --dev
bash run_scripts/setup/chromium.sh
# shellcheck source=../env.sh
source env.sh

ruff check --quiet .
ruff format --check --quiet .
find . -path ./.venv -prune -o -path ./.git -prune -o -name '*.sh' -print0 |
  xargs -0 shellcheck .ci/run
hadolint DOCKERFILE
# Each worker runs one file at a time, so that the fixtures of a file are created once. tests/conftest.py
# puts the longest files first, and xdist keeps this order. -rfEs lists failed and skipped tests. A worker
# that crashes is not replaced: with files for units, xdist 3.8 waits forever for the one that replaces it.
python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder \
  --max-worker-restart=0 -rfEs "$@"
