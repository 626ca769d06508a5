#!/usr/bin/env bash
# Transcribes DATA_DIR with the model INFER_CKPT, reports WER, CER and speed:
#   bash infer_run.sh [-b BATCH_SIZE] [-p PRECISION] [-e RUN_EAGERLY] [further flags of conformer.infer]
# With -e 1 TensorFlow runs the SavedModel; with -e 0 a converted one runs, made on first use.
# From the environment: DATA_DIR, INFER_CKPT (env.sh holds the defaults), RESULT_PATH (a JSON file).
set -euo pipefail
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../env.sh
source "$project/env.sh"

batch_size=4 precision=fp32 run_eagerly=0
while getopts :b:p:e: option; do
  case $option in
    b) batch_size=$OPTARG ;;
    p) precision=$OPTARG ;;
    e) run_eagerly=$OPTARG ;;
    *)
      [[ ${!OPTIND-} != --* ]] || break # a flag of the program
      echo "usage: bash ${BASH_SOURCE[0]} [-b BATCH_SIZE] [-p PRECISION] [-e RUN_EAGERLY]" \
        "[further flags of conformer.infer]" >&2
      exit 2
      ;;
  esac
done
shift $((OPTIND - 1))

mode=jit
[[ $run_eagerly == 0 ]] || mode=eager
exec python -m conformer.infer --run_eagerly="$run_eagerly" --quant_precision="$precision" \
  --data_dir "$DATA_DIR" --batch_size "$batch_size" --native_savedmodel_dir "$INFER_CKPT" \
  --result_path "${RESULT_PATH:-$project/runs/infer_${mode}_${precision}_bsz_$batch_size.json}" "$@"
