#!/usr/bin/env bash
# Tells what is on an image, or on the images of a folder, on a GPU where there is one:
#   bash run_infer_gpu.sh DATA [--checkpoint CHECKPOINT] [--arch ARCHITECTURE] [--output OUTPUT_JSON_FILE]
# and any other flag of vision.infer, such as --native_savedmodel_dir in place of a checkpoint.
set -euo pipefail
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../env.sh
source "$project/env.sh"
exec python -m vision.infer "$@"
