#!/usr/bin/env bash
# The project in a few minutes: the environment, a transcription, and a training that can be watched.
# The corpus and the run lie under runs/quickstart; the run is made anew each time.
set -euo pipefail
project=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$project"
output_dir=runs/quickstart

title() { printf '\n== %s\n' "$*"; }

title "1/3 The environment (the first time: a download, and a few minutes to build Horovod)"
bash run_scripts/setup.sh
# shellcheck source=../env.sh
source env.sh

title "2/3 A bundled sound file, transcribed by the bundled model: in TensorFlow, then converted"
python -m conformer.infer --run_eagerly=1 conformer/pretrained/digits/sample.flac
python -m conformer.infer --run_eagerly=0 conformer/pretrained/digits/sample.flac

title "3/3 A tiny Conformer, trained by two processes on synthesized speech"
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
print(f"word error rate on unseen utterances: {rates[0]:.1%} before, {rates[-1]:.1%} after training")
PYTHON
