"""Waveform augmentation: simulates rooms, microphones, telephones and noise during training.

Every function works in a TensorFlow graph on one waveform `[S]` float32. The functions draw no
random numbers of their own: the caller passes numbers or a seed, so results are reproducible.
"""

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from tools.speech.config import WaveformAugmentConfig
from tools.speech.sound_bank import SoundBank

_FRAME_SECONDS = 0.025
_SPEECH_RANGE_DB = 30.0
_PAUSE_FRAME_SECONDS = 0.01
_PAUSE_FRAMES = 5  # number of quiet frames at which a pause may be inserted
_HUM_OVERTONES = 5
_EMPTY_LEVELS_DB = (-60.0, -10.0)
_NUM_DRAWS = 20
# Added to the seed of an utterance to get independent random numbers.
_DRAWS_SEED, _KIND_SEED, _LEVEL_SEED, _LENGTHS_SEED = ([number, 0] for number in (2, 3, 4, 5))

# Function of the number of samples, a seed `[2]` and the rate in Hz that returns a waveform
# `[num_samples]` of any level.
NoiseMaker = Callable[[tf.Tensor, tf.Tensor, int], tf.Tensor]


def change_speed(waveform: tf.Tensor, speed: tf.Tensor) -> tf.Tensor:
    """Changes speed and pitch by linear interpolation.

    Args:
        waveform: `[S]`.
        speed: scalar; 1.1 makes the sound 10 % faster.

    Returns:
        `[S / speed]`.

    Source: Ko et al., Audio augmentation for speech recognition (2015), for the range of speeds.
    """
    last = tf.size(waveform) - 1
    count = tf.cast(tf.cast(last, tf.float32) / speed, tf.int32) + 1
    count = tf.where(last < 0, 0, count)  # empty: the file could not be read
    position = tf.cast(tf.range(count), tf.float32) * speed
    left = tf.minimum(tf.cast(position, tf.int32), last)
    share = position - tf.cast(left, tf.float32)
    right = tf.gather(waveform, tf.minimum(left + 1, last))
    return (1.0 - share) * tf.gather(waveform, left) + share * right


def speech_rms(waveform: tf.Tensor, rate_hz: int) -> tf.Tensor:
    """Returns the RMS of the 25 ms frames that are at most 30 dB below the loudest frame.

    Args:
        waveform: `[S]`.
        rate_hz: sampling rate of the waveform.

    Returns:
        Scalar float32; 0 for silence.
    """
    power = _frame_power(waveform, round(_FRAME_SECONDS * rate_hz))
    loudest = tf.reduce_max(tf.concat([power, [0.0]], 0))
    loud = tf.cast(power >= loudest * 10 ** (-_SPEECH_RANGE_DB / 10), tf.float32)
    return tf.sqrt(tf.math.divide_no_nan(tf.reduce_sum(loud * power), tf.reduce_sum(loud)))


def _frame_power(waveform: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the mean power of each frame, `[ceil(S / size)]`; pads the last one with zeros."""
    padded = tf.pad(waveform, [[0, -tf.size(waveform) % size]])
    return tf.reduce_mean(tf.square(tf.reshape(padded, [-1, size])), axis=1)


def insert_pause(
    waveform: tf.Tensor, place: tf.Tensor, num_samples: tf.Tensor, rate_hz: int
) -> tf.Tensor:
    """Inserts silence (zeros) between two words.

    A place counts as between words if 50 ms around it are more than 30 dB below the loudest 10 ms
    frame, with louder sound on both sides. A waveform without such a place is not changed.

    Args:
        waveform: `[S]`.
        place: scalar in `[0, 1)` that selects one of the places.
        num_samples: length of the silence.
        rate_hz: sampling rate of the waveform.

    Returns:
        `[S + num_samples]`, or `[S]` without a place.
    """
    size = round(_PAUSE_FRAME_SECONDS * rate_hz)
    power = _frame_power(waveform, size)
    loudest = tf.reduce_max(tf.concat([power, [0.0]], 0))
    loud = tf.cast(power > loudest * 10 ** (-_SPEECH_RANGE_DB / 10), tf.int32)
    margin = _PAUSE_FRAMES // 2
    near = tf.cumsum(tf.pad(loud, [[margin + 1, margin]]))
    quiet = near[_PAUSE_FRAMES:] == near[:-_PAUSE_FRAMES]
    inside = (tf.cumsum(loud) > 0) & (tf.cumsum(loud, reverse=True) > 0)
    places = tf.cast(tf.where(quiet & inside)[:, 0], tf.int32)
    count = tf.size(places)
    chosen = tf.minimum(tf.cast(place * tf.cast(count, tf.float32), tf.int32), count - 1)
    frame = tf.gather(tf.concat([places, [0]], 0), tf.maximum(chosen, 0))
    cut = frame * size + size // 2
    pause = tf.zeros([tf.where(count > 0, num_samples, 0)])
    return tf.concat([waveform[:cut], pause, waveform[cut:]], 0)


def reverberate(waveform: tf.Tensor, response: tf.Tensor) -> tf.Tensor:
    """Convolves a waveform with a room's impulse response.

    The largest sample of the response is taken as the direct sound, so the speech is not delayed.
    The RMS of the result equals that of the input.

    Args:
        waveform: `[S]`.
        response: `[H]` impulse response.

    Returns:
        `[S]`.
    """
    num_samples = tf.size(waveform)
    size = _fft_size(num_samples + tf.size(response))
    spectrum = tf.signal.rfft(waveform, [size]) * tf.signal.rfft(response, [size])
    direct = tf.argmax(tf.abs(response), output_type=tf.int32)
    heard = tf.signal.irfft(spectrum, [size])[direct : direct + num_samples]
    return heard * tf.math.divide_no_nan(_rms(waveform), _rms(heard))


def limit_band(waveform: tf.Tensor, low_hz: tf.Tensor, high_hz: tf.Tensor, rate_hz: int):
    """Removes frequencies outside a band, as telephones and codecs do.

    Args:
        waveform: `[S]`.
        low_hz: lowest frequency that is kept.
        high_hz: highest frequency that is kept.
        rate_hz: sampling rate of the waveform.

    Returns:
        `[S]`.
    """
    num_samples = tf.size(waveform)
    size = _fft_size(num_samples)
    hz = tf.cast(tf.range(size // 2 + 1), tf.float32) * (rate_hz / tf.cast(size, tf.float32))
    kept = tf.cast((hz >= low_hz) & (hz <= high_hz), tf.complex64)
    return tf.signal.irfft(tf.signal.rfft(waveform, [size]) * kept, [size])[:num_samples]


def _fft_size(num_samples: tf.Tensor) -> tf.Tensor:
    """Returns the smallest power of two above a number of samples, at least 2."""
    bits = tf.math.ceil(tf.math.log(tf.cast(num_samples, tf.float64) + 0.5) / math.log(2.0))
    return tf.bitwise.left_shift(1, tf.cast(tf.maximum(bits, 1.0), tf.int32))


def _rms(waveform: tf.Tensor) -> tf.Tensor:
    count = tf.cast(tf.size(waveform), tf.float32)
    return tf.sqrt(tf.math.divide_no_nan(tf.reduce_sum(tf.square(waveform)), count))


def clip(waveform: tf.Tensor, depth_db: tf.Tensor) -> tf.Tensor:
    """Clips a waveform at a level below its peak.

    Args:
        waveform: `[S]`.
        depth_db: scalar, difference between the peak and the level in dB.

    Returns:
        `[S]`.
    """
    peak = tf.reduce_max(tf.concat([tf.abs(waveform), [0.0]], 0))
    most = peak * tf.pow(10.0, -depth_db / 20.0)
    return tf.clip_by_value(waveform, -most, most)


def white_noise(num_samples: tf.Tensor, seed: tf.Tensor, rate_hz: int) -> tf.Tensor:
    """Returns white noise; see `NoiseMaker`."""
    return tf.random.stateless_normal([num_samples], seed)


def pink_noise(num_samples: tf.Tensor, seed: tf.Tensor, rate_hz: int) -> tf.Tensor:
    """Returns noise whose power falls by 3 dB per octave above 20 Hz; see `NoiseMaker`."""
    size = _fft_size(num_samples)
    spectrum = tf.signal.rfft(tf.random.stateless_normal([size], seed))
    hz = tf.cast(tf.range(size // 2 + 1), tf.float32) * (rate_hz / tf.cast(size, tf.float32))
    shape = tf.math.rsqrt(tf.maximum(hz, 20.0))
    return tf.signal.irfft(spectrum * tf.cast(shape, tf.complex64), [size])[:num_samples]


def hum(num_samples: tf.Tensor, seed: tf.Tensor, rate_hz: int) -> tf.Tensor:
    """Returns power-line hum, 45 to 65 Hz with random overtones; see `NoiseMaker`."""
    drawn = tf.random.stateless_uniform([2 * _HUM_OVERTONES + 1], seed)
    hz = 45.0 + 20.0 * drawn[0]
    numbers = tf.range(1, _HUM_OVERTONES + 1, dtype=tf.float32)
    strengths = tf.concat([[1.0], 2.0 * drawn[2 : _HUM_OVERTONES + 1]], 0) / numbers
    seconds = tf.cast(tf.range(num_samples), tf.float32) / rate_hz
    cycles = numbers[:, None] * hz * seconds + drawn[_HUM_OVERTONES + 1 :, None]
    return tf.linalg.matvec(tf.sin(2 * math.pi * (cycles - tf.floor(cycles))), strengths, True)


def clicks(num_samples: tf.Tensor, seed: tf.Tensor, rate_hz: int) -> tf.Tensor:
    """Returns zeros with one to four clicks of a single sample each; see `NoiseMaker`."""
    drawn = tf.random.stateless_uniform([9], seed)
    count = 1 + tf.cast(4.0 * drawn[8], tf.int32)
    places = tf.cast(drawn[:4] * tf.cast(num_samples, tf.float32), tf.int32)
    size = tf.where(tf.range(4) < count, 2.0 * drawn[4:8] - 1.0, 0.0)
    return tf.tensor_scatter_nd_update(tf.zeros([num_samples]), places[:, None], size)


def silence(num_samples: tf.Tensor, seed: tf.Tensor, rate_hz: int) -> tf.Tensor:
    """Returns zeros; see `NoiseMaker`."""
    return tf.zeros([num_samples])


NOISES: dict[str, NoiseMaker] = {"white": white_noise, "pink": pink_noise, "hum": hum}


def one_of(makers: Sequence[Callable[[], tf.Tensor]], uniform: tf.Tensor) -> tf.Tensor:
    """Calls one of several functions, selected by a number in `[0, 1)`; returns its result."""
    number = tf.minimum(tf.cast(uniform * len(makers), tf.int32), len(makers) - 1)
    return makers[0]() if len(makers) == 1 else tf.switch_case(number, list(makers))


class _Draws:
    """A sequence of uniform random numbers in `[0, 1)` from one seed."""

    def __init__(self, count: int, seed: tf.Tensor):
        self._left = iter(tf.unstack(tf.random.stateless_uniform([count], seed)))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
        """Returns the next number, scaled to the range from `low` to `high`."""
        return low + (high - low) * next(self._left)

    def happens(self, probability: float) -> tf.Tensor:
        """Returns True with a probability."""
        return next(self._left) < probability


class WaveformAugmentation:
    """Applies the augmentations of a config at random, reproducible by a seed.

    The order is: speed, room response, pause between words, silence before and after, noise, band
    limit, clipping, gain, DC offset. A share of the utterances (`empty_share`) is replaced by noise
    without words.

    Args:
        config: ranges and probabilities.
        rate_hz: sampling rate of the waveforms.
        noises: background noise to add; None uses synthesized noise.
        responses: impulse responses of rooms; None skips this step.
    """

    def __init__(
        self,
        config: WaveformAugmentConfig,
        rate_hz: int,
        noises: SoundBank | None = None,
        responses: SoundBank | None = None,
    ):
        self.config, self._rate_hz = config, rate_hz
        self._noises, self._responses = noises, responses

    def __call__(
        self, waveform: tf.Tensor, uniforms: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Augments a waveform; returns a waveform without samples unchanged.

        Args:
            waveform: `[S]` float32.
            uniforms: `[3]` numbers in `[0, 1)` for the speed, the choice of noise, and its level.
            seed: `[2]` integers, the seed of all other random choices.

        Returns:
            The augmented waveform `[S']`, and a boolean scalar: whether it contains its words.
        """
        has_samples = tf.size(waveform) > 0
        return tf.cond(
            has_samples,
            lambda: self._changed(waveform, uniforms, seed),
            lambda: (waveform, has_samples),
        )

    def added_samples(self, seeds: tf.Tensor) -> tf.Tensor:
        """Returns how much silence is added to waveforms, so that batches can be planned.

        A pause for which a waveform has no place is counted too.

        Args:
            seeds: `[N, 2]` integers, the seeds of N calls.

        Returns:
            `[N]` int32 numbers of samples.
        """
        if self.config.silence_probability == self.config.pause_probability == 0:
            return tf.zeros(len(seeds), tf.int32)
        total = tf.function(
            lambda seeds: tf.map_fn(
                lambda seed: tf.add_n(self._added(seed)), seeds, fn_output_signature=tf.int32
            ),
            autograph=False,
        )
        return total(seeds)

    def _changed(self, waveform, uniforms, seed):
        draws = _Draws(_NUM_DRAWS, seed + _DRAWS_SEED)
        is_empty = draws.happens(self.config.empty_share)
        spoken = self._spoken(waveform, uniforms, draws)
        heard = spoken
        if self.config.empty_share > 0:
            heard = tf.cond(
                is_empty, lambda: self._without_words(tf.size(waveform), seed), lambda: spoken
            )
        heard = self._in_a_room(heard, uniforms, draws, seed=seed)
        return self._recorded(heard, draws), ~is_empty

    def _spoken(self, waveform, uniforms, draws):
        """Applies the change of speed and the room response."""
        config = self.config
        if config.max_speed_change > 0:
            speed = 1.0 + config.max_speed_change * (2.0 * uniforms[0] - 1.0)
            waveform = change_speed(waveform, speed)
        which, has_room = draws.uniform(), draws.happens(config.impulse_response_probability)
        if self._responses is None:
            return waveform
        return tf.cond(
            has_room,
            lambda: reverberate(waveform, self._responses.sound(which)),
            lambda: waveform,
        )

    def _in_a_room(self, waveform, uniforms, draws, *, seed):
        """Adds a pause, silence before and after, and background noise."""
        config = self.config
        level = speech_rms(waveform, self._rate_hz)
        pause, *around = self._added(seed)
        if config.pause_probability > 0:
            waveform = insert_pause(waveform, draws.uniform(), pause, self._rate_hz)
        if config.silence_probability > 0:
            waveform = tf.pad(waveform, [around])
        if config.noise_probability > 0:
            snr_db = config.min_noise_snr_db + uniforms[2] * (
                config.max_noise_snr_db - config.min_noise_snr_db
            )
            level = level * tf.pow(10.0, -snr_db / 20.0)
            is_noisy = uniforms[1] < config.noise_probability
            noise = self._noise(tf.size(waveform), seed, self._kinds())
            waveform += tf.where(is_noisy, level, 0.0) * noise
        return waveform

    def _added(self, seed):
        """Draws the numbers of samples of the pause and of the silence before and after."""
        config, draws = self.config, _Draws(6, seed + _LENGTHS_SEED)
        silence = config.silence_probability, config.max_silence_seconds
        return [
            self._length(draws, config.pause_probability, config.max_pause_seconds),
            self._length(draws, *silence),
            self._length(draws, *silence),
        ]

    def _length(self, draws, probability: float, max_seconds: float):
        """Draws a number of samples: 0, or a random number in which small values are likelier."""
        happens, seconds = draws.happens(probability), max_seconds * draws.uniform() ** 3
        return tf.where(happens, tf.cast(seconds * self._rate_hz, tf.int32), 0)

    def _kinds(self) -> list[NoiseMaker]:
        """Returns the functions that make background noise."""
        if self._noises is None:
            return [NOISES[kind] for kind in self.config.noise_kinds]

        def stretch(num_samples, seed, rate_hz):
            return self._noises.stretch(tf.random.stateless_uniform([2], seed), num_samples)

        return [stretch]

    def _noise(self, num_samples, seed, kinds: Sequence[NoiseMaker]):
        """Returns noise with an RMS of 1, made by one of several functions."""
        noise_seed = tf.stack([seed[0] + 1, seed[1]])
        which = tf.random.stateless_uniform([], seed + _KIND_SEED)
        makers = [lambda make=make: make(num_samples, noise_seed, self._rate_hz) for make in kinds]
        noise = one_of(makers, which)
        return tf.math.divide_no_nan(noise, _rms(noise))

    def _without_words(self, num_samples, seed):
        """Returns noise, hum, silence or clicks at a random level."""
        level_db = tf.random.stateless_uniform([], seed + _LEVEL_SEED, *_EMPTY_LEVELS_DB)
        kinds = [*self._kinds(), *NOISES.values(), clicks, silence]
        noise = tf.pow(10.0, level_db / 20.0) * self._noise(num_samples, seed, kinds)
        return tf.clip_by_value(noise, -1.0, 1.0)

    def _recorded(self, waveform, draws):
        """Applies band limit, clipping, gain and DC offset, as of a microphone or telephone."""
        config = self.config
        limited = draws.happens(config.band_limit_probability)
        band = draws.uniform(50.0, 400.0), draws.uniform(3000.0, 4000.0)
        gain_db = draws.uniform(config.min_gain_db, config.max_gain_db)
        offset = draws.uniform(-config.max_dc_offset, config.max_dc_offset)
        clipped, depth_db = draws.happens(config.clipping_probability), draws.uniform()
        if config.band_limit_probability > 0:
            wide = waveform
            waveform = tf.cond(
                limited, lambda: limit_band(wide, *band, rate_hz=self._rate_hz), lambda: wide
            )
        if config.clipping_probability > 0:
            depth_db = tf.where(clipped, config.max_clipping_db * depth_db, 0.0)
            waveform = clip(waveform, depth_db)
        if config.min_gain_db != 0 or config.max_gain_db != 0:
            waveform *= tf.pow(10.0, gain_db / 20.0)
        return waveform + offset if config.max_dc_offset > 0 else waveform
