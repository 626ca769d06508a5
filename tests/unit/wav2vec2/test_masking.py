"""The masks of training: how many, how wide, where, and from what."""

import numpy as np
import pytest

from wav2vec2.masking import SpanMasking


@pytest.fixture
def masking():
    layer = SpanMasking(0.3, 10, 2, 0.25, 4, 1)
    layer.build((None, None, 32))
    return layer


def spans(mask):
    """Lengths of the stretches of True."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask, 0]))
    return edges[1::2] - edges[::2]


def test_masks(masking, rng):
    lengths = np.array([300, 120, 25, 12, 10, 9, 0] * 30)
    uniforms = rng.uniform(size=(len(lengths), masking.num_uniforms(300))).astype("float32")
    features = np.full((len(lengths), 300, 32), 7.0, "float32")
    masked = np.asarray(masking(features, lengths, uniforms))
    silent = np.all(masked == 0, axis=1)
    timed = np.all((masked == np.asarray(masking.embedding)) | silent[:, None], axis=-1)
    assert np.all((masked == 7.0) | timed[:, :, None] | silent[:, None])
    for row, length in zip(timed, lengths, strict=True):
        assert not row[length:].any()
        assert np.all(spans(row) >= 10)
        # Distinct starts: two masks cover at least one frame more than one does.
        assert row.sum() >= (0 if length < 10 else 11 if length > 10 else 10)
    assert all(np.all(spans(row) >= 4) and 4 <= row.sum() <= 12 for row in silent)
    share = timed[lengths == 300].mean()
    assert 0.2 < share < 0.3
    assert {tuple(x) for x in timed[lengths == 25]} != {tuple(timed[2])}


def test_masks_depend_on_their_own_uniforms_alone(masking, rng):
    uniforms = rng.uniform(size=(2, masking.num_uniforms(50))).astype("float32")
    features = rng.standard_normal((2, 50, 32)).astype("float32")
    both = masking(features, np.array([50, 30]), uniforms)
    alone = masking(features[1:, :30], np.array([30]), uniforms[1:])
    np.testing.assert_array_equal(both[1, :30], alone[0])


def test_no_rates_mask_nothing(rng):
    layer = SpanMasking(0.0, feature_rate=0.0)
    features = rng.standard_normal((2, 50, 32)).astype("float32")
    masked = layer(features, np.array([50, 30]), np.zeros((2, 2), "float32"))
    np.testing.assert_array_equal(masked, features)
    assert not layer.trainable_variables
    assert layer.num_uniforms(50) == 2
