"""Tests the masks of training: number, width, positions, and random numbers."""

import numpy as np
import pytest

from wav2vec2.masking import SpanMasking


@pytest.fixture
def masking():
    layer = SpanMasking(0.3, 10, 2, 0.25, feature_span=4, min_feature_masks=1)
    layer.build((None, None, 32))
    return layer


def spans(mask):
    """Returns the lengths of the runs of True."""
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
        # Starts are distinct, so that two masks cover at least one frame more than one mask.
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


def expected_places(rate, span, fewest, extent, rounding, draws):
    """Marks the masks of one row, written down from the rule.

    As many masks as the rate asks for, rounded up or down by one draw, at least `fewest` and never
    more than there are places for a whole mask, or draws. Each draw chooses one of the places that
    remain when the masks lie in order at different places.
    """
    count = max(int(np.floor(rate * max(extent, span - 1) / span + rounding)), fewest)
    count = min(count, max(extent - span + 1, 0), len(draws))
    chosen = sorted(int(draw * (extent - span + 1 - count + 1)) for draw in draws[:count])
    mask = np.zeros(extent, bool)
    for number, place in enumerate(chosen):
        start = place + number
        assert start + span <= extent
        mask[start : start + span] = True
    return mask


@pytest.mark.parametrize(
    ("time_span", "feature_span", "fewest"), [(1, 1, 0), (4, 3, 1), (10, 8, 2), (7, 32, 3)]
)
def test_masks_of_known_uniforms_are_those_of_the_rule(time_span, feature_span, fewest, rng):
    layer = SpanMasking(
        0.4, time_span, fewest, 0.3, feature_span=feature_span, min_feature_masks=fewest
    )
    layer.build((None, None, 32))
    # All lengths around multiples of the width of a mask.
    lengths = np.array([0, 1, time_span - 1, time_span, time_span + 1, 2 * time_span, 39, 40] * 6)
    uniforms = rng.uniform(size=(len(lengths), layer.num_uniforms(40))).astype("float32")
    uniforms[0, 2:], uniforms[-1, 2:] = 0.0, np.nextafter(np.float32(1), np.float32(0))
    features = rng.standard_normal((len(lengths), 40, 32)).astype("float32")
    masked = np.asarray(layer(features, lengths, uniforms))
    channel_masks = max(int(0.3 * 32 / feature_span + 1.0), fewest)
    for row, length, draws, x in zip(masked, lengths, uniforms, features, strict=True):
        time = np.zeros(40, bool)
        time[:length] = expected_places(
            0.4, time_span, fewest, length, draws[0], draws[2 + channel_masks :]
        )
        silent = expected_places(
            0.3, feature_span, fewest, 32, draws[1], draws[2 : 2 + channel_masks]
        )
        wanted = np.where(time[:, None], np.asarray(layer.embedding), x)
        np.testing.assert_array_equal(row, np.where(silent, 0.0, wanted))


def test_the_uniforms_are_as_many_as_the_masks_and_their_roundings():
    layer = SpanMasking(0.5, 10, 2, 0.25, feature_span=4, min_feature_masks=1)
    layer.build((None, None, 32))
    # 2 for rounding, 0.25 * 32 / 4 + 1 channel masks, 0.5 * T / 10 + 1 time masks.
    assert [layer.num_uniforms(x) for x in (0, 19, 20, 100)] == [2 + 3 + x for x in (2, 2, 2, 6)]


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.65])
def test_the_number_of_masks_is_on_average_what_the_rate_asks_for(rate, rng):
    """Masks of one frame do not overlap: the masked frames are as many as the masks."""
    layer = SpanMasking(rate, 1, 0)
    layer.build((None, None, 2))
    uniforms = rng.uniform(size=(2000, layer.num_uniforms(33))).astype("float32")
    features = np.full((2000, 33, 2), 7.0, "float32")
    masked = np.asarray(layer(features, np.full(2000, 33), uniforms))[:, :, 0] != 7.0
    assert set(masked.sum(1)) == {int(33 * rate), int(33 * rate) + 1}
    assert masked.mean() == pytest.approx(rate, abs=0.002)


def test_the_config_rebuilds_the_layer_and_the_embedding_is_learnt(masking):
    again = SpanMasking.from_config(masking.get_config())
    assert again.get_config() == masking.get_config()
    embedding = np.asarray(masking.embedding)
    assert masking.trainable_variables and embedding.shape == (32,)
    # Uniform in [0, 1), as in transformers.
    assert 0 <= embedding.min() < 0.2 and 0.8 < embedding.max() < 1
