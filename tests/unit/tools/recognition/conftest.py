"""A recognizer's task without a recognizer: its texts tell what it heard."""

import keras
import pytest
import tensorflow as tf

from tools.recognition.task import SpeechTask
from tools.recognition.training_data import TrainingSet


class ToyTask(SpeechTask):
    """Writes the number of samples of each sound; its labels are the characters' code points."""

    layers, vocabulary_size = 2, 5

    def __init__(self, data, processes, rate_hz=16000, seed=0):
        super().__init__(data, rate_hz, processes)
        self.assets = {"vocabulary.json": "[]"}
        layers = [keras.layers.Input([3]), keras.layers.Dense(4, name="dense")]
        self.model = keras.Sequential(layers, name="toy")
        self.train_on(TrainingSet(self.read_training_set(), self.encode, self.prepare), seed)
        self.graphs = 0  # times that `texts` was traced

    def encode(self, texts):
        return tf.strings.unicode_decode(texts, "UTF-8")

    def prepare(self, waveform, seed):
        return waveform, tf.random.stateless_uniform([2], seed), True

    def texts(self, waveforms, lengths):
        self.graphs += 1
        return tf.strings.as_string(lengths)

    def example_logits(self, batch):
        return tf.zeros([*batch["labels"].shape, self.vocabulary_size])


@pytest.fixture
def toy_task():
    """The class of a task that needs no model to recognize."""
    return ToyTask
