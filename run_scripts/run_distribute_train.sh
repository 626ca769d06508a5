#!/usr/bin/env bash
# The same as run_distribute_train_gpu.sh, under its other name:
#   bash run_distribute_train.sh CONFIG [--num_devices N] [--device_ids 0,1,..] [--checkpoint CKPT] [--extra FLAGS]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/train_vision.sh" distribute "$@"
