#!/usr/bin/env bash
# Transcribes DATA_DIR with the model INFER_CKPT converted for the fastest runtime here,
# float32, batches of 4; -b, -p and -e
# change that, see infer_run.sh.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/infer_run.sh" -b 4 -p fp32 -e 0 "$@"
