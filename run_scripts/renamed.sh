#!/usr/bin/env bash
# Answers the name of a script of the original pages with the command that replaces it. The old
# names are links to this file.
set -euo pipefail
folder=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
exec python3 "$folder/renamed.py" "$(basename -- "$0")" "$@"
