"""sherpa-onnx in a process of its own, since a missing key ends it, and its front end in NumPy."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.support.conformer_reference import mel_filters

_PROGRAM = """
import json, sys
import numpy as np, sherpa_onnx
kind, options, sounds = sys.argv[1], json.loads(sys.argv[2]), np.load(sys.argv[3])
recognizer = getattr(sherpa_onnx.OfflineRecognizer, kind)(**options)
results = []
for name in sorted(sounds):
    stream = recognizer.create_stream()
    stream.accept_waveform(16000, sounds[name])
    recognizer.decode_stream(stream)
    found = stream.result
    results.append({"tokens": found.tokens, "text": found.text, "seconds": found.timestamps})
print(json.dumps(results))
"""


def recognized(folder: Path, sounds: list[np.ndarray], mels: int) -> list[dict]:
    """Returns the tokens, the text and the times that sherpa-onnx finds in sounds at 16 kHz.

    Args:
        folder: what `conformer.export --format sherpa_onnx` has written.
        sounds: waveforms `[S]`.
        mels: number of mel bins, which sherpa-onnx does not read from a CTC model.
    """
    path = folder.parent / "sounds.npz"
    np.savez(path, **{f"{number:03}": sound for number, sound in enumerate(sounds)})
    if (folder / "encoder.onnx").exists():
        kind, names = "from_transducer", ("encoder", "decoder", "joiner")
        options: dict = {"model_type": "nemo_transducer"}
    else:
        kind, names, options = "from_nemo_ctc", ("model",), {"feature_dim": mels}
    options |= {name: str(folder / f"{name}.onnx") for name in names}
    options["tokens"] = str(folder / "tokens.txt")
    found = subprocess.run(
        [sys.executable, "-c", _PROGRAM, kind, json.dumps(options), str(path)],
        capture_output=True,
        text=True,
    )
    if found.returncode:
        raise AssertionError(found.stdout + found.stderr)
    return json.loads(found.stdout)


def features(waveform: np.ndarray, mels: int, of_ctc: bool) -> np.ndarray:
    """Features `[T, F]` as sherpa-onnx 2.0.1 computes them for models of NeMo.

    Frames of Kaldi around the middle of each step (the waveform is reflected at its ends),
    pre-emphasis within each frame, and the standard deviation with n in the denominator. CTC models
    get a periodic Hann window and filters up to 8000 Hz, transducers the window of Povey and
    filters up to 7600 Hz.
    """
    x = np.asarray(waveform, "float64")
    places = 160 * np.arange((len(x) + 80) // 160)[:, None] + np.arange(400) - 120
    places = np.where(places < 0, -places - 1, places)
    frames = x[np.where(places >= len(x), 2 * len(x) - 1 - places, places)]
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / (400 if of_ctc else 399))
    window = window if of_ctc else window**0.85
    power = np.abs(np.fft.rfft((frames - 0.97 * before) * window, 512)) ** 2
    filters = mel_filters(16000, 512, mels, 0.0, 8000.0 if of_ctc else 7600.0)
    logarithms = np.log(power @ filters + 2.0**-24)
    return (logarithms - logarithms.mean(axis=0)) / (logarithms.std(axis=0) + 1e-5)
