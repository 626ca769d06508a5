"""A small corpus of tones in the layout of LibriSpeech, and ways to run training on it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

TONES_HZ = {"LOW": 220.0, "MIDDLE": 660.0, "HIGH": 1760.0}
RATE_HZ = 16000


def write_corpus(root: Path, split: str, num_utterances: int, seed: int) -> None:
    """Writes utterances of one to four words, a tone each."""
    rng = np.random.default_rng(seed)
    chapter = root / split / "7" / str(seed)
    chapter.mkdir(parents=True)
    lines = []
    for number in range(num_utterances):
        words = rng.choice(list(TONES_HZ), rng.integers(1, 5))
        pieces = []
        for word in words:
            time_s = np.arange(int(RATE_HZ * rng.uniform(0.15, 0.3))) / RATE_HZ
            pieces += [np.sin(2 * np.pi * TONES_HZ[word] * time_s), np.zeros(RATE_HZ // 20)]
        sound = np.concatenate(pieces)
        sound = 0.3 * sound + 0.001 * rng.normal(size=len(sound))
        name = f"7-{seed}-{number:04d}"
        soundfile.write(chapter / f"{name}.flac", sound, RATE_HZ, subtype="PCM_16")
        lines.append(f"{name} {' '.join(words)}\n")
    (chapter / f"7-{seed}.trans.txt").write_text("".join(lines))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Seventeen training utterances and six others."""
    root = tmp_path_factory.mktemp("tones")
    write_corpus(root, "train-clean", 17, seed=1)
    write_corpus(root, "dev-clean", 6, seed=2)
    return root


@pytest.fixture(scope="session")
def train_arguments(project, corpus) -> list[str]:
    """The smoke configuration on the tones."""
    return ["--config", str(project / "configs/conformer/smoke.yml"), "--data_dir", str(corpus)]


@pytest.fixture(scope="session")
def launch(project):
    """Runs a training program in processes of its own and returns its output."""

    def run(arguments, num_processes=None, program="conformer/train.py", cwd=None, check=True):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HOROVOD_")}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        command = [sys.executable, program, *arguments]
        if num_processes:
            command = ["horovodrun", "-np", str(num_processes), *command]
        result = subprocess.run(
            command,
            cwd=cwd or project,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert not check or result.returncode == 0, result.stderr[-3000:]
        return result

    return run
