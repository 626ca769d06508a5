#!/usr/bin/env bash
# Trains for 10 steps in float16 on 4 GPUs, to test an installation. See ../train_with_horovod.sh.
export NP="${NP:-4}" STEPS="${STEPS:-10}"
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../Horovod_Conformer_AMP_50E_8GPUs.sh" "$@"
