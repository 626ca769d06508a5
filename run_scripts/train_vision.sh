#!/usr/bin/env bash
# Trains a vision Conformer with one or more processes. Called by run_standalone_train_gpu.sh and
# run_distribute_train_gpu.sh.
#   bash train_vision.sh KIND CONFIG [--num_devices N] [--device_ids 0,1,..] [--device ID]
#                        [--checkpoint CHECKPOINT] [--extra FLAGS OF vision.train]
# KIND is distribute or standalone. The data set is that of --data_url after --extra, else that of
# CONFIG, else IMAGENET_DIR.
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=../env.sh
source "$project/env.sh"

kind=${1-}
shift || true
case $kind in
  distribute) own=" [--num_devices NUM_DEVICES] [--device_ids DEVICE_IDS, such as 0,1,2,3]" ;;
  standalone) own=" [--device DEVICE_ID]" ;;
  *) echo "usage: bash ${BASH_SOURCE[0]} distribute|standalone CONFIG ..." >&2 && exit 2 ;;
esac
refuse() {
  echo "Error: $1" >&2
  echo "usage: CONFIG$own [--checkpoint CHECKPOINT] [--extra FLAGS OF vision.train]" >&2
  exit 2
}

config='' num_devices='' device_ids='' arguments=() extra=()
while (($#)); do
  case $kind:$1 in
    distribute:--num_devices | distribute:--device_ids | standalone:--device | *:--checkpoint)
      (($# > 1)) || refuse "Expected a value after $1. Received: none."
      case $1 in
        --num_devices) num_devices=$2 ;;
        --device_ids | --device) device_ids=$2 ;;
        --checkpoint) arguments+=(--checkpoint "$2") ;;
      esac
      shift
      ;;
    *:--extra) shift && extra=("$@") && break ;;
    *:-*) refuse "Expected one of these flags. Received: $1. Put flags of vision.train after --extra." ;;
    *) [[ -z $config ]] || refuse "Expected one CONFIG. Received: $config and $1."
      config=$1 ;;
  esac
  shift
done
[[ -n $config ]] || refuse "Expected a CONFIG. Received: none."
[[ $device_ids =~ ^([0-9]+(,[0-9]+)*)?$ ]] || refuse "Expected device numbers, such as 0,1. Received: $device_ids."
[[ $num_devices =~ ^([1-9][0-9]*)?$ ]] || refuse "Expected --num_devices >= 1. Received: $num_devices."
if [[ -n $device_ids ]]; then
  commas=${device_ids//[^,]/}
  count=$((${#commas} + 1))
  : "${num_devices:=$count}"
  ((num_devices == count)) || refuse "Expected $num_devices device_ids. Received: $device_ids."
  export CUDA_VISIBLE_DEVICES=$device_ids
fi
if [[ $kind == distribute && -z $num_devices ]]; then
  num_devices=$(nvidia-smi --list-gpus 2> /dev/null | wc -l) || true
  ((num_devices > 0)) || refuse "Expected --num_devices, since no GPU was found. Received: none."
fi

command=(python "$project/vision/train.py" --config "$config" "${arguments[@]}" "${extra[@]}")
if [[ $kind == standalone ]]; then
  exec "${command[@]}"
fi
exec horovodrun -np "$num_devices" "${command[@]}"
