#!/usr/bin/env bash
# Trains a speech model with NP processes; the recipes beside it call this one. Arguments are passed
# on to the program. From the environment:
#
#   PROGRAM     conformer/train.py (the default) or wav2vec2/train.py, which wants a CONFIG
#   DATA_DIR    the corpus (env.sh holds the default)
#   NP          processes, one for each GPU (default 8); with 1, Horovod is not started
#   STEPS       ends after so many steps (default: all epochs of the config)
#   CONFIG      a YAML file (default: configs/conformer/conformer_s_100h.yml)
#   OUTPUT_DIR  the run directory (default: a new one under runs/)
set -euo pipefail
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../env.sh
source "$project/env.sh"

refuse() {
  echo "Error: Expected $1. Received: $2. Correct it." >&2
  exit 2
}
[[ ${NP:=8} =~ ^[1-9][0-9]*$ ]] || refuse "NP, a number of processes of 1 or more" "$NP"
[[ ${STEPS:-0} =~ ^[0-9]+$ ]] || refuse "STEPS, a whole number" "$STEPS"

command=(python "$project/${PROGRAM:=conformer/train.py}")
[[ $PROGRAM == conformer/train.py ]] || : "${CONFIG:?wanted with this PROGRAM, such as configs/wav2vec2/base_100h.yml}"
resumes=false # with the config and the corpus of the run, whatever the environment says
for word in "$@"; do
  [[ $word != --resume && $word != --resume=[tT1]* ]] || resumes=true
done
if [[ $resumes == false || -n ${CONFIG:-} ]]; then
  command+=(--config "${CONFIG:-$project/configs/conformer/conformer_s_100h.yml}")
fi
[[ $resumes == true ]] || command+=(--data_dir "$DATA_DIR")
if [[ $resumes == false && -z ${CONFIG:-} && ! -d $DATA_DIR/train-clean-100 && -d $DATA_DIR/train-clean ]]; then
  echo "no train-clean-100 in $DATA_DIR: training on its train-clean, in characters" >&2
  command+=(--set data.train_splits=train-clean --set tokenizer.kind=characters)
fi
[[ -z ${STEPS:-} ]] || command+=(--steps "$STEPS")
[[ -z ${OUTPUT_DIR:-} ]] || command+=(--output_dir "$OUTPUT_DIR")

if ((NP == 1)); then
  exec "${command[@]}" "$@"
fi
exec horovodrun -np "$NP" "${command[@]}" "$@"
