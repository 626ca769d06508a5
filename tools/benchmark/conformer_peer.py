"""Runs the Conformer-S transducer of TensorFlowASR in a separate process that replies to requests.

`tools.benchmark.conformer_recognition` starts it, in an environment in which TensorFlowASR runs.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

from tools.benchmark.paced import SEED, fitted, pace
from tools.benchmark.peer import answer_requests, answers
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError

_CONFIG = Path("examples", "models", "transducer", "conformer", "small.yml.j2")


class Peer:
    """The model. Every method is a request, and its return value is the reply.

    Args:
        checkout: checkout of TensorFlowASR.
        threads: threads of TensorFlow.

    Raises:
        UserError: the checkout cannot be imported.
    """

    def __init__(self, checkout: Path, threads: int):
        self._checkout = checkout
        sys.path.insert(0, str(checkout))
        os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)  # the import initializes TensorFlow
        try:
            import tensorflow_asr
            from tensorflow_asr import schemas
        except ImportError as error:
            raise UserError.expected(
                "a checkout of TensorSpeech/TensorFlowASR, and an environment that it runs in",
                f"{checkout}: {error}",
                "Correct --peer_repo and --peer_python",
            ) from error
        self._tf, self._keras = tensorflow_asr.tf, tensorflow_asr.keras
        self._schemas = schemas

    def versions(self) -> dict[str, str]:
        """Returns the versions of the packages."""
        return {"tensorflow": self._tf.__version__, "keras": self._keras.__version__}

    def build(self, vocabulary_size: int, waveforms: str, tokens: float) -> int:
        """Builds the model for sounds, and sets its weights to emit tokens at their rate.

        Args:
            vocabulary_size: number of symbols.
            waveforms: `.npy` file of `[B, S]`, which the next requests recognize.
            tokens: number of tokens in a row.

        Returns:
            The number of parameters.
        """
        from tensorflow_asr.utils import file_util, keras_util

        symbols = {"vocabsize": vocabulary_size}
        config = file_util.load_yaml(
            str(self._checkout / _CONFIG), repodir=str(self._checkout), decoder_config=symbols
        )
        self._keras.utils.set_random_seed(SEED)
        model = self._model = keras_util.model_from_config(config["model_config"])
        sounds = np.load(waveforms)
        batch, samples = sounds.shape
        model.make(batch_size=batch)
        lengths = self._tf.fill([batch], samples)
        self._inputs = self._tf.constant(sounds), lengths
        encoded = self._tf.function(self._encoded)(*self._inputs).numpy()
        prediction, joint = model.predict_net, model.joint_net
        cell = prediction.rnns[0].cell
        variables = {
            "embeddings": prediction.label_encoder.embeddings,
            "kernel": cell.kernel,
            "recurrent": cell.recurrent_kernel,
            "bias": cell.bias,
            "frame": joint.ffn_enc.kernel,
            "frame_bias": joint.ffn_enc.bias,
            "last": joint.ffn_pred.kernel,
            "output": joint.ffn_out.kernel,
            "output_bias": joint.ffn_out.bias,
        }

        def read(tokens):
            states = model.get_initial_decoder_states(batch_size=len(tokens))
            first = self._tf.constant(tokens, self._tf.int32)[:, None]
            return prediction.call_next(first, states)[0][:, 0].numpy()

        pace(variables, *fitted(encoded, tokens), read)
        self._recognize = self._tf.function(self._tokens)
        return int(model.count_params())

    def _encoded(self, waveforms, lengths):
        features = self._model.feature_extraction((waveforms, lengths), training=False)
        return self._model.encoder.call_next(*features, [])[0]

    def _tokens(self, waveforms, lengths):
        """Calls the batched greedy search, as the model's `predict_step` does."""
        batch = waveforms.shape[0]
        inputs = self._schemas.PredictInput(
            inputs=waveforms,
            inputs_length=lengths,
            previous_tokens=self._tf.zeros([batch, 1], self._tf.int32),
            previous_encoder_states=self._model.get_initial_encoder_states(batch_size=batch),
            previous_decoder_states=self._model.get_initial_decoder_states(batch_size=batch),
        )
        return self._model.recognize(inputs).tokens

    def time(self) -> float:
        """Recognizes the sounds and returns the seconds."""
        started = time.perf_counter()
        self._recognize(*self._inputs).numpy()
        return time.perf_counter() - started

    def tokens(self) -> list[int]:
        """Returns the number of tokens in each sound."""
        return np.count_nonzero(self._recognize(*self._inputs).numpy(), axis=1).tolist()


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.benchmark.conformer_peer",
        "Runs TensorFlowASR for tools.benchmark.conformer_recognition, which starts this program.",
        example="--peer_repo=CHECKOUT --threads=2",
    )
    flags.group("Model")
    about = "Checkout of TensorSpeech/TensorFlowASR."
    flags.string("peer_repo", None, about, default_text=REQUIRED)
    flags.group("Runtime")
    flags.integer("threads", 2, "Threads of TensorFlow.")
    values, _ = flags.parse(argv)
    with answers() as stream:
        answer_requests(Peer(Path(values.peer_repo).resolve(), values.threads), stream)
    return 0


if __name__ == "__main__":
    run(main)
