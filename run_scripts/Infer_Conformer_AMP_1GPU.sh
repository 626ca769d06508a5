#!/usr/bin/env bash
# Evaluates a Conformer on a split converted, in float16, with batch size 32. Writes
# test_32_amp.tsv and test_32_amp.json; the variables are described in infer_run.sh.
#   bash Infer_Conformer_AMP_1GPU.sh [flags of conformer.infer]
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
export RESULT_PATH="${RESULT_PATH:-test_32_amp.json}"
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/infer_run.sh" -b 32 -p fp16 -e 0 "$@"
