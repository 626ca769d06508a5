# shellcheck shell=bash disable=SC2154
# Selects the Horovod wheel, checks the build tools, and builds it. Sourced by setup.sh; uses its
# variables `venv`, `cache`, `workspace` and `extras`.
#
# The build requires cmake >= 3.13 and < 4. It does not require Python headers.

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
      say "Horovod: nvcc or nccl.h is missing on this machine, using Gloo instead of NCCL"
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

check_build_tools() { # sets cmake (empty if the installed one does not fit) and cmake_found
  local compiler=${CXX:-} candidate
  for candidate in c++ g++ clang++; do
    compiler=${compiler:-$(type -P "$candidate" || true)}
  done
  if [[ -z $compiler ]] || ! compiler_works "$compiler"; then
    refuse "a working C++ compiler to build Horovod" "${compiler:-none in PATH}" \
      "Install one; on Debian and Ubuntu: apt-get install g++ make"
  fi
  type -P make >/dev/null ||
    refuse "make to build Horovod" "none in PATH" \
      "Install it; on Debian and Ubuntu: apt-get install make"
  cmake=$(type -P cmake || true)
  cmake_found="no cmake"
  [[ -z $cmake ]] || cmake_found=$("$cmake" --version 2>/dev/null | sed -n '1s/ version//p')
  case $cmake_found in
    "cmake 3.1"[3-9]* | "cmake 3."[2-9][0-9]*) ;;
    *) cmake= ;;
  esac
}

fetch_cmake() { # downloads a binary from the package index of pip, for this build only
  local version
  version=$(pinned cmake)
  "$venv/bin/python" -m pip install --quiet --no-deps --target "$workspace/cmake" \
    "cmake==$version" >"$workspace/cmake.log" 2>&1 ||
    refuse "cmake >= 3.13 and < 4 to build Horovod" \
      "${cmake_found:-a broken cmake}, and pip could not fetch cmake $version" \
      "Install such a cmake, or check that pip can reach its package index"
  cmake=$workspace/cmake/cmake/data/bin/cmake
  say "Horovod: this machine has ${cmake_found:-a broken cmake}; building with cmake $version from pip's index"
}

build_horovod() {
  local jobs memory_jobs options=(
    HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1
    HOROVOD_WITHOUT_MPI=1 HOROVOD_WITH_GLOO=1
  )
  [[ $horovod_reduction == gloo ]] || options+=(HOROVOD_GPU_OPERATIONS=NCCL)
  # Compiling a file that includes the headers of TensorFlow takes up to 1.5 GB of memory.
  jobs=$(nproc)
  memory_jobs=$(awk '/^MemAvailable/ { print int($2 / 1.5e6) }' /proc/meminfo)
  ((memory_jobs >= jobs)) || jobs=$((memory_jobs > 1 ? memory_jobs : 1))
  # The CMake files of Horovod do not quote paths, so the path of Python must not contain spaces.
  plain_folder=$(mktemp -d)
  ln -s -- "$venv" "$plain_folder/venv"
  # Without the cache of pip, which ignores the build options and the version of TensorFlow.
  long "building Horovod $horovod_version (only once; takes some minutes)" "$cache/$horovod_key.log" \
    env "${options[@]}" HOROVOD_CMAKE="$cmake" MAKEFLAGS="-j$jobs" \
    "$plain_folder/venv/bin/python" -m pip wheel --verbose --no-deps --no-build-isolation --no-cache-dir \
    --no-binary horovod --wheel-dir "$workspace/wheel" "horovod==$horovod_version"
  mv -T -- "$workspace/wheel" "$horovod_folder"
}

install_horovod() {
  # setup.sh of another clone may be building the same wheel.
  exec 8>"$cache/wheels/.lock"
  if ! flock --nonblock 8; then
    say "Horovod: waiting for another setup.sh that builds it"
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
