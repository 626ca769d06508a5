"""Features against librosa, SpecAugment against its rules, and both against padding."""

import librosa
import numpy as np
import pytest

from conformer.features import LogMelSpectrogram, SpecAugment, mel_filterbank

RATE_HZ = 16000


def reference(waveform: np.ndarray, sample_rate_hz: int = RATE_HZ) -> np.ndarray:
    """The same front end written with librosa, one utterance at a time."""
    waveform = waveform / (np.abs(waveform).max() + 1e-9)
    waveform = np.append(waveform[:1], waveform[1:] - 0.97 * waveform[:-1])
    mel = librosa.feature.melspectrogram(
        y=waveform.astype("float32"),
        sr=sample_rate_hz,
        n_fft=512,
        hop_length=sample_rate_hz // 100,
        win_length=sample_rate_hz // 40,
        n_mels=80,
        pad_mode="reflect",
    )
    decibels = librosa.power_to_db(mel, top_db=80.0)
    return ((decibels - decibels.mean()) / decibels.std()).T


@pytest.fixture
def ragged(rng):
    """Utterances of several lengths in one batch, with NaN and infinities in the padding."""
    lengths = np.array([16000, 12345, 8000, 513])
    waveforms = rng.normal(size=(4, 16000)).astype("float32")
    padded = waveforms.copy()
    for row, length in enumerate(lengths):
        padded[row, length:] = [np.nan, np.inf, -np.inf, 1e30][row]
    return waveforms, padded, lengths


def test_equals_librosa_whatever_the_padding_holds(ragged):
    waveforms, padded, lengths = ragged
    features, frame_lengths = LogMelSpectrogram()(padded, lengths)
    for row, length in enumerate(lengths):
        expected = reference(waveforms[row, :length])
        assert frame_lengths[row] == len(expected) == 1 + length // 160
        np.testing.assert_allclose(features[row, : len(expected)], expected, atol=1e-4)
        assert not np.any(features[row, len(expected) :])


def test_equals_librosa_at_8_khz(rng):
    waveform = rng.normal(size=5000).astype("float32")
    layer = LogMelSpectrogram(sample_rate_hz=8000)
    features, _ = layer(waveform[None], np.array([5000]))
    np.testing.assert_allclose(features[0], reference(waveform, 8000), atol=1e-4)


@pytest.mark.parametrize("fill", [0.0, 0.25], ids=["silence", "constant"])
def test_signals_without_variance_are_finite(fill):
    features, _ = LogMelSpectrogram()(np.full((1, 4000), fill, "float32"), np.array([4000]))
    assert np.all(np.isfinite(features))
    if fill == 0.0:
        assert not np.any(features)


@pytest.mark.parametrize("length", [1, 2, 159, 160, 400])
def test_short_utterances_alone_equal_those_in_a_batch(rng, length):
    waveforms = rng.normal(size=(2, 3000)).astype("float32")
    batch, frames = LogMelSpectrogram()(waveforms, np.array([length, 3000]))
    alone, _ = LogMelSpectrogram()(waveforms[:1, :length], np.array([length]))
    assert np.all(np.isfinite(alone))
    np.testing.assert_allclose(batch[0, : frames[0]], alone[0], atol=1e-4)


def test_an_empty_row_has_no_frames():
    features, frames = LogMelSpectrogram()(np.ones((1, 800), "float32"), np.array([0]))
    assert frames[0] == 0
    assert not np.any(features)


def test_filters_equal_librosa():
    for rate_hz, fft_length, bins, low, high in (
        (16000, 512, 80, 0.0, 8000.0),
        (8000, 256, 40, 20.0, 3800.0),
    ):
        expected = librosa.filters.mel(
            sr=rate_hz, n_fft=fft_length, n_mels=bins, fmin=low, fmax=high
        )
        ours = mel_filterbank(rate_hz, fft_length, bins, low, high)
        np.testing.assert_allclose(ours, expected.T, atol=1e-7)


def test_features_stay_float32_under_mixed_precision(rng):
    layer = LogMelSpectrogram(dtype="mixed_float16")
    features, _ = layer(rng.normal(size=(1, 800)).astype("float32"), np.array([800]))
    assert features.dtype.name == "float32"


def test_spec_augment_masks_no_more_than_allowed(rng):
    layer = SpecAugment(
        num_time_masks=2,
        max_time_mask_frames=7,
        max_time_mask_share=0.1,
        num_frequency_masks=2,
        max_frequency_mask_bins=5,
    )
    lengths = np.array([100, 50, 9])
    features = np.ones((3, 100, 80), "float32")
    widest = {100: 7, 50: 5, 9: 0}
    seen = []
    for _ in range(200):
        uniforms = rng.random((3, layer.num_uniforms)).astype("float32")
        masked = np.asarray(layer(features, lengths, uniforms)) == 0
        for row, length in enumerate(lengths):
            bins = masked[row].all(axis=0).sum()
            frames = masked[row].all(axis=1)
            assert bins <= 10
            assert frames.sum() <= 2 * widest[length]
            assert not frames[length:].any()
            seen.append((length, frames.sum(), bins))
    assert max(f for n, f, _ in seen if n == 100) > 7, "two time masks never lay apart"
    assert max(b for *_, b in seen) > 5, "two frequency masks never lay apart"
    assert min(b for *_, b in seen) == 0


def test_spec_augment_is_a_function_of_its_uniforms(rng):
    layer = SpecAugment()
    features = rng.normal(size=(2, 60, 80)).astype("float32")
    uniforms = rng.random((2, layer.num_uniforms)).astype("float32")
    lengths = np.array([60, 40])
    first, again = (np.asarray(layer(features, lengths, uniforms)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = np.asarray(layer(features, lengths, 1.0 - uniforms))
    assert np.any(first != other)
    np.testing.assert_array_equal(
        np.asarray(layer(features, lengths, np.full_like(uniforms, 0.0))), features
    )
