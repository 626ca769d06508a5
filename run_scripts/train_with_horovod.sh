#!/usr/bin/env bash
# Trains a speech model with NP processes. The recipes in this folder call it.
#   bash train_with_horovod.sh [flags of PROGRAM]
# Environment variables:
#   PROGRAM     conformer/train.py (default) or wav2vec2/train.py, which requires CONFIG
#   DATA_DIR    folder of the corpus (env.sh sets the default)
#   NP          number of processes, one for each GPU (default 8); 1: run without Horovod
#   STEPS       number of training steps (default: all epochs of the config)
#   CONFIG      YAML file (default: configs/conformer/conformer_s_100h.yml)
#   OUTPUT_DIR  run directory (default: a new one in runs/)
#   MXP         True: mixed precision in float16, False: float32 (default: that of the config)
#
# A flag among the arguments takes precedence over its variable.
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../env.sh
source "$project/env.sh"
# shellcheck source=flags.sh
source "$project/run_scripts/flags.sh"

refuse() {
  echo "Error: Expected $1. Received: $2. Correct the number." >&2
  exit 2
}
[[ ${NP:=8} =~ ^[1-9][0-9]*$ ]] || refuse "NP, a number of processes >= 1" "$NP"
[[ ${STEPS:-0} =~ ^[0-9]+$ ]] || refuse "STEPS, a whole number" "$STEPS"

command=(python "$project/${PROGRAM:=conformer/train.py}")
[[ -f $project/$PROGRAM ]] || {
  echo "Error: Expected conformer/train.py or wav2vec2/train.py in PROGRAM. Received: $PROGRAM. Correct PROGRAM." >&2
  exit 2
}
add() { # NAME VALUE; unless the flag is among the arguments of the script
  is_given "$1" "${arguments[@]}" || command+=("--$1" "$2")
}
arguments=("$@")
[[ $PROGRAM == conformer/train.py ]] || : "${CONFIG:?required for this PROGRAM, such as configs/wav2vec2/base_100h.yml}"
resumes=false # a resumed run uses its own config and corpus instead of those of the environment
for word in "$@"; do
  [[ $word != --resume && $word != --resume=[tT1]* ]] || resumes=true
done
if [[ $resumes == false || -n ${CONFIG:-} ]]; then
  add config "${CONFIG:-$project/configs/conformer/conformer_s_100h.yml}"
fi
if [[ $resumes == false ]]; then
  is_given data_dir "${arguments[@]}" || require_data DATA_DIR
  add data_dir "$DATA_DIR"
fi
if [[ $resumes == false && -z ${CONFIG:-} && ! -d $DATA_DIR/train-clean-100 && -d $DATA_DIR/train-clean ]]; then
  echo "no train-clean-100 in $DATA_DIR: training on train-clean with a character vocabulary" >&2
  command+=(--set data.train_splits=train-clean --set tokenizer.kind=characters)
fi
[[ -z ${STEPS:-} ]] || add steps "$STEPS"
[[ -z ${OUTPUT_DIR:-} ]] || add output_dir "$OUTPUT_DIR"
[[ -z ${MXP:-} ]] || is_given mxp "$@" || command+=("--mxp=$MXP")

if ((NP == 1)); then
  exec "${command[@]}" "$@"
fi
exec horovodrun -np "$NP" "${command[@]}" "$@"
