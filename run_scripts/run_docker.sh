#!/usr/bin/env bash
# Opens a shell in the container of the project. Builds the image from the DOCKERFILE and starts the
# container if required. Environment variables; env.sh sets the defaults of the first two:
#   DATA_DIR, IMAGENET_DIR  data sets, mounted read-only under the same path if the folder exists
#   RUNS_DIR      folder for runs and reports, mounted as runs/ of the project (default: runs/ here)
#   GPUS          GPUs of the container, as in docker run --gpus (default: all); none: CPUs only
#   IMAGE_NAME    name of the image (default: conformer-zoo:latest)
#   MY_CONTAINER  name of the container (default: conformer-zoo)
#   bash run_docker.sh
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# The container has its own environment, so the hint about a missing .venv does not matter here.
# shellcheck source=../env.sh
source "$project/env.sh" 2> /dev/null
image=${IMAGE_NAME:-conformer-zoo:latest}
container=${MY_CONTAINER:-conformer-zoo}
runs=${RUNS_DIR:-$project/runs}

refuse() { # EXPECTED RECEIVED DO
  echo "Error: Expected $1. Received: $2. $3." >&2
  exit 2
}
docker info > /dev/null 2>&1 ||
  refuse "a running Docker" "none" "Start Docker, or install Docker Engine and NVIDIA Container Toolkit"

options=(--network host --shm-size 16g)
if [[ ${GPUS:=all} != none ]]; then
  runtimes=$(docker info --format '{{json .Runtimes}}')
  [[ $runtimes == *nvidia* ]] || type -P nvidia-container-runtime-hook > /dev/null ||
    refuse "NVIDIA Container Toolkit for GPUs in containers" "the runtimes $runtimes" \
      "Install it, or set GPUS=none to use CPUs only"
  options+=(--gpus "$GPUS")
fi
for name in DATA_DIR IMAGENET_DIR; do
  if [[ -d ${!name} ]]; then
    folder=$(realpath -- "${!name}")
    options+=(--volume "$folder:$folder:ro" --env "$name=$folder")
  elif [[ ${!name} == "$project"/data/* ]]; then # the default of env.sh
    echo "$name: no folder ${!name}, nothing is mounted" >&2
  else
    refuse "$name, an existing folder" "${!name}" "Correct $name"
  fi
done
mkdir -p -- "$runs"
options+=(--volume "$(realpath -- "$runs"):/workspace/conformer-zoo/runs")

if [[ -z $(docker images --quiet "$image") ]]; then
  docker build --tag "$image" --file "$project/DOCKERFILE" "$project"
fi
label=conformer-zoo.options
wanted="$image ${options[*]}"
if [[ -z $(docker ps --all --quiet --filter "name=^/$container\$") ]]; then
  docker run --detach --interactive --tty --name "$container" --label "$label=$wanted" \
    "${options[@]}" "$image" > /dev/null
else
  found=$(docker inspect --format "{{index .Config.Labels \"$label\"}}" "$container")
  [[ $found == "$wanted" ]] ||
    refuse "the container $container with $wanted" "one with ${found:-other options}" \
      "Remove it with docker rm --force $container, or set MY_CONTAINER to another name"
fi
docker start "$container" > /dev/null
exec docker exec --interactive --tty "$container" bash
