#!/usr/bin/env bash
# Classifies an image or the images in a folder with an ONNX file:
#   bash run_infer_onnx.sh DATA [--onnx_path ONNX_PATH] [--output OUTPUT_JSON_FILE]
# Other flags of vision.infer_onnx can follow. The default of ONNX_PATH is
# conformer_tiny.onnx in the current folder.
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
exec python -m vision.infer_onnx "${default[@]}" "$@"
