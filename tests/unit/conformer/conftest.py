"""A tiny model for the unit tests of the speech Conformer."""

import keras
import pytest

import conformer
from conformer.tokenizer import SentencePieceTokenizer


@pytest.fixture(scope="session")
def tiny_sizes():
    """Returns configuration values for two blocks of width 8, by dotted key."""
    return {
        "model.num_layers": 2,
        "model.hidden_dim": 8,
        "model.num_heads": 2,
        "model.kernel_size": 4,
        "model.subsampling_filters": 4,
        "model.prediction_dim": 8,
        "model.joint_dim": 8,
    }


@pytest.fixture(scope="session")
def tiny_config(tiny_sizes):
    """Returns the default configuration with tiny sizes."""
    return conformer.load_config(None, tiny_sizes)


@pytest.fixture
def tiny_model(tiny_config):
    """Returns a tiny model with seven symbols and the same weights in every test."""
    keras.utils.set_random_seed(1)
    return conformer.build_model(tiny_config, vocabulary_size=7)


@pytest.fixture(scope="session")
def sentencepiece_model():
    """Returns a SentencePiece model of 21 symbols with the blank, for `tests.support.parakeet`."""
    sentences = ["the tin thorn", "lather in it", "der sud and the other one"] * 9
    return SentencePieceTokenizer.train(sentences, 21, "bpe").model
