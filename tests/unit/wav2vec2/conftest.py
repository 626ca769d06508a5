"""Small models for the unit tests of wav2vec 2.0."""

import keras
import numpy as np
import pytest

import wav2vec2
import wav2vec2.export
from wav2vec2.config import PreprocessingConfig
from wav2vec2.vocabulary import Vocabulary

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
    """Returns the two kinds of models: group norm with post-norm, layer norm with pre-norm."""
    return request.param


@pytest.fixture(scope="session")
def vocabulary():
    """Returns a vocabulary of twelve symbols, of which the blank is not the first."""
    return Vocabulary((*"ABCDEFG", "|", "<pad>", "<s>", "</s>", "<unk>"))


@pytest.fixture(scope="session")
def talkative(build_small, vocabulary):
    """Builds a small model of random weights whose best symbol changes from frame to frame."""

    def build(kind="group", **options):
        model = build_small(kind, **options)
        rng = np.random.default_rng(7)
        model.head.kernel.assign(0.3 * rng.standard_normal(model.head.kernel.shape))
        # On average, all symbols with a text are equally likely.
        logits = np.asarray(model(rng.standard_normal((1, 32000)).astype("float32")))[0]
        kernel, scale = model.head.kernel.numpy(), 3.0 / logits.std(axis=0)
        model.head.kernel.assign(kernel * scale)
        model.head.bias.assign(-logits.mean(axis=0) * scale - 9.0 * np.eye(12)[9:].sum(axis=0))
        model.vocabulary = vocabulary
        model.preprocessing = PreprocessingConfig(trained_with_mask=kind == "layer")
        return model

    return build


@pytest.fixture(scope="session")
def folders(talkative, tmp_path_factory):
    """Returns Hugging Face folders by kind of model."""
    root = tmp_path_factory.mktemp("hugging_face")
    for kind in KINDS:
        wav2vec2.save_pretrained(talkative(kind), root / kind)
    return root


@pytest.fixture(scope="session")
def exports(folders, tmp_path_factory):
    """Returns SavedModels of these folders by kind of model."""
    root = tmp_path_factory.mktemp("exports")
    for kind in KINDS:
        arguments = ["--pytorch_model_dir", str(folders / kind), "--output_dir", str(root / kind)]
        assert wav2vec2.export.main(arguments) == 0
    return root
