#!/usr/bin/env bash
# Conformer-S, LibriSpeech train-clean-100, 50 epochs, mixed precision (float16), 8 GPUs.
# The variables DATA_DIR, NP, STEPS, CONFIG and OUTPUT_DIR are described in train_with_horovod.sh.
export NP="${NP:-8}" MXP=True
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/train_with_horovod.sh" "$@"
