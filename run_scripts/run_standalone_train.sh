#!/usr/bin/env bash
# Another name of run_standalone_train_gpu.sh:
#   bash run_standalone_train.sh CONFIG [--device ID] [--checkpoint CKPT] [--extra FLAGS OF vision.train]
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/train_vision.sh" standalone "$@"
