"""WAV files inside of a graph: padded rows, their lengths, the mean of channels."""

import numpy as np
import pytest
import tensorflow as tf

from tests.support.speech import wav_bytes
from tools.speech.wav_bytes import decode_wavs


@pytest.fixture
def sounds(rng):
    """Values that 16 bits hold."""
    return [np.round(9000 * rng.normal(size=size)) / 32768 for size in ((5, 1), (9, 2), (0, 1))]


def decoded(files, **options):
    run = tf.function(lambda files: decode_wavs(files, 8000, **options))
    waveforms, lengths = run(tf.constant(files, tf.string))
    assert (waveforms.dtype, lengths.dtype) == (tf.float32, tf.int32)
    return waveforms.numpy(), lengths.numpy().tolist()


def test_rows_are_the_mean_of_channels_with_zeros_behind(sounds):
    files = [wav_bytes(np.clip(sound, -1, 32767 / 32768), 8000) for sound in sounds]
    waveforms, lengths = decoded(files)
    assert lengths == [5, 9, 0]
    expected = np.zeros((3, 9))
    expected[0, :5] = sounds[0][:, 0].clip(-1, 32767 / 32768)
    expected[1] = sounds[1].clip(-1, 32767 / 32768).mean(axis=1)
    np.testing.assert_allclose(waveforms, expected, atol=1e-7)


def test_where_channels_cancel_the_loudest_is_taken(rng):
    sound = np.round(3000 * rng.normal(size=2000)) / 32768
    for gains, expected in (((0.8, -1.0), -1.0), ((1.0, -1.0), 1.0), ((1.0, -0.5), 0.25)):
        channels = sound[:, None] * gains
        waveforms, _ = decoded([wav_bytes(channels, 8000)])
        np.testing.assert_allclose(waveforms[0], expected * sound, atol=1e-4)


@pytest.mark.parametrize(("min_samples", "width"), [(1, 9), (9, 9), (12, 12)])
def test_a_batch_is_as_wide_as_asked_for_at_least(sounds, min_samples, width):
    files = [wav_bytes(np.zeros(len(sound)), 8000) for sound in sounds]
    waveforms, lengths = decoded(files, min_samples=min_samples)
    assert waveforms.shape == (3, width)
    assert lengths == [5, 9, 0]


def test_empty_files_and_batches_have_shapes():
    waveforms, lengths = decoded([wav_bytes(np.zeros(0), 8000)], min_samples=4)
    assert (waveforms.tolist(), lengths) == ([[0, 0, 0, 0]], [0])
    waveforms, lengths = decoded([], min_samples=4)
    assert (waveforms.shape, lengths) == ((0, 4), [])


def test_a_file_of_another_rate_fails():
    with pytest.raises(tf.errors.InvalidArgumentError, match="a WAV of 8000 Hz"):
        decoded([wav_bytes(np.zeros(8), 16000)])
