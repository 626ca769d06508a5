#!/usr/bin/env bash
# Evaluates a split in float32, as Infer_Conformer_Float32_1GPU.sh does.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../Infer_Conformer_Float32_1GPU.sh" "$@"
