# shellcheck shell=bash
# The environment of every run script and of your own shell: `source env.sh`, in bash, from any folder.
# What you set before stays; so does an edit of the defaults here.
_conformer_zoo=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)

# LibriSpeech: the folder that holds train-clean-100, dev-clean ... each with SPEAKER/CHAPTER below it.
export DATA_DIR="${DATA_DIR:-$_conformer_zoo/data/LibriSpeech}"
# ImageNet: the folder that holds train and val.
export IMAGENET_DIR="${IMAGENET_DIR:-$_conformer_zoo/data/imagenet}"
# The SavedModel that the inference scripts run.
export INFER_CKPT="${INFER_CKPT:-$_conformer_zoo/conformer/pretrained/digits}"

export KERAS_BACKEND="${KERAS_BACKEND:-tensorflow}"
unset TF_USE_LEGACY_KERAS
# At 2 TensorFlow 2.16 still prints three errors at import, about CUDA libraries registered twice.
export TF_CPP_MIN_LOG_LEVEL="${TF_CPP_MIN_LOG_LEVEL:-3}"
# Ranks that share few cores import TensorFlow at very different times; Gloo's own limit is 30 s.
export HOROVOD_GLOO_TIMEOUT_SECONDS="${HOROVOD_GLOO_TIMEOUT_SECONDS:-300}"

if [[ ! -r $_conformer_zoo/.venv/bin/activate ]]; then
  printf 'env.sh: no .venv yet; make it with: bash %q\n' "$_conformer_zoo/run_scripts/setup.sh" >&2
elif [[ ${VIRTUAL_ENV:-} != "$_conformer_zoo/.venv" || $PATH: != "$_conformer_zoo/.venv/bin:"* ]]; then
  # shellcheck source=/dev/null
  source "$_conformer_zoo/.venv/bin/activate"
fi

# TensorFlow 2.16 does not find the CUDA wheels of the extra `gpu` by itself (tensorflow#63362). To go when
# `tf.config.list_physical_devices("GPU")` lists the GPU without these lines.
for _folder in "$_conformer_zoo"/.venv/lib/python3.11/site-packages/nvidia/*/lib; do
  if [[ -d $_folder && :${LD_LIBRARY_PATH:-}: != *":$_folder:"* ]]; then
    export LD_LIBRARY_PATH="$_folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
  fi
done
_folder=$_conformer_zoo/.venv/lib/python3.11/site-packages/nvidia/cuda_nvcc
if [[ -d $_folder && ${XLA_FLAGS:-} != *xla_gpu_cuda_data_dir* ]]; then
  export XLA_FLAGS="--xla_gpu_cuda_data_dir=$_folder${XLA_FLAGS:+ $XLA_FLAGS}"
fi
unset _conformer_zoo _folder
