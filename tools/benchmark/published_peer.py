"""Runs Parakeet of transformers, or sherpa-onnx, in a process that replies to requests.

`tools.benchmark.published` starts it, possibly with the Python of another environment. Therefore it
imports nothing that only this project's environment has.
"""

import time

import numpy as np

from tools.benchmark.peer import answer_requests, answers


class Transformers:
    """A model of transformers. Every method is a request, and its return value is the reply."""

    def __init__(self, threads: int):
        import torch
        import transformers

        torch.set_num_threads(threads)
        self._torch, self._transformers = torch, transformers

    def versions(self) -> dict[str, str]:
        """Returns the versions of the packages."""
        modules = self._torch, self._transformers
        return {module.__name__: module.__version__ for module in modules}

    def build(self, folder: str) -> None:
        """Loads the encoder of a Hugging Face folder."""
        model = self._transformers.ParakeetForTDT.from_pretrained(folder, local_files_only=True)
        self._encoder = model.eval().encoder

    def take(self, features: str) -> None:
        """Reads the features of the next requests: an `.npy` file of `[B, T, F]`."""
        self._features = self._torch.from_numpy(np.load(features))

    def time(self) -> float:
        """Encodes the features and returns the seconds."""
        mask = self._torch.ones(self._features.shape[:2], dtype=self._torch.bool)
        with self._torch.inference_mode():
            started = time.perf_counter()
            self._encoder(self._features, attention_mask=mask)
            return time.perf_counter() - started


class SherpaOnnx:
    """A recognizer of sherpa-onnx. Every method is a request; see `Transformers`."""

    def __init__(self, threads: int):
        self._threads = threads

    def versions(self) -> dict[str, str]:
        """Returns the versions of the packages."""
        import sherpa_onnx

        return {"sherpa_onnx": getattr(sherpa_onnx, "__version__", "not stated")}

    def build(self, folder: str) -> None:
        """Opens the files of `conformer.export --format sherpa_onnx`."""
        import sherpa_onnx

        self._recognizer = sherpa_onnx.OfflineRecognizer.from_transducer(
            **{name: f"{folder}/{name}.onnx" for name in ("encoder", "decoder", "joiner")},
            tokens=f"{folder}/tokens.txt",
            num_threads=self._threads,
            model_type="nemo_transducer",
        )

    def take(self, waveforms: str) -> None:
        """Reads the sounds of the next requests: an `.npy` file of `[B, S]` at 16 kHz."""
        self._waveforms = np.load(waveforms)

    def time(self) -> float:
        """Recognizes the sounds and returns the seconds."""
        started = time.perf_counter()
        self._recognize()
        return time.perf_counter() - started

    def num_tokens(self) -> int:
        """Recognizes the sounds and returns the number of tokens."""
        return sum(len(stream.result.tokens) for stream in self._recognize())

    def _recognize(self) -> list:
        streams = []
        for waveform in self._waveforms:
            stream = self._recognizer.create_stream()
            stream.accept_waveform(16000, waveform)
            streams.append(stream)
        self._recognizer.decode_streams(streams)
        return streams


PEERS = {"transformers": Transformers, "sherpa_onnx": SherpaOnnx}


def answer(kind: str, threads: str) -> None:
    """Answers requests, with a key of `PEERS` and a number of threads."""
    with answers() as stream:
        answer_requests(PEERS[kind](int(threads)), stream)
