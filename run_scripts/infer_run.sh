#!/usr/bin/env bash
# Runs a model over a data set and reports its accuracy and speed:
#   bash infer_run.sh [-b BATCH_SIZE] [-p PRECISION] [-e RUN_EAGERLY] [--net_name NET] [further flags]
# -e 1 runs the SavedModel in TensorFlow; -e 0 runs a converted model, which the first run creates.
#   NET         model family, default: conformer (speech); further flags are passed to its program,
#               which lists them with `python -m conformer.infer --help`
# Environment variables; env.sh sets the defaults:
#   DATA_DIR    folder of LibriSpeech, or one split; for vision IMAGENET_DIR, which contains the folder val
#   SPLIT       split in DATA_DIR, default: test-clean if DATA_DIR holds splits
#   INFER_CKPT  the SavedModel; has a default for conformer only
#   RESULT_PATH JSON file of the report
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../env.sh
source "$project/env.sh"
# shellcheck source=flags.sh
source "$project/run_scripts/flags.sh"
own_model=$INFER_CKPT
# The default that env.sh sets is a speech model, also if the calling shell has sourced env.sh.
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

net=${net,,} # the original page writes Conformer
[[ $net =~ ^[a-z0-9_]+$ && -e $project/$net/session.py ]] || usage
case ${run_eagerly,,} in
  1 | t | true) run_eagerly=1 ;;
  0 | f | false) run_eagerly=0 ;;
  *) usage ;;
esac
program=$net.infer data_dir=$DATA_DIR
has_transcripts() { # at a depth below DATA_DIR: 3 in a split, 4 in a folder of splits
  [[ -n $(find -L "$DATA_DIR" -mindepth "$1" -maxdepth "$1" -name '*.trans.txt' -print -quit \
    2> /dev/null) ]]
}
data=DATA_DIR
[[ $net != vision ]] || data=IMAGENET_DIR
is_given data_dir "${flags[@]}" || require_data "$data"
if [[ $net == vision ]]; then
  program=vision.eval data_dir=$IMAGENET_DIR/val
elif ! is_given data_dir "${flags[@]}" &&
  { [[ -n ${SPLIT:-} ]] || { ! has_transcripts 3 && has_transcripts 4; }; }; then
  data_dir=$DATA_DIR/${SPLIT:=test-clean}
  if [[ ! -d $data_dir ]]; then
    present=$(find -L "$DATA_DIR" -mindepth 1 -maxdepth 1 -type d ! -name '.*' -printf '%f\n' \
      2> /dev/null | sort | paste -s -d ' ')
    echo "Error: Expected the split $SPLIT in $DATA_DIR. Received: ${present:-no folders}." \
      "Set SPLIT to a split that exists." >&2
    exit 2
  fi
fi
if [[ $net == conformer && -z $own_model ]] && ! is_given native_savedmodel_dir "${flags[@]}" &&
  ! is_given pretrained "${flags[@]}"; then
  echo "No INFER_CKPT: running the bundled model, which recognizes the ten digits only." >&2
fi
own=()
is_given data_dir "${flags[@]}" || own=(--data_dir "$data_dir")
own+=(--batch_size "$batch_size")
if [[ $net == conformer || -n $own_model ]] && ! is_given native_savedmodel_dir "${flags[@]}" &&
  ! is_given pretrained "${flags[@]}"; then
  own+=(--native_savedmodel_dir "$INFER_CKPT")
fi

mode=jit
[[ $run_eagerly == 0 ]] || mode=eager
report=$project/runs/infer_${net}_${mode}_${precision}_bsz_$batch_size.json
is_given result_path "${flags[@]}" || own+=(--result_path "${RESULT_PATH:-$report}")
exec python -m "$program" --run_eagerly="$run_eagerly" --quant_precision="$precision" \
  "${own[@]}" "${flags[@]}"
