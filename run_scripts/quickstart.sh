#!/usr/bin/env bash
# Shows the project in a few minutes: installs the environment, transcribes a file, trains a model.
# The corpus and the run are in runs/quickstart. Each call replaces the earlier run.
#   bash quickstart.sh
set -euo pipefail
# shellcheck source=help.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/help.sh"
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$project"
output_dir=runs/quickstart

title() { printf '\n== %s\n' "$*"; }

title "1/3 Installing the environment (the first time: downloads, and a few minutes to build Horovod)"
bash run_scripts/setup.sh
# shellcheck source=../env.sh
source env.sh

title "2/3 Transcribing a bundled sound file with the bundled model: in TensorFlow, then converted"
python -m conformer.infer --run_eagerly=1 conformer/pretrained/digits/sample.flac
python -m conformer.infer --run_eagerly=0 conformer/pretrained/digits/sample.flac

title "3/3 Training a tiny Conformer with two processes on synthesized speech"
rm -rf -- "$output_dir/run"
python -m tools.cli.synthesize_corpus --output_dir "$output_dir/corpus" \
  --train_utterances 300 --dev_utterances 40 --num_speakers 4
horovodrun -np 2 python conformer/train.py --config configs/conformer/quickstart.yml \
  --data_dir "$output_dir/corpus" --output_dir "$output_dir/run" --eval_at_start
python - "$output_dir/run/metrics.jsonl" <<'PYTHON'
import json
import sys

with open(sys.argv[1], encoding="utf-8") as file:
    rates = [row["eval/wer"] for row in map(json.loads, file) if "eval/wer" in row]
print(f"word error rate on new utterances: {rates[0]:.1%} before, {rates[-1]:.1%} after training")
PYTHON
