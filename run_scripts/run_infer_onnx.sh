#!/usr/bin/env bash
# Tells what is on an image, or on the images of a folder, with an ONNX file:
#   bash run_infer_onnx.sh DATA [--onnx_path ONNX_PATH] [--output OUTPUT_JSON_FILE]
# and any other flag of vision.infer_onnx. Without ONNX_PATH: conformer_tiny_patch16.onnx in this folder.
set -euo pipefail
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../env.sh
source "$project/env.sh"
exec python -m vision.infer_onnx --onnx_path conformer_tiny_patch16.onnx "$@"
