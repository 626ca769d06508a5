#!/usr/bin/env bash
# Runs a model with all combinations of batch sizes, precisions and modes, and writes the results as
# a table to the terminal and to table.csv, table.md and table.png in OUTPUT_DIR.
#   bash multi_infer_run.sh [-b BATCH_SIZES] [-p PRECISIONS] [-e RUN_EAGERLY] [--net_name NET] [flags]
# Flags can be in any order. Lists are separated by commas; the defaults are -b 1,4,16
# -p fp32,int8_fp32 -e 1,0. In TensorFlow (-e 1) only the precision of the SavedModel is run, and a
# SavedModel in fp16 or bf16 is not converted. Models are converted in separate runs before the
# measured ones, so that conversion does not count in time and memory.
# Environment variables in addition to those of infer_run.sh:
#   OUTPUT_DIR            default: runs/multi_infer
#   CALIBRATION_DATA_DIR  data set for calibration of quantized models; default: the data set
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
output_dir=${OUTPUT_DIR:-$here/../runs/multi_infer}

batch_sizes=1,4,16 precisions=fp32,int8_fp32 modes=1,0
usage() {
  echo "usage: bash ${BASH_SOURCE[0]} [-b BATCH_SIZES] [-p PRECISIONS] [-e RUN_EAGERLY]" \
    "[further arguments of infer_run.sh]" >&2
  exit 2
}
further=()
while (($#)); do
  case $1 in
    -[bpe])
      (($# > 1)) || usage
      case $1 in
        -b) batch_sizes=$2 ;;
        -p) precisions=$2 ;;
        -e) modes=$2 ;;
      esac
      shift
      ;;
    -[bpe]?*) # -b1,16
      set -- "${1:0:2}" "${1:2}" "${@:2}"
      continue
      ;;
    --batch_size* | --quant_precision* | --run_eagerly* | --norun_eagerly | --result_path*)
      # The name of a report contains these values.
      echo "Error: Expected -b, -p, -e or OUTPUT_DIR. Received: $1. Use one of these instead." >&2
      exit 2
      ;;
    -*) [[ $1 == --* ]] || usage
      further+=("$1") ;;
    *) further+=("$1") ;;
  esac
  shift
done
# shellcheck source=flags.sh
source "$here/flags.sh"
calibration=() least=()
[[ -z ${CALIBRATION_DATA_DIR:-} ]] || is_given calibration_data_dir "${further[@]}" ||
  calibration=(--calibration_data_dir "$CALIBRATION_DATA_DIR")
# What converts a model without a long run.
is_given data_ratio "${further[@]}" || least+=(--data_ratio 0.000001)
is_given warmup_count "${further[@]}" || least+=(--warmup_count 0)

own=$(sed -n 's/^ *"precision": "\([a-z0-9]*\)".*/\1/p' \
  "${INFER_CKPT:-}/assets/pipeline.json" 2> /dev/null) || true
own=${own:-fp32}

mkdir -p -- "$output_dir"
reports=()
for batch_size in ${batch_sizes//,/ }; do
  for run_eagerly in ${modes//,/ }; do
    for precision in ${precisions//,/ }; do
      [[ $run_eagerly == 0 && $own == fp32 || $run_eagerly != 0 && $precision == "$own" ]] || continue
      mode=jit
      [[ $run_eagerly == 0 ]] || mode=eager
      name=${mode}_${precision}_bsz_$batch_size
      run=(bash "$here/infer_run.sh" -b "$batch_size" -p "$precision" -e "$run_eagerly"
        "${calibration[@]}" "${further[@]}")
      printf '\n== %s\n' "$name" >&2
      [[ $run_eagerly != 0 ]] ||
        RESULT_PATH=$output_dir/.converting.json "${run[@]}" "${least[@]}"
      RESULT_PATH=$output_dir/$name.json "${run[@]}"
      reports+=("$output_dir/$name.json")
    done
  done
done
rm -f -- "$output_dir"/.converting.*
# shellcheck source=../env.sh
source "$here/../env.sh"
python -m tools.benchmark.multi_infer --output_dir "$output_dir" "${reports[@]}"
