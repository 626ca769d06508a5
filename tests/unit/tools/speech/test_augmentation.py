"""Changes of training waveforms: each does what it says, and is drawn as it is configured."""

import numpy as np
import pytest
import tensorflow as tf

from tools.benchmark import robustness
from tools.recognition.training_data import prepare
from tools.speech import augmentation
from tools.speech.augmentation import WaveformAugmentation
from tools.speech.config import WaveformAugmentConfig
from tools.speech.sound_bank import SoundBank

RATE_HZ = 16000


def tone(frequency_hz, num_samples=RATE_HZ):
    return np.sin(2 * np.pi * frequency_hz * np.arange(num_samples) / RATE_HZ).astype("float32")


def bank(*sounds):
    starts = np.cumsum([0, *map(len, sounds)])
    samples = tf.constant(np.concatenate(sounds).astype("float16"))
    return SoundBank(samples, tf.constant(starts, tf.int32), "", ())


def augmenter(noises=None, responses=None, **config):
    augment = WaveformAugmentation(WaveformAugmentConfig(**config), RATE_HZ, noises, responses)
    signature = [
        tf.TensorSpec([None]),
        tf.TensorSpec([3]),
        tf.TensorSpec([2], tf.int64),
    ]
    return tf.function(augment, input_signature=signature, autograph=False)


def augmented(waveform, uniforms, seed=(3, 4), **config):
    found = augmenter(**config)(waveform, np.float32(uniforms), tf.constant(seed, tf.int64))
    return found[0].numpy()


def draws(waveform, count, **config):
    """The outcomes of many seeds."""
    run = augmenter(**config)
    uniforms = np.random.default_rng(0).uniform(size=(count, 3)).astype("float32")
    found = [run(waveform, u, tf.constant([7, n], tf.int64)) for n, u in enumerate(uniforms)]
    return [sound.numpy() for sound, _ in found], np.array([bool(words) for _, words in found])


@pytest.mark.parametrize("uniform", [0.0, 0.25, 0.5, 0.999])
def test_speed_changes_length_and_pitch(uniform):
    speed = 1 + 0.1 * (2 * uniform - 1)
    found = augmented(tone(500.0), [uniform, 0, 0], max_speed_change=0.1)
    assert abs(len(found) - RATE_HZ / speed) <= 1
    spectrum = np.abs(np.fft.rfft(found * np.hanning(len(found)), 8 * RATE_HZ))
    assert np.argmax(spectrum) / 8 == pytest.approx(500.0 * speed, abs=0.5)
    np.testing.assert_allclose(found, tone(500.0 * speed, len(found)), atol=0.02)


def test_by_default_nothing_is_changed(rng):
    waveform = rng.normal(size=1000).astype("float32")
    np.testing.assert_array_equal(augmented(waveform, [0.5, 0, 0], max_speed_change=0.1), waveform)
    sounds, has_words = draws(waveform, 5)
    for sound in sounds:
        np.testing.assert_array_equal(sound, waveform)
    assert has_words.all()


@pytest.mark.parametrize("uniform", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["white", "pink", "hum", "bank"])
def test_noise_has_the_level_asked_for(uniform, kind):
    """Against the speech alone: the silence in front does not count."""
    clean = np.pad(0.3 * tone(500.0), (RATE_HZ, 0))
    noises = bank(tone(77.0, 5000)) if kind == "bank" else None
    kinds = ("white",) if kind == "bank" else (kind,)
    found = augmented(
        clean, [0, 0.2, uniform], noises=noises, noise_kinds=kinds,
        noise_probability=0.3, min_noise_snr_db=5.0, max_noise_snr_db=25.0,
    )  # fmt: skip
    noise = found - clean
    snr_db = 10 * np.log10(np.mean(clean[RATE_HZ:] ** 2) / np.mean(noise**2))
    assert snr_db == pytest.approx(5 + 20 * uniform, abs=0.2)
    if kind == "white":
        assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.05
    if kind == "bank":
        spectrum = np.abs(np.fft.rfft(noise * np.hanning(len(noise))))
        assert np.argmax(spectrum) / 2 == pytest.approx(77.0, abs=1)


def test_no_noise_above_its_probability_or_on_silence():
    clean = 0.3 * tone(500.0)
    np.testing.assert_array_equal(augmented(clean, [0, 0.4, 0.5], noise_probability=0.3), clean)
    silence = np.zeros(100, "float32")
    np.testing.assert_array_equal(augmented(silence, [0, 0, 0], noise_probability=1.0), silence)


def test_every_kind_of_noise_is_drawn():
    clean = 0.3 * tone(500.0)
    config = {"noise_probability": 1.0, "noise_kinds": ("white", "hum")}
    sounds, _ = draws(clean, 40, **config, min_noise_snr_db=0.0, max_noise_snr_db=0.0)
    is_white = [abs(np.corrcoef((x - clean)[1:], (x - clean)[:-1])[0, 1]) < 0.5 for x in sounds]
    assert 8 < sum(is_white) < 32


@pytest.mark.parametrize("num_samples", [0, 1, 2, 700])
def test_very_short_sounds_survive(num_samples):
    config = {name: 1.0 for name in WaveformAugmentConfig.__dataclass_fields__ if "prob" in name}
    ones = np.ones(num_samples, "float32")
    config |= {"max_dc_offset": 0.1, "min_gain_db": -3.0, "empty_share": 0.3}
    sounds, has_words = draws(ones, 20, **config, max_speed_change=0.3, responses=bank([1.0]))
    for sound in sounds:
        assert np.isfinite(sound).all()
        assert bool(len(sound)) == bool(num_samples), "an unreadable file stays one"
    assert num_samples == 0 or 0 < has_words.sum() < 20
    assert num_samples or not has_words.any()


@pytest.mark.parametrize("level", [1e-3, 1.0])
def test_the_level_of_speech_leaves_its_pauses_out(rng, level):
    speech = level * rng.normal(size=RATE_HZ)
    with_pauses = np.concatenate([np.zeros(RATE_HZ), speech, 0.01 * speech]).astype("float32")
    assert float(augmentation.speech_rms(with_pauses, RATE_HZ)) == pytest.approx(level, rel=0.05)
    found = robustness.speech_rms(with_pauses, RATE_HZ)
    assert found == pytest.approx(float(augmentation.speech_rms(with_pauses, RATE_HZ)), rel=1e-4)
    assert augmentation.speech_rms(np.zeros(1000, "float32"), RATE_HZ) == 0


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999])
def test_a_pause_is_inserted_between_words_alone(place):
    word, gap, silence = 0.3 * tone(200.0, 4000), np.zeros(3200), np.zeros(8000)
    words = np.concatenate([silence, word, gap, word, silence]).astype("float32")
    found = augmentation.insert_pause(words, place, 5000, RATE_HZ).numpy()
    expected = np.concatenate([silence, word, np.pad(gap, (0, 5000)), word, silence])
    np.testing.assert_array_equal(found, expected.astype("float32"))


def test_a_pause_is_cut_into_the_middle_of_quiet_sound(rng):
    """50 ms around the cut are quiet: with noise in the gap the place shows."""
    word = 0.3 * tone(200.0, 4000)
    gap = 1e-3 * rng.normal(size=3200)
    words = np.concatenate([word, gap, word]).astype("float32")
    for place in (0.0, 0.999):
        found = augmentation.insert_pause(words, place, 5000, RATE_HZ).numpy()
        start = int(np.argmax(np.convolve(found == 0, np.ones(5000), "valid") == 5000))
        np.testing.assert_array_equal(found[:start], words[:start])
        np.testing.assert_array_equal(found[start + 5000 :], words[start:])
        assert 4000 + 320 <= start <= 4000 + 3200 - 320


def test_without_a_gap_there_is_no_pause():
    for words in (tone(200.0, 9000), np.zeros(4000, "float32"), np.pad(tone(200.0), (4000, 4000))):
        found = augmentation.insert_pause(words.astype("float32"), 0.5, 5000, RATE_HZ)
        np.testing.assert_array_equal(found, words)


def test_a_room_adds_its_echoes_where_they_are_and_keeps_the_level(rng):
    waveform = rng.normal(size=3000).astype("float32")
    response = np.zeros(500, "float32")
    response[[20, 120]] = 1.0, 0.5  # the direct path comes after 20 samples
    found = augmentation.reverberate(waveform, response).numpy()
    expected = waveform + 0.5 * np.pad(waveform, (100, 0))[:3000]
    expected *= np.sqrt(np.mean(waveform**2) / np.mean(expected**2))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_band_keeps_what_is_inside():
    low, middle, high = tone(100.0), tone(1000.0), tone(5000.0)
    found = augmentation.limit_band(low + middle + high, 300.0, 3400.0, RATE_HZ).numpy()
    inside = slice(2000, -2000)
    np.testing.assert_allclose(found[inside], middle[inside], atol=0.02)


def test_clipping_cuts_what_is_above_its_share_of_the_peak(rng):
    waveform = rng.normal(size=1000).astype("float32")
    peak = np.abs(waveform).max()
    found = augmentation.clip(waveform, 20.0).numpy()
    np.testing.assert_allclose(found, np.clip(waveform, -0.1 * peak, 0.1 * peak), rtol=1e-5)
    np.testing.assert_array_equal(augmentation.clip(waveform, 0.0), waveform)


def test_pink_noise_has_as_much_power_in_each_octave():
    noise = augmentation.pink_noise(1 << 18, tf.constant([1, 2]), RATE_HZ).numpy()
    power = np.abs(np.fft.rfft(noise)) ** 2
    hz = np.fft.rfftfreq(len(noise), 1 / RATE_HZ)
    octaves = [power[(hz >= low) & (hz < 2 * low)].sum() for low in (62.5, 250, 1000, 4000)]
    np.testing.assert_allclose(octaves, np.mean(octaves), rtol=0.1)


def test_hum_is_a_tone_with_overtones():
    for number in range(5):
        noise = augmentation.hum(RATE_HZ * 4, tf.constant([1, number]), RATE_HZ).numpy()
        spectrum = np.abs(np.fft.rfft(noise * np.hanning(len(noise)))) ** 2
        lines = np.arange(1, 7)[:, None] * (np.argmax(spectrum[180:261]) + 180) + np.arange(-24, 25)
        assert spectrum[lines].sum() / spectrum.sum() > 0.99


def test_clicks_are_a_few_single_samples():
    counts = set()
    for number in range(40):
        noise = augmentation.clicks(5000, tf.constant([1, number]), RATE_HZ).numpy()
        counts.add(np.count_nonzero(noise))
        assert np.abs(noise).max() <= 1
    assert counts == {1, 2, 3, 4}


def test_silence_is_put_on_either_side_and_more_often_a_little():
    ones = np.ones(4000, "float32")
    sounds, _ = draws(ones, 300, silence_probability=0.5, max_silence_seconds=2.0)
    before = np.array([np.argmax(sound == 1) for sound in sounds])
    behind = np.array([len(sound) for sound in sounds]) - 4000 - before
    for sound, start in zip(sounds, before, strict=True):
        np.testing.assert_array_equal(sound[start:][:4000], ones)
        assert sound.sum() == 4000
    for seconds in (before / RATE_HZ, behind / RATE_HZ):
        assert 0.35 < np.mean(seconds > 0) < 0.6
        assert 1.5 < seconds.max() <= 2.0
        assert np.median(seconds[seconds > 0]) == pytest.approx(2.0 * 0.5**3, abs=0.1)
    assert abs(np.corrcoef(before, behind)[0, 1]) < 0.2


def test_gain_offset_and_clipping_are_drawn_from_their_ranges():
    waveform = tone(500.0)
    sounds, _ = draws(waveform, 60, min_gain_db=-20.0, max_gain_db=6.0)
    gains = 20 * np.log10([np.abs(sound).max() for sound in sounds])
    assert -20 <= gains.min() < -15
    assert 2 < gains.max() <= 6.01
    sounds, _ = draws(waveform, 60, max_dc_offset=0.1)
    offsets = np.array([sound.mean() for sound in sounds])
    assert -0.1 <= offsets.min() < -0.07
    assert 0.07 < offsets.max() <= 0.1
    sounds, _ = draws(waveform, 60, clipping_probability=0.5, max_clipping_db=20.0)
    peaks = np.array([np.abs(sound).max() for sound in sounds])
    assert 0.3 < np.mean(peaks < 0.999) < 0.7
    assert 0.099 < peaks.min() < 0.2


def test_rooms_and_bands_are_applied_as_often_as_asked_for():
    waveform = tone(500.0) + tone(6000.0)
    sounds, _ = draws(waveform, 60, band_limit_probability=0.3)
    assert 0.1 < np.mean([np.std(sound) < 0.8 for sound in sounds]) < 0.5
    sounds, _ = draws(waveform, 60, responses=bank([1.0, -1.0]), impulse_response_probability=0.3)
    changed = [not np.array_equal(sound, waveform) for sound in sounds]
    assert 0.1 < np.mean(changed) < 0.5


def test_a_share_has_noise_instead_of_words():
    waveform = 0.5 * tone(440.0)
    sounds, has_words = draws(waveform, 100, empty_share=0.3)
    assert 0.15 < np.mean(~has_words) < 0.45
    levels = []
    for sound, spoken in zip(sounds, has_words, strict=True):
        if spoken:
            np.testing.assert_array_equal(sound, waveform)
            continue
        assert len(sound) == len(waveform)
        assert abs(np.dot(sound, waveform)) <= 0.2 * np.linalg.norm(sound) * np.linalg.norm(
            waveform
        )
        levels.append(np.sqrt(np.mean(sound**2)))
    assert min(levels) == 0, "digital silence is among them"
    assert max(levels) > 0.05
    assert max(levels) <= 0.32


def test_no_waveform_becomes_longer_than_stated():
    config = {"max_speed_change": 0.2, "silence_probability": 1.0, "max_silence_seconds": 0.5}
    config |= {"pause_probability": 1.0, "max_pause_seconds": 0.25}
    word = 0.3 * tone(200.0, 4000)
    words = np.concatenate([word, np.zeros(3200, "float32"), word])
    sounds, _ = draws(words, 200, **config)
    longest = WaveformAugmentConfig(**config).longest_seconds(len(words) / RATE_HZ) * RATE_HZ
    assert longest == pytest.approx(11200 / 0.8 + 20000)
    assert 0.75 * longest < max(map(len, sounds)) <= longest + 1
    assert WaveformAugmentConfig().longest_seconds(2.0) == 2.0


def test_a_bank_gives_every_sound_and_repeats_short_ones():
    sounds = bank(np.full(3, 1.0), np.arange(1, 5) / 8, np.full(2, 0.25))
    for uniform, expected in (
        (0.0, [1, 1, 1]),
        (0.34, [0.125, 0.25, 0.375, 0.5]),
        (0.999, [0.25] * 2),
    ):
        np.testing.assert_array_equal(sounds.sound(tf.constant(uniform)), expected)
    stretch = sounds.stretch(tf.constant([0.5, 0.5]), 6)
    np.testing.assert_array_equal(stretch, [0.375, 0.5, 0.125, 0.25, 0.375, 0.5])


def test_the_numbers_of_the_masks_are_others_than_those_of_the_sound():
    """The same seed gives the same of both; each utterance and epoch has its own."""
    waveform = tf.constant(tone(500.0, 4000))

    def prepared(seed, **config):
        augment = WaveformAugmentation(WaveformAugmentConfig(**config), RATE_HZ)
        sound, uniforms, _ = prepare(waveform, tf.constant(seed, tf.int64), augment, 4)
        return sound.numpy(), uniforms.numpy()

    seeds = [(epoch, index) for epoch in (5, 6) for index in range(10)]
    speeds, masks = [], []
    for seed in seeds:
        sound, uniforms = prepared(seed, max_speed_change=0.2)
        assert uniforms.shape == (4,)
        assert np.all((uniforms >= 0) & (uniforms < 1))
        noisy = prepared(seed, max_speed_change=0.2, noise_probability=1.0, max_dc_offset=0.1)
        np.testing.assert_array_equal(noisy[1], uniforms)
        np.testing.assert_array_equal(prepared(seed, max_speed_change=0.2)[0], sound)
        speeds.append(4000 / len(sound))
        masks.append(uniforms)
    assert len({tuple(row) for row in masks}) == len(set(speeds)) == len(seeds)
    for column in np.transpose(masks):
        assert abs(np.corrcoef(speeds, column)[0, 1]) < 0.9

    # Noise of its own in every utterance and epoch, even where nothing else differs.
    noisy = {"noise_probability": 1.0, "min_noise_snr_db": 10.0, "max_noise_snr_db": 10.0}
    noises = [prepared(seed, **noisy)[0] - waveform.numpy() for seed in ((5, 1), (5, 2), (6, 2))]
    likeness = np.corrcoef(noises)
    assert np.abs(likeness[np.triu_indices(3, 1)]).max() < 0.1


def test_the_added_silence_is_known_before_a_waveform_is_augmented():
    """Batches are planned by it. The waveform has places for a pause."""
    config = WaveformAugmentConfig(
        silence_probability=0.7, max_silence_seconds=1.0, pause_probability=0.5
    )
    word = tone(500.0, 4000)
    waveform = tf.constant(np.concatenate([word, np.zeros(3000, "float32"), word]))
    augment = WaveformAugmentation(config, RATE_HZ)
    seeds = tf.constant([[epoch, index] for epoch in (7, 8) for index in range(15)], tf.int64)
    added = augment.added_samples(seeds).numpy()
    found = [tf.size(augment(waveform, tf.zeros(3), seed)[0]) - tf.size(waveform) for seed in seeds]
    np.testing.assert_array_equal(added, found)
    assert len(set(added.tolist())) > 20
    plain = WaveformAugmentation(WaveformAugmentConfig(noise_probability=1.0), RATE_HZ)
    np.testing.assert_array_equal(plain.added_samples(seeds), np.zeros(30))
