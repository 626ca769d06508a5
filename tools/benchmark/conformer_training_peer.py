"""The training step of TensorFlowASR's Conformer-S, for `tools.benchmark.conformer_training`.

Runs with the Python of an environment that has TensorFlowASR's packages. Uses the model, the loss
and the optimizer of `examples/models/transducer/conformer/small.yml.j2`.
"""

import importlib.metadata
import importlib.util
import re
import sys
import time
import types
from pathlib import Path

from tools.benchmark.peer import answer_requests, answers
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.memory import peak_resident_bytes

_RECIPE = "examples/models/transducer/conformer/small.yml.j2"


class Peer:
    """The model and one batch.

    Args:
        checkout: checkout of TensorFlowASR.
    """

    def __init__(self, checkout: Path):
        self._checkout = checkout
        sys.path.insert(0, str(checkout))
        if importlib.util.find_spec("jinja2") is None:  # of its config files, which `build` reads
            sys.modules["jinja2"] = types.ModuleType("jinja2")

    def versions(self) -> dict[str, str]:
        """Returns the versions of the packages."""
        return {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")}

    def build(self, size: int, samples: int, labels: int, vocabulary: int) -> int:
        """Builds the model and a batch of noise; returns the number of parameters.

        Args:
            size: utterances of the batch.
            samples: samples of each utterance.
            labels: labels of each utterance.
            vocabulary: symbols, the blank included.
        """
        import numpy as np
        from tensorflow_asr import keras, schemas, tf
        from tensorflow_asr.utils import keras_util

        tf.keras.utils.set_random_seed(0)
        recipe = read_recipe((self._checkout / _RECIPE).read_text(), vocabulary)
        model = keras_util.model_from_config(recipe["model_config"])
        shapes = model.make(input_shape=[samples], prediction_shape=[labels + 1], batch_size=size)
        optimizer = keras.optimizers.get(recipe["learning_config"]["optimizer_config"])
        model.compile(optimizer=optimizer, output_shapes=shapes)
        model.make_train_function()
        rng = np.random.default_rng(0)
        targets = rng.integers(1, vocabulary, (size, labels), dtype=np.int32)
        waveforms = rng.normal(0, 0.1, (size, samples)).astype("f4")
        self._batch = schemas.TrainData(
            schemas.TrainInput(
                tf.constant(waveforms),
                tf.fill([size], samples),
                tf.constant(np.pad(targets, [(0, 0), (1, 0)])),  # the blank comes first
                tf.fill([size], labels + 1),
            ),
            schemas.TrainLabel(tf.constant(targets), tf.fill([size], labels)),
        )
        self._model = model
        return int(model.count_params())

    def train(self) -> tuple[float, float]:
        """Runs one training step; returns its seconds and the mean loss of all steps so far."""
        started = time.perf_counter()
        loss = float(self._model.train_function(iter([self._batch]))["loss"])
        return time.perf_counter() - started, loss

    def peak_bytes(self) -> int:
        """Returns the peak resident memory of the process."""
        return peak_resident_bytes()


def read_recipe(text: str, vocabulary: int) -> dict:
    """Returns the content of a config file of TensorFlowASR.

    Args:
        text: content of the file, a Jinja template.
        vocabulary: size of the vocabulary; other variables of the template are left empty.
    """
    import yaml

    text = text.replace("{{decoder_config.vocabsize}}", str(vocabulary))
    return _with_numbers(yaml.safe_load(re.sub(r"\{\{.*?\}\}", "", text)))


def _with_numbers(content: object) -> object:
    """Converts words such as 1e-9, which YAML 1.1 reads as text, to numbers."""
    if isinstance(content, dict):
        return {key: _with_numbers(value) for key, value in content.items()}
    if isinstance(content, list):
        return [*map(_with_numbers, content)]
    if isinstance(content, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", content):
        return float(content)
    return content


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.benchmark.conformer_training_peer",
        "Runs the training step of TensorFlowASR for tools.benchmark.conformer_training, which "
        "starts this program.",
        example="--peer_repo=CHECKOUT",
    )
    flags.group("Model")
    about = "Checkout of TensorSpeech/TensorFlowASR."
    flags.string("peer_repo", None, about, default_text=REQUIRED)
    values, _ = flags.parse(argv)
    with answers() as stream:
        answer_requests(Peer(Path(values.peer_repo).resolve()), stream)
    return 0


if __name__ == "__main__":
    run(main)
