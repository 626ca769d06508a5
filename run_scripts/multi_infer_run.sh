#!/usr/bin/env bash
# Runs a model in every combination of batch sizes, precisions and modes, and puts the reports into
# one table: on the terminal, and as table.csv, table.md and table.png in OUTPUT_DIR.
#   bash multi_infer_run.sh [-b BATCH_SIZES] [-p PRECISIONS] [-e RUN_EAGERLY] [--net_name NET] [flags]
# Flags come in any order. Lists have commas: -b 1,4,16 -p fp32,int8_fp32 -e 1,0 are the defaults. TensorFlow itself (-e 1)
# computes in fp32 only. Models are converted in runs of their own, so that neither their time nor
# their memory is counted. From the environment, further to infer_run.sh:
#   OUTPUT_DIR            default: runs/multi_infer
#   CALIBRATION_DATA_DIR  data to quantize with; default: those that are run
set -euo pipefail
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
      # A report is named by what it holds.
      echo "Error: Expected -b, -p, -e or OUTPUT_DIR. Received: $1. Use them in its place." >&2
      exit 2
      ;;
    -*) [[ $1 == --* ]] || usage
      further+=("$1") ;;
    *) further+=("$1") ;;
  esac
  shift
done
calibration=()
[[ -z ${CALIBRATION_DATA_DIR:-} ]] || calibration=(--calibration_data_dir "$CALIBRATION_DATA_DIR")

mkdir -p -- "$output_dir"
reports=()
for batch_size in ${batch_sizes//,/ }; do
  for run_eagerly in ${modes//,/ }; do
    for precision in ${precisions//,/ }; do
      [[ $run_eagerly == 0 || $precision == fp32 ]] || continue
      mode=jit
      [[ $run_eagerly == 0 ]] || mode=eager
      name=${mode}_${precision}_bsz_$batch_size
      run=(bash "$here/infer_run.sh" -b "$batch_size" -p "$precision" -e "$run_eagerly"
        "${calibration[@]}" "${further[@]}")
      printf '\n== %s\n' "$name" >&2
      [[ $run_eagerly != 0 ]] ||
        RESULT_PATH=$output_dir/.converting.json "${run[@]}" --data_ratio 0.000001 --warmup_count 0
      RESULT_PATH=$output_dir/$name.json "${run[@]}"
      reports+=("$output_dir/$name.json")
    done
  done
done
rm -f -- "$output_dir"/.converting.*
# shellcheck source=../env.sh
source "$here/../env.sh"
python -m tools.benchmark.multi_infer --output_dir "$output_dir" "${reports[@]}"
