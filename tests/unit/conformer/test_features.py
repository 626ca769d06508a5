"""Compares features with librosa, SpecAugment with its rules, and tests both with padding."""

import librosa
import numpy as np
import pytest

from conformer.features import LogMelSpectrogram, SpecAugment, mel_filterbank

RATE_HZ = 16000


def reference(
    waveform: np.ndarray, sample_rate_hz: int = RATE_HZ, top_db: float = 80.0
) -> np.ndarray:
    """Computes the features of one utterance with librosa."""
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
    decibels = librosa.power_to_db(mel, top_db=top_db)
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
        ours = mel_filterbank(rate_hz, fft_length, bins, low, max_hz=high)
        np.testing.assert_allclose(ours, expected.T, atol=1e-7)


def test_features_stay_float32_under_mixed_precision(rng):
    layer = LogMelSpectrogram(dtype="mixed_float16")
    features, _ = layer(rng.normal(size=(1, 800)).astype("float32"), np.array([800]))
    assert features.dtype.name == "float32"


@pytest.mark.parametrize("top_db", [80.0, 40.0])
def test_a_fading_sound_is_cut_off_at_top_db_as_librosa_does(rng, top_db):
    """Noise alone would not reach the power floor."""
    fading = (rng.normal(size=8000) * np.geomspace(1.0, 1e-6, 8000)).astype("float32")
    quiet_first = fading[::-1].copy()
    features, frames = LogMelSpectrogram(top_db=top_db)(
        np.stack([fading, quiet_first]), np.array([8000, 8000])
    )
    for row, waveform in zip(np.asarray(features), (fading, quiet_first), strict=True):
        expected = reference(waveform, top_db=top_db)
        at_floor = np.isclose(expected, expected.min(), atol=1e-6)
        assert 0.1 < at_floor.mean() < 0.9
        np.testing.assert_allclose(row, expected, atol=1e-4)
        np.testing.assert_array_equal(np.isclose(row, row.min(), atol=1e-6), at_floor)
    assert frames.numpy().tolist() == [51, 51]


@pytest.fixture(scope="module")
def voice():
    """Returns one second of a 120 Hz tone that swells and fades, like a voice, with quiet noise."""
    time_s = np.arange(RATE_HZ) / RATE_HZ
    voice = sum(np.sin(2 * np.pi * 120 * n * time_s) / n for n in range(1, 40))
    noise = np.random.default_rng(7).normal(size=RATE_HZ)
    envelope = 0.1 + np.sin(2 * np.pi * 2.5 * time_s) ** 2
    return (0.1 * envelope * voice + 1e-4 * noise).astype("float32")


ROBUST = {"normalization": "loud_frames", "remove_dc_offset": True}


def features_of(waveform, **options):
    features, _ = LogMelSpectrogram(**options)(waveform[None], np.array([len(waveform)]))
    return np.asarray(features[0])


@pytest.mark.parametrize("seconds", [0.5, 4.0, 20.0])
@pytest.mark.parametrize("options", [{}, ROBUST], ids=["utterance", "loud_frames"])
def test_silence_around_speech_leaves_the_features_of_loud_frames(voice, seconds, options):
    """Features differ by at most 0.1 standard deviations; with all frames, by several."""
    silence = np.zeros(int(seconds * RATE_HZ), "float32")
    start = len(silence) // 160
    found = features_of(np.concatenate([silence, voice, silence]), **options)[start : start + 100]
    difference = np.abs(found[3:-3] - features_of(voice, **options)[3:97]).max()
    assert difference < 0.1 if options else difference > 0.5


@pytest.mark.parametrize("offset", [0.04, -0.3])
def test_a_constant_offset_changes_nothing_where_it_is_removed(voice, offset):
    changed = features_of(0.3 * voice + np.float32(offset), **ROBUST)
    plain = features_of(0.3 * voice, **ROBUST)
    # The peak differs, and with it the level below which frames count as silence.
    loud = plain.max(axis=1) > plain.max() - 2.0
    np.testing.assert_allclose(changed[loud], plain[loud], atol=0.02)
    without = features_of(0.3 * voice + np.float32(offset))
    assert np.abs(without - features_of(0.3 * voice)).max() > 0.5


@pytest.mark.parametrize("gain_db", [-30.0, 20.0])
def test_gain_changes_nothing(voice, gain_db):
    changed = features_of(voice * np.float32(10 ** (gain_db / 20)), **ROBUST)
    np.testing.assert_allclose(changed, features_of(voice, **ROBUST), atol=1e-3)


RUNNING = {"normalization": "running_loud_frames", "remove_dc_offset": True}


def running_reference(decibels, weight, offset_db, deviation_db, range_db, *, top_db):
    """Computes by definition: at each frame, the statistics of the loud frames up to it."""
    found = []
    levels = np.floor(decibels.max(axis=1))
    for frame in range(len(decibels)):
        loudest = decibels[: frame + 1].max()
        counted = decibels[: frame + 1][levels[: frame + 1] >= np.floor(loudest) - range_db]
        values = np.concatenate([counted.ravel(), [loudest - offset_db]])
        weights = np.concatenate([np.full(counted.size, 1 / decibels.shape[1]), [weight]])
        mean = np.average(values, weights=weights)
        squares = (values - mean) ** 2
        squares[-1] += deviation_db**2
        variance = np.average(squares, weights=weights)
        limited = np.maximum(decibels[frame], loudest - top_db)
        found.append((limited - mean) / np.sqrt(variance))
    return np.array(found)


def test_running_statistics_are_those_of_the_loud_frames_so_far(voice):
    waveform = np.concatenate([1e-3 * voice[:4000], voice[:8000], 0.02 * voice[:4000]])
    options = {"loud_frames_db": 20.0, "start_frames": 7.0, "start_offset_db": 25.0}
    options |= {"normalization": "running_loud_frames", "start_deviation_db": 9.0}
    found = features_of(waveform, **options, top_db=60.0)
    emphasized = np.append(waveform[:1], waveform[1:] - 0.97 * waveform[:-1])
    power = librosa.feature.melspectrogram(
        y=emphasized.astype("float32"), sr=RATE_HZ, n_fft=512, hop_length=160, win_length=400,
        n_mels=80, pad_mode="reflect",
    )  # fmt: skip
    decibels = 10 * np.log10(np.maximum(power, 1e-14)).T
    expected = running_reference(decibels, 7.0, 25.0, 9.0, 20.0, top_db=60.0)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_running_features_do_not_know_what_comes(voice):
    first, other = voice[:8000], 3.0 * voice[4000:12000]
    found = features_of(np.concatenate([first, other]), **RUNNING)
    for second in (np.zeros(8000, "float32"), 1e-3 * other):
        again = features_of(np.concatenate([first, second]), **RUNNING)
        # Exactly equal: a division by the peak of the whole waveform would change the last bits.
        np.testing.assert_array_equal(again[:48], found[:48])
    assert np.abs(features_of(first, **ROBUST)[:40] - found[:40]).max() > 0.2


def test_running_features_come_to_those_of_the_utterance(voice):
    """Both converge, because the weight of the start values decreases."""
    waveform = np.tile(voice, 3)
    found = features_of(waveform, **RUNNING, start_frames=0.01)
    expected = features_of(waveform, **ROBUST)
    assert np.abs(found[-60:] - expected[-60:]).max() < 0.1


@pytest.mark.parametrize("gain_db", [-30.0, 20.0])
def test_running_features_keep_under_gain_and_behind_silence(voice, gain_db):
    """Loudness is counted in whole decibels, so a gain can move single frames over the limit."""
    expected = features_of(voice, **RUNNING)
    changed = features_of(voice * np.float32(10 ** (gain_db / 20)), **RUNNING)
    assert np.abs(changed - expected)[expected > -2].max() < 0.1
    behind = features_of(np.concatenate([np.zeros(32000, "float32"), voice]), **RUNNING)[200:]
    assert np.abs(behind - expected)[2:][expected[2:] > -2].max() < 0.1


def test_another_normalization_is_refused():
    with pytest.raises(ValueError, match="normalization among"):
        LogMelSpectrogram(normalization="loudest")


def grid(count):
    """Returns `count` numbers evenly spread over [0, 1), none where rounding down jumps."""
    return (np.arange(count) + 0.5) / count


def masked_spans(layer, axis, uniforms, length, frames=40, bins=8):
    """Returns first and last position of the mask for each row of uniforms; None if it is empty."""
    features = np.ones((len(uniforms), frames, bins), "float32")
    lengths = np.full(len(uniforms), length)
    masked = np.asarray(layer(features, lengths, uniforms.astype("float32"))) == 0
    other = masked.all(axis=3 - axis)
    np.testing.assert_array_equal(masked, np.broadcast_to(
        np.expand_dims(other, 3 - axis), masked.shape
    ))  # fmt: skip
    spans = []
    for row in other:
        (places,) = np.nonzero(row)
        assert len(places) == 0 or len(places) == places[-1] - places[0] + 1
        spans.append((places[0], places[-1]) if len(places) else None)
    return spans


@pytest.mark.parametrize(
    ("axis", "options", "length", "widest", "extent"),
    [
        # The largest width is the smaller of the limit in frames and the fraction of the length.
        (1, {"max_time_mask_frames": 5, "max_time_mask_share": 0.5}, 20, 5, 20),
        (1, {"max_time_mask_frames": 9, "max_time_mask_share": 0.25}, 12, 3, 12),
        (1, {"max_time_mask_frames": 9, "max_time_mask_share": 0.25}, 15, 3, 15),
        (1, {"max_time_mask_frames": 100, "max_time_mask_share": 1.0}, 6, 6, 6),
        (2, {"max_frequency_mask_bins": 3}, 12, 3, 8),
        (2, {"max_frequency_mask_bins": 27}, 12, 8, 8),
    ],
)
def test_every_width_and_place_of_a_mask_is_equally_likely(axis, options, length, widest, extent):
    """All widths from 0 to the largest and all positions of such a mask occur."""
    layer = SpecAugment(
        num_time_masks=int(axis == 1), num_frequency_masks=int(axis == 2), **options
    )
    assert layer.num_uniforms == 2
    widths = grid(widest + 1)
    for width, uniform in enumerate(widths):
        places = grid(extent - width + 1)
        uniforms = np.stack([np.full_like(places, uniform), places], axis=1)
        spans = masked_spans(layer, axis, uniforms, length)
        if width == 0:
            assert set(spans) == {None}
        else:
            assert spans == [(first, first + width - 1) for first in range(len(places))]
    # The largest float32 below 1 gives the largest width and the last position.
    largest = np.full((1, 2), np.nextafter(np.float32(1), np.float32(0)))
    assert masked_spans(layer, axis, largest, length) == [(extent - widest, extent - 1)]


def test_each_mask_has_uniforms_of_its_own():
    """Order: widths of the time masks, their positions, then those of the frequency masks."""
    layer = SpecAugment(
        num_time_masks=2,
        max_time_mask_frames=3,
        max_time_mask_share=1.0,
        num_frequency_masks=2,
        max_frequency_mask_bins=1,
    )
    # Of 10 frames: 1 from frame 2, 3 from frame 6. Of 8 bins: none, and 1 from bin 7.
    uniforms = [[0.3, 0.9, 0.25, 0.8, 0.4, 0.6, 0.5, 0.95]]
    assert layer.num_uniforms == 8
    features = np.ones((1, 12, 8), "float32")
    kept = np.asarray(layer(features, np.array([10]), np.array(uniforms, "float32")))[0] != 0
    assert np.flatnonzero(~kept.any(axis=1)).tolist() == [2, 6, 7, 8]
    assert np.flatnonzero(~kept.any(axis=0)).tolist() == [7]


def test_spec_augment_masks_no_more_than_allowed(rng):
    layer = SpecAugment(
        num_time_masks=2,
        max_time_mask_frames=7,
        max_time_mask_share=0.1,
        num_frequency_masks=2,
        max_frequency_mask_bins=5,
    )
    draws = 200
    lengths = np.tile([100, 50, 9], draws)
    features = np.ones((3 * draws, 100, 80), "float32")
    uniforms = rng.random((3 * draws, layer.num_uniforms)).astype("float32")
    masked = np.asarray(layer(features, lengths, uniforms)) == 0
    bins, frames = masked.all(axis=1).sum(axis=1), masked.all(axis=2)
    counts = frames.sum(axis=1)
    assert bins.max() <= 10
    for length, widest in {100: 7, 50: 5, 9: 0}.items():
        assert counts[lengths == length].max() <= 2 * widest
        assert not frames[lengths == length, length:].any()
    assert counts[lengths == 100].max() > 7, "two time masks never lay apart"
    assert bins.max() > 5, "two frequency masks never lay apart"
    assert bins.min() == 0


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
