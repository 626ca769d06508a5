#!/usr/bin/env bash
# Trains a vision Conformer with one process for each device (default: all GPUs of this machine):
#   bash run_distribute_train_gpu.sh CONFIG [--num_devices N] [--device_ids 0,1,..] [--checkpoint CKPT] [--extra FLAGS]
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/train_vision.sh" distribute "$@"
