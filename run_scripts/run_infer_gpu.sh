#!/usr/bin/env bash
# Classifies an image or the images in a folder, on a GPU if one is available:
#   bash run_infer_gpu.sh DATA [--checkpoint CHECKPOINT] [--arch ARCHITECTURE] [--output OUTPUT_JSON_FILE]
# Other flags of vision.infer can follow, such as --native_savedmodel_dir instead of --checkpoint.
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../env.sh
source "$project/env.sh"
exec python -m vision.infer "$@"
