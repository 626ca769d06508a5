"""What a waveform goes through in training: augmentation, and the random numbers of SpecAugment."""

import tensorflow as tf

from conformer.config import WaveformAugmentConfig


def augment_waveform(waveform, uniforms, noise_seed, config: WaveformAugmentConfig):
    """Changes speed (and pitch with it) by linear interpolation and adds white noise.

    Args:
        waveform: `[S]` float32.
        uniforms: `[3]` in `[0, 1)`: speed, whether there is noise, how much.
        noise_seed: `[2]` integers.
        config: ranges.

    Returns:
        `[S / speed]` float32.

    Source: Ko et al., Audio augmentation for speech recognition (2015), for the speeds.
    """
    if config.max_speed_change > 0:
        speed = 1.0 + config.max_speed_change * (2.0 * uniforms[0] - 1.0)
        last = tf.size(waveform) - 1
        count = tf.cast(tf.cast(last, tf.float32) / speed, tf.int32) + 1
        count = tf.where(last < 0, 0, count)  # a file that could not be read
        position = tf.cast(tf.range(count), tf.float32) * speed
        left = tf.minimum(tf.cast(position, tf.int32), last)
        share = position - tf.cast(left, tf.float32)
        right = tf.gather(waveform, tf.minimum(left + 1, last))
        waveform = (1.0 - share) * tf.gather(waveform, left) + share * right
    if config.noise_probability > 0:
        snr_db = config.min_noise_snr_db + uniforms[2] * (
            config.max_noise_snr_db - config.min_noise_snr_db
        )
        power = tf.math.divide_no_nan(
            tf.reduce_sum(tf.square(waveform)), tf.cast(tf.size(waveform), tf.float32)
        )
        level = tf.sqrt(power) * tf.pow(10.0, -snr_db / 20.0)
        noise = tf.random.stateless_normal(tf.shape(waveform), noise_seed)
        waveform += tf.where(uniforms[1] < config.noise_probability, level, 0.0) * noise
    return waveform


def prepare(waveform, seed, augment: WaveformAugmentConfig, num_uniforms: int):
    """Augments a waveform and draws its random numbers.

    Args:
        waveform: `[S]` float32.
        seed: `[2]` integers.
        augment: ranges of the waveform augmentation.
        num_uniforms: random numbers for SpecAugment.

    Returns:
        The waveform `[S']` to train with, and `[num_uniforms]` in `[0, 1)`.
    """
    uniforms = tf.random.stateless_uniform([3 + num_uniforms], seed)
    noise_seed = tf.stack([seed[0] + 1, seed[1]])
    return augment_waveform(waveform, uniforms[:3], noise_seed, augment), uniforms[3:]
