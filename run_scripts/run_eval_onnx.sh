#!/usr/bin/env bash
# Measures the accuracy of an ONNX file on an ImageFolder:
#   bash run_eval_onnx.sh DATA [--onnx_path ONNX_PATH] [other flags of vision.eval_onnx]
# The default of ONNX_PATH is conformer_tiny.onnx in the current folder.
set -euo pipefail
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../env.sh
source "$project/env.sh"
exec python -m vision.eval_onnx --onnx_path conformer_tiny.onnx "$@"
