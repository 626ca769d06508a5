#!/usr/bin/env bash
# Creates or updates .venv in the project folder. Installs the exact versions in pyproject.toml, the
# project itself (editable), and Horovod, which is built once and kept in the user's cache.
#
#   bash setup.sh [--dev] [--gpu] [--peers] [--beam] [--docs] [--grpc]
#
#   --dev    also install the test tools
#   --gpu    also install the CUDA libraries; Horovod uses NCCL if NCCL and nvcc are installed
#   --peers  also install PyTorch and Transformers, for comparisons
#   --beam   also install KenLM, for language models in its binary format, which pip compiles
#   --docs   also install Sphinx, for run_scripts/docs.sh
#   --grpc   also install gRPC and the interfaces of TensorFlow Serving, for --port of serve.sh
#
# Later calls keep installed extras. If everything is up to date, a call takes less than a second.
# Packages come from the index in the pip configuration. XDG_CACHE_HOME sets the cache folder.
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"

project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
readonly project
readonly venv=$project/.venv
readonly state=$venv/.setup # a file for each installed part, with the fingerprint of its sources
readonly cache=${XDG_CACHE_HOME:-~/.cache}/conformer-zoo
cd -- "$project"
# shellcheck source=setup/progress.sh
source run_scripts/setup/progress.sh
# shellcheck source=setup/python.sh
source run_scripts/setup/python.sh
# shellcheck source=setup/horovod.sh
source run_scripts/setup/horovod.sh

workspace=
plain_folder=
# shellcheck disable=SC2317,SC2329 # called by the trap
clean_up() {
  # bash 5.2 sometimes prints that it has no record of a process that it has just started.
  {
    stop_heartbeat
    [[ -z $workspace ]] || rm -rf -- "$workspace"
    [[ -z $plain_folder ]] || rm -rf -- "$plain_folder"
  } 2>/dev/null
}
trap clean_up EXIT
trap 'exit 130' INT

pinned() { # NAME; prints the version in pyproject.toml; for the name `constraints`, the whole list
  "$python" - "$1" <<'PYTHON'
import sys
import tomllib

with open("pyproject.toml", "rb") as file:
    document = tomllib.load(file)
pins = dict(pin.split("==") for pin in document["project"]["dependencies"])
pins |= document["tool"]["conformer-zoo"]
value = pins[sys.argv[1]]
print(value if isinstance(value, str) else "\n".join(value))
PYTHON
}

fingerprint() { # a new installation is required when its output changes
  sha256sum <pyproject.toml
  printf '%s\n' "$project"
  readlink -f "$venv/bin/python"
}

is_complete() {
  local part now
  [[ -x $venv/bin/python && -x $venv/bin/horovodrun && -s $state/horovod ]] || return 1
  now=$(fingerprint)
  for part in base "${extras[@]}"; do
    [[ -r $state/$part && $(<"$state/$part") == "$now" ]] || return 1
  done
  # The stamp tells how Horovod was built; NCCL may have been installed since.
  [[ " ${extras[*]-} " != *" gpu "* || $(<"$state/horovod") != *-gloo-* ]] || ! nvcc_and_nccl || return 1
  for part in tensorflow tensorflow_io tensorflow_text keras horovod; do
    [[ -d $venv/lib/python3.11/site-packages/$part ]] || return 1
  done
}

is_usable() { # whether .venv has Python 3.11 and pip, and was created for this folder
  grep -qsF -- "$venv" "$venv/bin/activate" &&
    "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
}

extras=()
for argument in "$@"; do
  case $argument in
    --dev | --gpu | --peers | --beam | --docs | --grpc) extras+=("${argument#--}") ;;
    *) refuse "--dev, --gpu, --peers, --beam, --docs or --grpc" "$argument" "Run bash run_scripts/setup.sh --help" ;;
  esac
done

[[ $(uname -s)/$(uname -m) == Linux/x86_64 ]] ||
  refuse "Linux on x86-64, which tensorflow-io requires" "$(uname -s) on $(uname -m)" \
    "Use such a machine"

# A second run waits for the first. The lock is on a folder, so that no lock file is left behind.
exec 9<"$project/run_scripts"
if ! flock --nonblock 9; then
  say "environment: waiting for another setup.sh in this folder"
  flock 9
fi
for extra in dev gpu peers beam docs grpc; do
  [[ ! -e $state/$extra || " ${extras[*]-} " == *" $extra "* ]] || extras+=("$extra")
done
if is_complete; then
  say "environment: .venv is up to date"
  exit 0
fi

# Check all requirements before anything is downloaded.
find_python
choose_horovod
mkdir -p -- "$cache/wheels" 2>/dev/null || true
workspace=$(mktemp -d "$cache/wheels/.building.XXXXXX" 2>/dev/null) ||
  refuse "a writable cache folder" "$cache" "Set another folder in XDG_CACHE_HOME"
cmake=unused
find_horovod_wheel || check_build_tools

if ! is_usable; then
  say "environment: creating .venv with $python"
  if ! "$python" -m venv --clear "$venv" >"$workspace/venv.log" 2>&1; then
    refuse "an environment in $venv" "$(tail -n 1 "$workspace/venv.log")" "Run setup.sh again"
  fi
fi
[[ -n $cmake ]] || fetch_cmake
mkdir -p -- "$state"
for part in base "${extras[@]}"; do rm -f -- "$state/$part"; done

made_from=$(fingerprint) # before installing, so that an edit of pyproject.toml meanwhile is noticed
pinned constraints >"$workspace/constraints.txt"
selection=$(IFS=, && printf '%s' "${extras[*]-}")
long "installing packages" "$state/packages.log" \
  "$venv/bin/python" -m pip install --progress-bar off --constraint "$workspace/constraints.txt" \
  --editable ".${selection:+[$selection]}"

if [[ ! -x $venv/bin/horovodrun || ! -e $state/horovod || $(<"$state/horovod") != "$horovod_key" ]]; then
  install_horovod
fi
long "checking that everything loads" "$state/check.log" env TF_CPP_MIN_LOG_LEVEL=3 \
  "$venv/bin/python" -c "import tensorflow_io, tensorflow_text, keras, horovod.tensorflow, tools"

printf '%s\n' "$horovod_key" >"$state/horovod"
for part in base "${extras[@]}"; do printf '%s\n' "$made_from" >"$state/$part"; done
say "environment: .venv is ready; activate it with: source env.sh"
