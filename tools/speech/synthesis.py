"""Speech synthesis with espeak-ng. The package `espeakng-loader` contains library and voices.

A voice is an espeak-ng language ("en", "en-us", "en-gb-scotland" ...), optionally with a variant
from `voice_variants` ("en-us+m3", "en-gb+f2").
"""

import ctypes
import functools
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import espeakng_loader
import librosa
import numpy as np

from tools.errors import UserError

MIN_RATE_WORDS_PER_MINUTE, MAX_RATE_WORDS_PER_MINUTE = 80, 450
MIN_PITCH, MAX_PITCH = 0, 99

# espeak-ng looks voices up by file name, and the file of "en-gb" is called "en".
_VOICE_FILES = {"en-gb": "en"}

# Constants from speak_lib.h of espeak-ng 1.52.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_POSITION_CHARACTER = 1
_PARAMETER_RATE = 1
_PARAMETER_PITCH = 3
_SYNTH_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
# espeak-ng stores the path of its data in 160 bytes and fails for longer paths.
_MAX_DATA_PATH_BYTES = 159

# The library has global state, and ctypes releases the interpreter lock during calls.
_LOCK = threading.Lock()


@functools.cache
def voice_variants() -> tuple[str, ...]:
    """Returns the sorted names of the variants that may follow "+" in a voice."""
    folder = Path(espeakng_loader.get_data_path()) / "voices" / "!v"
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_file()))


def _require_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UserError.expected(f"{name} from {low} to {high}", value, f"Change {name}")


def _voice_name(voice: str) -> str:
    """Returns espeak-ng's name of a voice; raises UserError for an unknown variant.

    espeak-ng itself ignores unknown variants.
    """
    language, plus, variant = voice.partition("+")
    if plus and variant not in voice_variants():
        raise UserError.expected(
            "a voice variant of espeak-ng", f'"{variant}" in "{voice}"', 'Try "en-us+m3"'
        )
    return _VOICE_FILES.get(language, language) + plus + variant


@contextmanager
def _data_path() -> Iterator[bytes]:
    """Yields the path of espeak-ng's data, or of a link to the data if the path is too long."""
    path = espeakng_loader.get_data_path()
    if len(os.fsencode(path)) <= _MAX_DATA_PATH_BYTES:
        yield os.fsencode(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "espeak-ng-data"
        link.symlink_to(path, target_is_directory=True)
        yield os.fsencode(link)


@contextmanager
def _loaded_library() -> Iterator[ctypes.CDLL]:
    """Yields a newly loaded library.

    espeak-ng keeps oscillator phases and random numbers between utterances, even after
    espeak_Terminate. Loading the library again (2 ms) makes the result independent of earlier
    utterances. Its random generator is seeded from the clock, and two variants use that of the C
    library, so `_speak` seeds both.
    """
    process = ctypes.CDLL(None)
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    try:
        yield library
    finally:
        process.dlclose(ctypes.c_void_p(library._handle))


def _speak(text: str, voice: str, rate_words_per_minute: int, pitch: int) -> tuple[np.ndarray, int]:
    """Returns the int16 samples `[S]` that espeak-ng generates, and their rate in Hz."""
    pieces: list[np.ndarray] = []

    @_SYNTH_CALLBACK
    def collect(samples, num_samples, _):
        if samples and num_samples > 0:
            pieces.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
        return 0

    with _LOCK, _data_path() as data_path, _loaded_library() as espeak:
        rate_hz = espeak.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, data_path, _INITIALIZE_DONT_EXIT
        )
        if rate_hz <= 0:
            raise UserError.expected(
                "the data of espeak-ng", os.fsdecode(data_path), "Reinstall espeakng-loader"
            )
        try:
            espeak.espeak_ng_SetRandSeed(ctypes.c_long(1))
            ctypes.CDLL(None).srand(1)
            espeak.espeak_SetSynthCallback(collect)
            if espeak.espeak_SetVoiceByName(_voice_name(voice).encode()):
                raise UserError.expected("a voice of espeak-ng", f'"{voice}"', 'Try "en-us"')
            espeak.espeak_SetParameter(_PARAMETER_RATE, int(rate_words_per_minute), 0)
            espeak.espeak_SetParameter(_PARAMETER_PITCH, int(pitch), 0)
            encoded = text.encode() + b"\0"
            status = espeak.espeak_Synth(
                encoded, len(encoded), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None
            )
        finally:
            espeak.espeak_Terminate()
    if status or not pieces:
        raise UserError.expected("text that can be spoken", repr(text), "Change the text")
    return np.concatenate(pieces), rate_hz


def synthesize(
    text: str,
    *,
    voice: str = "en-us",
    rate_words_per_minute: int = 160,
    pitch: int = 50,
    target_rate_hz: int = 16000,
) -> np.ndarray:
    """Synthesizes a text. The same arguments always give the same samples.

    May be called from several threads; calls run one at a time.

    Args:
        text: text to say; must contain a letter or a digit.
        voice: language and optional variant, such as "en-us+m3".
        rate_words_per_minute: speaking rate, 80 to 450.
        pitch: 0 to 99; 50 is the normal pitch of the voice.
        target_rate_hz: sampling rate of the result.

    Returns:
        `[S]` float32 in [-1, 1], mono.

    Raises:
        UserError: the voice is unknown, a value is out of range, or the text cannot be spoken.

    Source: espeak-ng 1.52, speak_lib.h; espeakng-loader 0.2.4; resampling by librosa (soxr_hq).
    """
    if "\0" in text or not any(character.isalnum() for character in text):
        raise UserError.expected("text with a letter or a digit", repr(text), "Change the text")
    _require_range(
        "rate_words_per_minute",
        rate_words_per_minute,
        MIN_RATE_WORDS_PER_MINUTE,
        MAX_RATE_WORDS_PER_MINUTE,
    )
    _require_range("pitch", pitch, MIN_PITCH, MAX_PITCH)
    samples, rate_hz = _speak(text, voice, rate_words_per_minute, pitch)
    waveform = samples.astype(np.float32) / 32768
    waveform = librosa.resample(
        waveform, orig_sr=rate_hz, target_sr=target_rate_hz, res_type="soxr_hq"
    )
    return np.clip(waveform, -1.0, 1.0).astype(np.float32, copy=False)
