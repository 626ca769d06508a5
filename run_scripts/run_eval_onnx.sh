#!/usr/bin/env bash
# Measures the accuracy of an ONNX file on an ImageFolder:
#   bash run_eval_onnx.sh DATA [--onnx_path ONNX_PATH] [other flags of vision.eval_onnx]
# The default of ONNX_PATH is conformer_tiny.onnx in the current folder.
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../env.sh
source "$project/env.sh"
# shellcheck source=flags.sh
source "$project/run_scripts/flags.sh"
default=(--onnx_path conformer_tiny.onnx)
! is_given onnx_path "$@" || default=()
exec python -m vision.eval_onnx "${default[@]}" "$@"
