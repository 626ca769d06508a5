#!/usr/bin/env bash
# Runs a SavedModel in TensorFlow on a data set, in float32 with batch size 4.
# The flags -b, -p, -e and --net_name change this; see infer_run.sh.
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/infer_run.sh" -b 4 -p fp32 -e 1 "$@"
