#!/usr/bin/env bash
# Evaluates a Conformer on a split in TensorFlow, in float32, with batch size 32. Writes
# test_32.tsv and test_32.json; the variables are described in infer_run.sh.
#   bash Infer_Conformer_Float32_1GPU.sh [flags of conformer.infer]
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
export RESULT_PATH="${RESULT_PATH:-test_32.json}"
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/infer_run.sh" -b 32 -p fp32 -e 1 "$@"
