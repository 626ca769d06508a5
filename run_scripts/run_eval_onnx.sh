#!/usr/bin/env bash
# Scores an ONNX file on an ImageFolder:
#   bash run_eval_onnx.sh DATA [--onnx_path ONNX_PATH]
# and any other flag of vision.eval_onnx. Without ONNX_PATH: conformer_tiny_patch16.onnx in this folder.
set -euo pipefail
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../env.sh
source "$project/env.sh"
exec python -m vision.eval_onnx --onnx_path conformer_tiny_patch16.onnx "$@"
