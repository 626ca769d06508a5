#!/usr/bin/env bash
# Conformer-S, LibriSpeech train-clean-100, 50 epochs, float32, 8 GPUs.
# The variables DATA_DIR, NP, STEPS, CONFIG and OUTPUT_DIR are described in train_with_horovod.sh.
#   bash Horovod_Conformer_Float32_50E_8GPUs.sh [flags of conformer.train]
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
export NP="${NP:-8}" MXP=False
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/train_with_horovod.sh" "$@"
