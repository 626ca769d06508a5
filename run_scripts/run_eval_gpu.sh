#!/usr/bin/env bash
# Measures the accuracy of a checkpoint on an ImageFolder (that of CONFIG, else IMAGENET_DIR/val), on
# a GPU if one is available:
#   bash run_eval_gpu.sh CONFIG [--device DEVICE_ID] [--checkpoint CHECKPOINT] [--extra FLAGS OF vision.eval]
# Example of flags: --extra --data_url /data/imagenet --val_dir validation_preprocess
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
usage="usage: bash ${BASH_SOURCE[0]} CONFIG [--device DEVICE_ID] [--checkpoint CHECKPOINT] [--extra FLAGS OF vision.eval]"
# shellcheck source=../env.sh
source "$project/env.sh"

config='' arguments=() extra=()
while (($#)); do
  case $1 in
    --device | --checkpoint)
      (($# > 1)) || { echo "$usage" >&2; exit 2; }
      name=${1#--}
      arguments+=("--${name/#device/visible_devices}" "$2")
      shift
      ;;
    --extra) shift && extra=("$@") && break ;;
    -*) echo "$usage" >&2 && exit 2 ;;
    *) [[ -z $config ]] || { echo "$usage" >&2; exit 2; }
      config=$1 ;;
  esac
  shift
done
[[ -n $config ]] || { echo "$usage" >&2; exit 2; }
exec python -m vision.eval --config "$config" "${arguments[@]}" "${extra[@]}"
