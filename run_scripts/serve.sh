#!/usr/bin/env bash
# Serves models over HTTP on port 8501: the REST interface of TensorFlow Serving, transcriptions,
# and a page to try them. Without MODEL_ROOT the bundled models are served.
#   bash serve.sh [--engine built_in|tensorflow_serving] [flags of tools.cli.serve]
# MODEL_ROOT  folder with NAME/VERSION/ folders, as tools.cli.publish writes
# IMAGE       image of TensorFlow Serving, where its binary is not installed but Docker is
#             (default tensorflow/serving:2.16.1)
# With --engine tensorflow_serving, the flags go to tensorflow_model_server.
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
engine=built_in
flags=()
while [ $# -gt 0 ]; do
  case $1 in
    --engine) engine=${2-}; shift; [ $# -eq 0 ] || shift ;;
    --engine=*) engine=${1#*=}; shift ;;
    *) flags+=("$1"); shift ;;
  esac
done

refuse() { # EXPECTED RECEIVED DO
  printf 'Error: Expected %s. Received: %s. %s.\n' "$@" >&2
  exit 2
}

case $engine in
  built_in)
    cd -- "$project"
    # shellcheck source=../env.sh
    source env.sh
    # shellcheck source=flags.sh
    source run_scripts/flags.sh
    [ -z "${MODEL_ROOT:-}" ] || is_given model_root ${flags[@]+"${flags[@]}"} ||
      flags=(--model_root="$MODEL_ROOT" ${flags[@]+"${flags[@]}"})
    exec python -m tools.cli.serve ${flags[@]+"${flags[@]}"}
    ;;
  tensorflow_serving)
    [ -n "${MODEL_ROOT:-}" ] || refuse "MODEL_ROOT, the folder of the models" "none" \
      "Make one with python -m tools.cli.publish"
    root=$(CDPATH='' cd -- "$MODEL_ROOT" 2>/dev/null && pwd) ||
      refuse "a folder in MODEL_ROOT" "$MODEL_ROOT" "Correct it"
    [ -f "$root/models.config" ] ||
      refuse "models.config in $root" "none" "Write it with python -m tools.cli.publish"
    if command -v tensorflow_model_server >/dev/null; then
      # The paths in models.config are those of the container.
      config=$(mktemp)
      trap 'rm -f -- "$config"' EXIT
      sed "s|\"/models/|\"$root/|" "$root/models.config" >"$config"
      tensorflow_model_server --rest_api_port=8501 --model_config_file="$config" \
        --enable_batching --batching_parameters_file="$root/batching.config" \
        --monitoring_config_file="$root/monitoring.config" ${flags[@]+"${flags[@]}"}
    elif command -v docker >/dev/null; then
      docker info >/dev/null 2>&1 || refuse "a running Docker engine" "none" \
        "Start it, or leave --engine out"
      exec docker run --rm -p 8500:8500 -p 8501:8501 -v "$root:/models:ro" \
        "${IMAGE:-tensorflow/serving:2.16.1}" --model_config_file=/models/models.config \
        --enable_batching --batching_parameters_file=/models/batching.config \
        --monitoring_config_file=/models/monitoring.config ${flags[@]+"${flags[@]}"}
    else
      refuse "tensorflow_model_server or docker" "neither is installed" \
        "Install one of them, or leave --engine out"
    fi
    ;;
  *) refuse "--engine built_in or tensorflow_serving" "${engine:-nothing}" "Correct the flag" ;;
esac
