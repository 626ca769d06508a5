#!/usr/bin/env bash
# Evaluates a Conformer on a split converted, in float16, with batch size 32. Writes
# test_32_amp.tsv and test_32_amp.json; the variables are described in infer_run.sh.
export RESULT_PATH="${RESULT_PATH:-test_32_amp.json}"
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/infer_run.sh" -b 32 -p fp16 -e 0 "$@"
