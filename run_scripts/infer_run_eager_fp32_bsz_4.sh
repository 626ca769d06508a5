#!/usr/bin/env bash
# Transcribes DATA_DIR with the SavedModel INFER_CKPT in TensorFlow itself, float32, and reports WER,
# CER and speed: bash infer_run_eager_fp32_bsz_4.sh [-b BATCH_SIZE] [further flags of conformer.infer]
# From the environment: DATA_DIR, INFER_CKPT (env.sh holds the defaults), RESULT_PATH (a JSON file).
set -euo pipefail
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../env.sh
source "$project/env.sh"

batch_size=4
while getopts :b: option; do
  case $option in
    b) batch_size=$OPTARG ;;
    *)
      [[ ${!OPTIND-} != --* ]] || break # a flag of the program
      echo "usage: bash ${BASH_SOURCE[0]} [-b BATCH_SIZE] [further flags of conformer.infer]" >&2
      exit 2
      ;;
  esac
done
shift $((OPTIND - 1))

exec python -m conformer.infer --run_eagerly=1 \
  --data_dir "$DATA_DIR" --batch_size "$batch_size" --native_savedmodel_dir "$INFER_CKPT" \
  --result_path "${RESULT_PATH:-$project/runs/infer_eager_fp32_bsz_$batch_size.json}" "$@"
