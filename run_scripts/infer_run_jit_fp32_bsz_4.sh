#!/usr/bin/env bash
# Runs a converted model on a data set, in float32 with batch size 4.
# The flags -b, -p, -e and --net_name change this; see infer_run.sh.
#   bash infer_run_jit_fp32_bsz_4.sh [-b BATCH_SIZE] [-p PRECISION] [-e RUN_EAGERLY] [--net_name NET] [further flags]
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
exec bash "$(dirname -- "${BASH_SOURCE[0]}")/infer_run.sh" -b 4 -p fp32 -e 0 "$@"
