#!/usr/bin/env bash
# Runs a model, converted for the fastest runtime here, over a data set: float32, batches of 4.
# -b, -p, -e and --net_name change that; see infer_run.sh.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/infer_run.sh" -b 4 -p fp32 -e 0 "$@"
