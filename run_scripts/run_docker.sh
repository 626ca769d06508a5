#!/usr/bin/env bash
# Opens a shell in the container of the project. Builds the image from the DOCKERFILE and starts the
# container if required. Environment variables: DATA_DIR (mounted under the same path), IMAGE_NAME,
# MY_CONTAINER.
#   bash run_docker.sh
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
image=${IMAGE_NAME:-conformer-zoo:latest}
container=${MY_CONTAINER:-conformer-zoo}

if ! docker info >/dev/null 2>&1; then
  echo "Expected a running Docker. Received: none. Start Docker, or install Docker Engine with the NVIDIA runtime." >&2
  exit 2
fi
if [[ -z $(docker images --quiet "$image") ]]; then
  docker build --tag "$image" --file "$project/DOCKERFILE" "$project"
fi
if [[ -z $(docker ps --all --quiet --filter "name=^/$container\$") ]]; then
  options=(--detach --interactive --tty --name "$container" --network host --shm-size 16g)
  if docker info --format '{{json .Runtimes}}' | grep -q nvidia; then
    options+=(--gpus all)
  fi
  if [[ -n ${DATA_DIR:-} ]]; then
    options+=(--volume "$DATA_DIR:$DATA_DIR:ro" --env "DATA_DIR=$DATA_DIR")
  fi
  docker run "${options[@]}" "$image" >/dev/null
fi
docker start "$container" >/dev/null
exec docker exec --interactive --tty "$container" bash
