#!/usr/bin/env bash
# Trains for 10 steps in float32 on one GPU, to test an installation. See ../train_with_horovod.sh.
export STEPS="${STEPS:-10}"
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../Conformer_Float32_50E_1GPU.sh" "$@"
