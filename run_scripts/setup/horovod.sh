# shellcheck shell=bash disable=SC2154
# Which Horovod wheel is wanted, what building it takes, and the build. Sourced by setup.sh, whose
# `venv`, `cache`, `workspace` and `extras` it reads.
#
# The source needs no Python headers. It does need cmake from 3.13 to below 4.

nvcc_and_nccl() {
  local folder
  type -P nvcc >/dev/null || [[ -x ${HOROVOD_CUDA_HOME:-/usr/local/cuda}/bin/nvcc ]] || return 1
  for folder in "${HOROVOD_NCCL_HOME:-/usr}" /usr /usr/local/cuda; do
    [[ ! -e $folder/include/nccl.h ]] || return 0
  done
  return 1
}

choose_horovod() { # sets horovod_version, horovod_reduction, horovod_key and horovod_folder
  horovod_version=$(pinned horovod)
  horovod_reduction=gloo
  if [[ " ${extras[*]-} " == *" gpu "* ]]; then
    if nvcc_and_nccl; then
      horovod_reduction=nccl
    else
      say "Horovod: nvcc and nccl.h are not both on this machine, so it will reduce over Gloo"
    fi
  fi
  horovod_key=horovod-$horovod_version-tensorflow-$(pinned tensorflow)-cp311-$horovod_reduction
  horovod_key+=-x86_64-$(getconf GNU_LIBC_VERSION | tr ' ' '-')
  horovod_folder=$cache/wheels/$horovod_key
}

find_horovod_wheel() { # sets horovod_wheel
  horovod_wheel=$(printf '%s' "$horovod_folder"/horovod-*.whl)
  [[ -s $horovod_wheel ]]
}

compiler_works() { # COMPILER
  "$1" -x c++ - -o /dev/null >/dev/null 2>&1 <<<'int main() { return 0; }'
}

check_build_tools() { # sets cmake, empty where the machine's own does not do, and cmake_found
  local compiler=${CXX:-} candidate
  for candidate in c++ g++ clang++; do
    compiler=${compiler:-$(type -P "$candidate" || true)}
  done
  if [[ -z $compiler ]] || ! compiler_works "$compiler"; then
    refuse "a working C++ compiler, to build Horovod" "${compiler:-none in PATH}" \
      "Install one, on Debian and Ubuntu: apt-get install g++ make"
  fi
  type -P make >/dev/null ||
    refuse "make, to build Horovod" "none in PATH" \
      "Install it, on Debian and Ubuntu: apt-get install make"
  cmake=$(type -P cmake || true)
  cmake_found="no cmake"
  [[ -z $cmake ]] || cmake_found=$("$cmake" --version 2>/dev/null | sed -n '1s/ version//p')
  case $cmake_found in
    "cmake 3.1"[3-9]* | "cmake 3."[2-9][0-9]*) ;;
    *) cmake= ;;
  esac
}

fetch_cmake() { # a binary for this one build, from where pip takes its packages
  local version
  version=$(pinned cmake)
  "$venv/bin/python" -m pip install --quiet --no-deps --target "$workspace/cmake" \
    "cmake==$version" >"$workspace/cmake.log" 2>&1 ||
    refuse "cmake from 3.13 to below 4, to build Horovod" \
      "${cmake_found:-a broken cmake}, and pip could not fetch cmake $version" \
      "Install such a cmake, or see to it that pip reaches its index"
  cmake=$workspace/cmake/cmake/data/bin/cmake
  say "Horovod: this machine has ${cmake_found:-a broken cmake}; building with cmake $version from pip's index"
}

build_horovod() {
  local jobs memory_jobs options=(
    HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1
    HOROVOD_WITHOUT_MPI=1 HOROVOD_WITH_GLOO=1
  )
  [[ $horovod_reduction == gloo ]] || options+=(HOROVOD_GPU_OPERATIONS=NCCL)
  # A compiler takes up to 1.5 GB on the files that include TensorFlow's headers.
  jobs=$(nproc)
  memory_jobs=$(awk '/^MemAvailable/ { print int($2 / 1.5e6) }' /proc/meminfo)
  ((memory_jobs >= jobs)) || jobs=$((memory_jobs > 1 ? memory_jobs : 1))
  # Horovod's CMake files quote nothing: Python and TensorFlow must lie under a path without spaces.
  plain_folder=$(mktemp -d)
  ln -s -- "$venv" "$plain_folder/venv"
  # Without pip's own cache, which knows nothing of the options and of TensorFlow's version.
  long "building Horovod $horovod_version, once, some minutes" "$cache/$horovod_key.log" \
    env "${options[@]}" HOROVOD_CMAKE="$cmake" MAKEFLAGS="-j$jobs" \
    "$plain_folder/venv/bin/python" -m pip wheel --verbose --no-deps --no-build-isolation --no-cache-dir \
    --no-binary horovod --wheel-dir "$workspace/wheel" "horovod==$horovod_version"
  mv -T -- "$workspace/wheel" "$horovod_folder"
}

install_horovod() {
  # Another clone's setup.sh may be building the same wheel.
  exec 8>"$cache/wheels/.lock"
  if ! flock --nonblock 8; then
    say "Horovod: another setup.sh is building it; waiting"
    flock 8
  fi
  if ! find_horovod_wheel; then
    build_horovod
    find_horovod_wheel
  fi
  exec 8>&-
  long "installing Horovod" "$state/horovod.log" \
    "$venv/bin/python" -m pip install --no-deps --force-reinstall "$horovod_wheel"
}
