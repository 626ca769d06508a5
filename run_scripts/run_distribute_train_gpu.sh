#!/usr/bin/env bash
# Trains a vision Conformer in a process for each device (by default all GPUs of this machine):
#   bash run_distribute_train_gpu.sh CONFIG [--num_devices N] [--device_ids 0,1,..] [--checkpoint CKPT] [--extra FLAGS]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/train_vision.sh" distribute "$@"
