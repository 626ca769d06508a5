#!/usr/bin/env bash
# The same as run_standalone_train_gpu.sh, under its other name:
#   bash run_standalone_train.sh CONFIG [--device ID] [--checkpoint CKPT] [--extra FLAGS OF vision.train]
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/train_vision.sh" standalone "$@"
