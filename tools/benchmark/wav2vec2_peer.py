"""Runs wav2vec 2.0 of Transformers in a separate process that replies to requests.

`tools.benchmark.wav2vec2` starts it.
"""

import time

import numpy as np
import torch
import transformers

from tools.benchmark.peer import answer_requests, answers
from tools.config.command_line import CommandLine, run

_OPSET = 18


class Peer:
    """The model. Every method is a request, and its return value is the reply."""

    def versions(self) -> dict[str, str]:
        """Returns the versions of the packages."""
        return {"torch": torch.__version__, "transformers": transformers.__version__}

    def build(self, folder: str) -> None:
        """Loads a Hugging Face folder."""
        self._model = transformers.Wav2Vec2ForCTC.from_pretrained(
            folder, attn_implementation="sdpa", local_files_only=True
        ).eval()

    def take(self, waveforms: str) -> None:
        """Reads the sounds of the next requests: an `.npy` file of `[B, S]`, normalized."""
        self._waveforms = torch.from_numpy(np.load(waveforms))

    def logits(self, path: str) -> None:
        """Writes the logits, `[B, T, V]`, as `.npy`."""
        with torch.inference_mode():
            np.save(path, self._model(self._waveforms).logits.numpy())

    def time(self) -> float:
        """Runs one forward pass and returns its seconds."""
        with torch.inference_mode():
            started = time.perf_counter()
            self._model(self._waveforms)
            return time.perf_counter() - started

    def export(self, path: str, inputs: str, outputs: str) -> None:
        """Writes PyTorch's own ONNX export, for the shape of the sounds of `take`."""
        torch.onnx.export(
            self._model,
            (self._waveforms,),
            path,
            dynamo=False,  # the other exporter needs another package
            opset_version=_OPSET,
            input_names=[inputs],
            output_names=[outputs],
        )


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.benchmark.wav2vec2_peer",
        "Runs transformers for tools.benchmark.wav2vec2, which starts this program.",
        example="--threads=2",
    )
    flags.group("Runtime")
    flags.integer("threads", 2, "Threads of PyTorch.")
    values, _ = flags.parse(argv)
    with answers() as stream:
        torch.set_num_threads(values.threads)
        answer_requests(Peer(), stream)
    return 0


if __name__ == "__main__":
    run(main)
