#!/usr/bin/env bash
# Evaluates a split in float16, as Infer_Conformer_AMP_1GPU.sh does.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/../Infer_Conformer_AMP_1GPU.sh" "$@"
