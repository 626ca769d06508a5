"""Small models for the unit tests of wav2vec 2.0."""

import keras
import pytest

import wav2vec2

SIZES = {
    "feature_filters": (16,) * 7,
    "hidden_dim": 32,
    "num_layers": 2,
    "num_heads": 4,
    "feedforward_dim": 64,
    "position_kernel_size": 8,
    "position_groups": 4,
    "vocabulary_size": 12,
}
KINDS = {
    "group": {"feature_norm": "group"},
    "layer": {"feature_norm": "layer", "feature_bias": True, "pre_norm": True},
}


@pytest.fixture(scope="session")
def build_small():
    """Builds a model of two narrow layers, of either kind, with options."""

    def build(kind="group", seed=1, precision="float32", **options):
        keras.utils.set_random_seed(seed)
        return wav2vec2.build_model(SIZES | KINDS[kind], precision, **options)

    return build


@pytest.fixture(params=KINDS)
def kind(request):
    """Group norm behind the sums, and layer norm in front."""
    return request.param
