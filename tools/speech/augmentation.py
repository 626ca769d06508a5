"""What rooms, microphones and telephones do to speech, as changes of training waveforms.

Every function works in the graph on one waveform `[S]` float32 and draws nothing itself: whoever
passes the numbers decides about reproducibility.
"""

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from tools.speech.config import WaveformAugmentConfig
from tools.speech.sound_bank import SoundBank

_FRAME_SECONDS = 0.025
_SPEECH_RANGE_DB = 30.0
_PAUSE_FRAME_SECONDS = 0.01
_PAUSE_FRAMES = 5  # of a place that is quiet enough for a pause
_HUM_OVERTONES = 5
_EMPTY_LEVELS_DB = (-60.0, -10.0)
_NUM_DRAWS = 20
# What is added to the seed of an utterance for numbers that are independent of one another.
_DRAWS_SEED, _KIND_SEED, _LEVEL_SEED = ([number, 0] for number in (2, 3, 4))

# Number of samples, seed `[2]` and rate to a waveform of any level.
NoiseMaker = Callable[[tf.Tensor, tf.Tensor, int], tf.Tensor]


def change_speed(waveform: tf.Tensor, speed: tf.Tensor) -> tf.Tensor:
    """Changes speed, and pitch with it, by linear interpolation: `[S / speed]`.

    Source: Ko et al., Audio augmentation for speech recognition (2015), for the speeds.
    """
    last = tf.size(waveform) - 1
    count = tf.cast(tf.cast(last, tf.float32) / speed, tf.int32) + 1
    count = tf.where(last < 0, 0, count)  # a file that could not be read
    position = tf.cast(tf.range(count), tf.float32) * speed
    left = tf.minimum(tf.cast(position, tf.int32), last)
    share = position - tf.cast(left, tf.float32)
    right = tf.gather(waveform, tf.minimum(left + 1, last))
    return (1.0 - share) * tf.gather(waveform, left) + share * right


def speech_rms(waveform: tf.Tensor, rate_hz: int) -> tf.Tensor:
    """Gives the RMS of the frames of 25 ms within 30 dB of the loudest one; 0 of silence."""
    power = _frame_power(waveform, round(_FRAME_SECONDS * rate_hz))
    loudest = tf.reduce_max(tf.concat([power, [0.0]], 0))
    loud = tf.cast(power >= loudest * 10 ** (-_SPEECH_RANGE_DB / 10), tf.float32)
    return tf.sqrt(tf.math.divide_no_nan(tf.reduce_sum(loud * power), tf.reduce_sum(loud)))


def _frame_power(waveform: tf.Tensor, size: int) -> tf.Tensor:
    """Gives the mean power of each frame, `[ceil(S / size)]`; the last one is filled with zeros."""
    padded = tf.pad(waveform, [[0, -tf.size(waveform) % size]])
    return tf.reduce_mean(tf.square(tf.reshape(padded, [-1, size])), axis=1)


def insert_pause(
    waveform: tf.Tensor, place: tf.Tensor, num_samples: tf.Tensor, rate_hz: int
) -> tf.Tensor:
    """Inserts digital silence between two words.

    A place is between words where 50 ms are more than 30 dB quieter than the loudest 10 ms, with
    louder sound on both sides; a waveform without such a place is not changed.

    Args:
        waveform: `[S]`.
        place: in `[0, 1)`, which of the places.
        num_samples: of silence.
        rate_hz: of the waveform.
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
    """Convolves a waveform with a room's impulse response `[H]`.

    The response's largest sample is its direct path: it moves nothing in time. The level stays.
    """
    num_samples = tf.size(waveform)
    size = _fft_size(num_samples + tf.size(response))
    spectrum = tf.signal.rfft(waveform, [size]) * tf.signal.rfft(response, [size])
    direct = tf.argmax(tf.abs(response), output_type=tf.int32)
    heard = tf.signal.irfft(spectrum, [size])[direct : direct + num_samples]
    return heard * tf.math.divide_no_nan(_rms(waveform), _rms(heard))


def limit_band(waveform: tf.Tensor, low_hz: tf.Tensor, high_hz: tf.Tensor, rate_hz: int):
    """Removes what is below and above a band, as telephones and codecs do."""
    num_samples = tf.size(waveform)
    size = _fft_size(num_samples)
    hz = tf.cast(tf.range(size // 2 + 1), tf.float32) * (rate_hz / tf.cast(size, tf.float32))
    kept = tf.cast((hz >= low_hz) & (hz <= high_hz), tf.complex64)
    return tf.signal.irfft(tf.signal.rfft(waveform, [size]) * kept, [size])[:num_samples]


def _fft_size(num_samples: tf.Tensor) -> tf.Tensor:
    """The power of two that holds a number of samples."""
    bits = tf.math.ceil(tf.math.log(tf.cast(num_samples, tf.float64) + 0.5) / math.log(2.0))
    return tf.bitwise.left_shift(1, tf.cast(tf.maximum(bits, 1.0), tf.int32))


def _rms(waveform: tf.Tensor) -> tf.Tensor:
    count = tf.cast(tf.size(waveform), tf.float32)
    return tf.sqrt(tf.math.divide_no_nan(tf.reduce_sum(tf.square(waveform)), count))


def clip(waveform: tf.Tensor, depth_db: tf.Tensor) -> tf.Tensor:
    """Cuts off what is less than `depth_db` below the peak."""
    peak = tf.reduce_max(tf.concat([tf.abs(waveform), [0.0]], 0))
    most = peak * tf.pow(10.0, -depth_db / 20.0)
    return tf.clip_by_value(waveform, -most, most)


def white_noise(num_samples: tf.Tensor, seed: tf.Tensor, rate_hz: int) -> tf.Tensor:
    """Makes white noise."""
    return tf.random.stateless_normal([num_samples], seed)


def pink_noise(num_samples: tf.Tensor, seed: tf.Tensor, rate_hz: int) -> tf.Tensor:
    """Makes noise whose power falls by 3 dB an octave above 20 Hz."""
    size = _fft_size(num_samples)
    spectrum = tf.signal.rfft(tf.random.stateless_normal([size], seed))
    hz = tf.cast(tf.range(size // 2 + 1), tf.float32) * (rate_hz / tf.cast(size, tf.float32))
    shape = tf.math.rsqrt(tf.maximum(hz, 20.0))
    return tf.signal.irfft(spectrum * tf.cast(shape, tf.complex64), [size])[:num_samples]


def hum(num_samples: tf.Tensor, seed: tf.Tensor, rate_hz: int) -> tf.Tensor:
    """Makes the hum of a power line: 45 to 65 Hz and up to five overtones of random strength."""
    drawn = tf.random.stateless_uniform([2 * _HUM_OVERTONES + 1], seed)
    hz = 45.0 + 20.0 * drawn[0]
    numbers = tf.range(1, _HUM_OVERTONES + 1, dtype=tf.float32)
    strengths = tf.concat([[1.0], 2.0 * drawn[2 : _HUM_OVERTONES + 1]], 0) / numbers
    seconds = tf.cast(tf.range(num_samples), tf.float32) / rate_hz
    cycles = numbers[:, None] * hz * seconds + drawn[_HUM_OVERTONES + 1 :, None]
    return tf.linalg.matvec(tf.sin(2 * math.pi * (cycles - tf.floor(cycles))), strengths, True)


def clicks(num_samples: tf.Tensor, seed: tf.Tensor, rate_hz: int) -> tf.Tensor:
    """Makes one to four single samples in digital silence."""
    drawn = tf.random.stateless_uniform([9], seed)
    count = 1 + tf.cast(4.0 * drawn[8], tf.int32)
    places = tf.cast(drawn[:4] * tf.cast(num_samples, tf.float32), tf.int32)
    size = tf.where(tf.range(4) < count, 2.0 * drawn[4:8] - 1.0, 0.0)
    return tf.tensor_scatter_nd_update(tf.zeros([num_samples]), places[:, None], size)


def silence(num_samples: tf.Tensor, seed: tf.Tensor, rate_hz: int) -> tf.Tensor:
    """Makes digital silence."""
    return tf.zeros([num_samples])


NOISES: dict[str, NoiseMaker] = {"white": white_noise, "pink": pink_noise, "hum": hum}


def one_of(makers: Sequence[Callable[[], tf.Tensor]], uniform: tf.Tensor) -> tf.Tensor:
    """Runs one of several functions, chosen by a number in `[0, 1)`."""
    number = tf.minimum(tf.cast(uniform * len(makers), tf.int32), len(makers) - 1)
    return makers[0]() if len(makers) == 1 else tf.switch_case(number, list(makers))


class _Draws:
    """Uniform numbers in `[0, 1)` of one seed, one at a time."""

    def __init__(self, count: int, seed: tf.Tensor):
        self._left = iter(tf.unstack(tf.random.stateless_uniform([count], seed)))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
        """Draws a number between two others."""
        return low + (high - low) * next(self._left)

    def happens(self, probability: float) -> tf.Tensor:
        """Draws whether something happens."""
        return next(self._left) < probability


class WaveformAugmentation:
    """The changes of a configuration, drawn by a seed.

    In their order: speed, room, a pause between words, silence around, noise, a limited band,
    gain, an offset, clipping. A share of the utterances becomes noise in which nothing is said.

    Args:
        config: ranges and probabilities.
        rate_hz: of the waveforms.
        noises: sounds to add; None: synthesized noise.
        responses: impulse responses of rooms; None: there are none.
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
        """Changes a waveform; one without samples stays as it is.

        Args:
            waveform: `[S]` float32.
            uniforms: `[3]` in `[0, 1)`: speed, whether there is noise, how much.
            seed: `[2]` integers; all else is drawn with it.

        Returns:
            The waveform `[S']` to train with, and a boolean scalar: whether its words are in it.
        """
        has_samples = tf.size(waveform) > 0
        return tf.cond(
            has_samples,
            lambda: self._changed(waveform, uniforms, seed),
            lambda: (waveform, has_samples),
        )

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
        """Applies speed and the room's response."""
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
        """Adds a pause, silence around and background noise."""
        config = self.config
        level = speech_rms(waveform, self._rate_hz)
        place = draws.uniform()
        pause = self._length(draws, config.pause_probability, config.max_pause_seconds)
        around = [
            self._length(draws, config.silence_probability, config.max_silence_seconds)
            for _ in range(2)
        ]
        if config.pause_probability > 0:
            waveform = insert_pause(waveform, place, pause, self._rate_hz)
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

    def _length(self, draws, probability: float, max_seconds: float):
        """Draws a number of samples: none, or more likely few than many."""
        happens, seconds = draws.happens(probability), max_seconds * draws.uniform() ** 3
        return tf.where(happens, tf.cast(seconds * self._rate_hz, tf.int32), 0)

    def _kinds(self) -> list[NoiseMaker]:
        """What makes background noise."""
        if self._noises is None:
            return [NOISES[kind] for kind in self.config.noise_kinds]

        def stretch(num_samples, seed, rate_hz):
            return self._noises.stretch(tf.random.stateless_uniform([2], seed), num_samples)

        return [stretch]

    def _noise(self, num_samples, seed, kinds: Sequence[NoiseMaker]):
        """Makes noise of an RMS of 1, by one of several makers."""
        noise_seed = tf.stack([seed[0] + 1, seed[1]])
        which = tf.random.stateless_uniform([], seed + _KIND_SEED)
        makers = [lambda make=make: make(num_samples, noise_seed, self._rate_hz) for make in kinds]
        noise = one_of(makers, which)
        return tf.math.divide_no_nan(noise, _rms(noise))

    def _without_words(self, num_samples, seed):
        """Makes noise, hum, silence or clicks at any level."""
        level_db = tf.random.stateless_uniform([], seed + _LEVEL_SEED, *_EMPTY_LEVELS_DB)
        kinds = [*self._kinds(), *NOISES.values(), clicks, silence]
        noise = tf.pow(10.0, level_db / 20.0) * self._noise(num_samples, seed, kinds)
        return tf.clip_by_value(noise, -1.0, 1.0)

    def _recorded(self, waveform, draws):
        """Applies what microphone and telephone do."""
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
