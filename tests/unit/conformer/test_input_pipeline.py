"""Waveform augmentation: speed, pitch and noise as asked for."""

import numpy as np
import pytest
import tensorflow as tf

from conformer.config import WaveformAugmentConfig
from conformer.input_pipeline import augment_waveform, prepare

RATE_HZ = 16000


def tone(frequency_hz, num_samples=RATE_HZ):
    return np.sin(2 * np.pi * frequency_hz * np.arange(num_samples) / RATE_HZ).astype("float32")


def augmented(waveform, uniforms, **config):
    run = tf.function(
        lambda w, u: augment_waveform(w, u, tf.constant([3, 4], tf.int64),
                                      WaveformAugmentConfig(**config)),
        input_signature=[tf.TensorSpec([None]), tf.TensorSpec([3])],
    )  # fmt: skip
    return run(waveform, np.float32(uniforms)).numpy()


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.5, 0.999])
def test_speed_changes_length_and_pitch(uniform):
    speed = 1 + 0.1 * (2 * uniform - 1)
    found = augmented(tone(500.0), [uniform, 0, 0], max_speed_change=0.1)
    assert abs(len(found) - RATE_HZ / speed) <= 1
    spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found)), 8 * RATE_HZ))
    assert np.argmax(spectrum) / 8 == pytest.approx(500.0 * speed, abs=0.5)
    np.testing.assert_allclose(found, tone(500.0 * speed, len(found)), atol=0.02)


def test_unchanged_speed_changes_nothing(rng):
    waveform = rng.normal(size=1000).astype("float32")
    np.testing.assert_array_equal(augmented(waveform, [0.5, 0, 0], max_speed_change=0.1), waveform)
    np.testing.assert_array_equal(augmented(waveform, [0.1, 0, 0]), waveform)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 0.9])
def test_noise_has_the_level_asked_for(uniform):
    clean = 0.3 * tone(500.0)
    found = augmented(
        clean, [0, 0.2, uniform], noise_probability=0.3, min_noise_snr_db=5.0, max_noise_snr_db=25.0
    )
    noise = found - clean
    snr_db = 10 * np.log10(np.mean(clean**2) / np.mean(noise**2))
    assert snr_db == pytest.approx(5 + 20 * uniform, abs=0.2)
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.05


def test_no_noise_above_its_probability_or_on_silence():
    clean = 0.3 * tone(500.0)
    np.testing.assert_array_equal(augmented(clean, [0, 0.4, 0.5], noise_probability=0.3), clean)
    silence = np.zeros(100, "float32")
    np.testing.assert_array_equal(augmented(silence, [0, 0, 0], noise_probability=1.0), silence)


@pytest.mark.parametrize("num_samples", [0, 1, 2])
def test_very_short_sounds_survive(num_samples):
    for uniform in (0.0, 0.5, 0.99):
        found = augmented(
            np.ones(num_samples, "float32"), [uniform, 0.9, 0.5],
            max_speed_change=0.3, noise_probability=0.5,
        )  # fmt: skip
        assert len(found) <= num_samples + 1
        assert np.all(found == 1)


def test_the_numbers_of_the_masks_are_others_than_those_of_the_sound():
    """The same seed gives the same of both; each utterance and epoch has its own."""
    config = WaveformAugmentConfig(max_speed_change=0.2, noise_probability=1.0)
    quiet = WaveformAugmentConfig(max_speed_change=0.2)
    waveform = tf.constant(tone(500.0, 4000))

    def prepared(seed, config):
        sound, uniforms = prepare(waveform, tf.constant(seed, tf.int64), config, 4)
        return sound.numpy(), uniforms.numpy()

    seeds = [(epoch, index) for epoch in (5, 6) for index in range(10)]
    speeds, masks = [], []
    for seed in seeds:
        sound, uniforms = prepared(seed, quiet)
        assert uniforms.shape == (4,)
        assert np.all((uniforms >= 0) & (uniforms < 1))
        np.testing.assert_array_equal(prepared(seed, config)[1], uniforms)
        np.testing.assert_array_equal(prepared(seed, quiet)[0], sound)
        speeds.append(4000 / len(sound))
        masks.append(uniforms)
    assert len({tuple(row) for row in masks}) == len(set(speeds)) == len(seeds)
    for column in np.transpose(masks):
        assert abs(np.corrcoef(speeds, column)[0, 1]) < 0.9

    # Noise of its own in every utterance and epoch, even where nothing else differs.
    noisy = WaveformAugmentConfig(
        noise_probability=1.0, min_noise_snr_db=10.0, max_noise_snr_db=10.0
    )
    noises = [prepared(seed, noisy)[0] - waveform.numpy() for seed in ((5, 1), (5, 2), (6, 2))]
    likeness = np.corrcoef(noises)
    assert np.abs(likeness[np.triu_indices(3, 1)]).max() < 0.1
