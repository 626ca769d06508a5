#!/usr/bin/env bash
# Runs a model over a data set and reports its accuracy and speed:
#   bash infer_run.sh [-b BATCH_SIZE] [-p PRECISION] [-e RUN_EAGERLY] [--net_name NET] [further flags]
# With -e 1 TensorFlow runs the SavedModel; with -e 0 a converted one runs, made on first use.
#   NET         a family, conformer (speech) by default; further flags go to its program
# From the environment; env.sh holds the defaults:
#   DATA_DIR    LibriSpeech; for vision IMAGENET_DIR, with a folder val
#   INFER_CKPT  the SavedModel; for other families than conformer there is no default
#   RESULT_PATH a JSON file
set -euo pipefail
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../env.sh
source "$project/env.sh"
own_model=$INFER_CKPT
# What env.sh chose, also in the shell that this was started from, is for speech alone.
[[ ! $own_model -ef $project/conformer/pretrained/digits ]] || own_model=

usage() {
  local families
  families=$(cd -- "$project" && python -m tools.cli.list_families | paste -s -d '|') ||
    families=NET
  echo "usage: bash ${BASH_SOURCE[0]} [-b BATCH_SIZE] [-p PRECISION] [-e RUN_EAGERLY]" \
    "[--net_name $families] [further flags of its program]" >&2
  exit 2
}

batch_size=4 precision=fp32 run_eagerly=0 net=conformer
flags=()
while (($#)); do
  case $1 in
    -b | --batch_size) batch_size=${2-} ;;
    -p | --quant_precision) precision=${2-} ;;
    -e) run_eagerly=${2-} ;;
    --net_name) net=${2-} ;;
    --net_name=*) net=${1#*=} ;;
    --batch_size=*) batch_size=${1#*=} ;;
    --quant_precision=*) precision=${1#*=} ;;
    --run_eagerly=*) run_eagerly=${1#*=} ;;
    --run_eagerly) run_eagerly=1 ;;
    --norun_eagerly) run_eagerly=0 ;;
    -[bpe]?*) # -b16
      set -- "${1:0:2}" "${1:2}" "${@:2}"
      continue
      ;;
    --*) flags+=("$1") ;;
    -*) usage ;;
    *) flags+=("$1") ;;
  esac
  case $1 in -[bpe] | --net_name | --batch_size | --quant_precision) shift ;; esac
  shift || usage
done

[[ $net =~ ^[a-z0-9_]+$ && -e $project/$net/session.py ]] || usage
case ${run_eagerly,,} in
  1 | t | true) run_eagerly=1 ;;
  0 | f | false) run_eagerly=0 ;;
  *) usage ;;
esac
program=$net.infer data_dir=$DATA_DIR
if [[ $net == vision ]]; then program=vision.eval data_dir=$IMAGENET_DIR/val; fi
model=()
[[ $net != conformer && -z $own_model ]] || model=(--native_savedmodel_dir "$INFER_CKPT")

mode=jit
[[ $run_eagerly == 0 ]] || mode=eager
report=$project/runs/infer_${net}_${mode}_${precision}_bsz_$batch_size.json
exec python -m "$program" --run_eagerly="$run_eagerly" --quant_precision="$precision" \
  --data_dir "$data_dir" --batch_size "$batch_size" "${model[@]}" \
  --result_path "${RESULT_PATH:-$report}" "${flags[@]}"
