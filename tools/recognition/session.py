"""Sessions of recognizers: transcribe files, bytes and arrays."""

import contextlib
import copy
import functools
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import BinaryIO, Literal, NamedTuple, TypeVar, overload

import numpy as np

from tools.config.values import argument
from tools.decoding.hotwords import HotWord, spelled_hot_words
from tools.errors import UserError
from tools.inference.runner import Runner
from tools.inference.session import Inputs, Session
from tools.recognition.decoders import Decoder, Transcription
from tools.recognition.recognizing import Readable, of_long, with_words
from tools.recognition.word_times import FrameTimes
from tools.speech.audio import (
    AudioInfo,
    AudioLimits,
    chosen_channels,
    is_path,
    load_channels,
    probe,
    stream,
)
from tools.speech.channels import EACH, MIX, checked_channels
from tools.speech.long_audio import Window
from tools.speech.reading import pad_waveforms
from tools.speech.silence_gate import SilenceGate
from tools.threads import in_threads, of_list

# A path, the bytes of a sound file, a binary file object, or a waveform [S] of floats in [-1, 1].
Sound = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray
Source = TypeVar("Source", bound=Sound)
_READ_AHEAD_BATCHES = 8
_log = logging.getLogger(__name__)


class _LongFile(NamedTuple):
    """A file that must be divided into chunks, and the number of the channel to read."""

    info: AudioInfo
    channel: int | None


class SpeechSession(Session):
    """An open recognizer.

    Most callers use `transcribe`. `recognize` runs batches that are already padded.

    Args:
        runner: runs the signatures of the model.
        decoder: decoder of the model's outputs.
        limits: lengths and rates that are accepted.
        batch_size: number of sounds in a batch.
        window: how to divide recordings that are too long for the model; None refuses them.
        at_once_seconds: longest sound for one run of the model; None: the limit of the model.
        skip_silence_seconds: shortest silence that is left out; None leaves nothing out.
        normalize: normalizes phrases for the vocabulary of the model, such as upper case.
    """

    def __init__(
        self,
        runner: Runner,
        decoder: Decoder,
        limits: AudioLimits,
        *,
        batch_size: int = 1,
        window: Window | None = None,
        at_once_seconds: float | None = None,
        skip_silence_seconds: float | None = None,
        normalize: Callable[[str], str] = str,
    ):
        super().__init__(runner)
        self.decoder, self.limits, self.batch_size = decoder, limits, batch_size
        self._window, self._at_once_seconds = window, at_once_seconds
        self._skip_silence_seconds = skip_silence_seconds
        self._normalize = normalize
        if "serving_default" not in self.signatures:
            # The search in the graph was not converted: `answer` starts with `listen` instead,
            # which has the same inputs.
            listen = self.signatures["listen"]
            self.signatures = {**self.signatures, "serving_default": listen}

    @overload
    def transcribe(
        self,
        sound: Sound,
        *,
        rate_hz: int | None = None,
        timestamps: bool = False,
        channels: Literal["mix"] | int = "mix",
    ) -> Transcription: ...

    @overload
    def transcribe(
        self,
        sound: list[Source] | tuple[Source, ...],
        *,
        rate_hz: int | None = None,
        timestamps: bool = False,
        channels: Literal["mix"] | int = "mix",
    ) -> list[Transcription]: ...

    @overload
    def transcribe(
        self,
        sound: Sound,
        *,
        rate_hz: int | None = None,
        timestamps: bool = False,
        channels: Literal["each"],
    ) -> list[Transcription]: ...

    @overload
    def transcribe(
        self,
        sound: list[Source] | tuple[Source, ...],
        *,
        rate_hz: int | None = None,
        timestamps: bool = False,
        channels: Literal["each"],
    ) -> list[list[Transcription]]: ...

    def transcribe(
        self,
        sound: Sound | Sequence[Sound],
        *,
        rate_hz: int | None = None,
        timestamps: bool = False,
        channels: str | int = MIX,
    ) -> Transcription | list[Transcription] | list[list[Transcription]]:
        """Recognizes a sound, or each sound of a list.

        Args:
            sound: a path, the bytes of a sound file, an open binary file, or a waveform `[S]` of
                floats in [-1, 1]; or a list of these, which is run in batches.
            rate_hz: sampling rate in Hz; required for waveforms, ignored for files.
            timestamps: whether to return words with their times and confidences.
            channels: `mix` recognizes the mean of the channels of a file, or the loudest one if
                they cancel each other; `each` recognizes each channel; a number from 1 recognizes
                this one. A waveform is channel 1.

        Returns:
            A transcription, or for a list, a list of transcriptions in the same order. With
            `channels="each"`, a list with a transcription for each channel takes the place of the
            transcription of a sound. If a long recording is damaged, the transcription is that of
            the part before the damage, its `damage` is set, and a warning is logged.

        Raises:
            UserError: a sound cannot be used or lacks the channel, the list is empty, or the
                session is closed.

        Example:
            >>> import conformer
            >>> with conformer.load() as model:
            ...     model.transcribe("conformer/pretrained/digits/sample.flac").text
            'ONE SEVEN NINE ZERO'
        """
        self.check_open()
        timestamps = argument("timestamps", timestamps, bool)
        channels = checked_channels(channels)
        if not isinstance(sound, list | tuple):
            heard = self._transcribe(self._load(sound, rate_hz, channels), timestamps)
            return heard if channels == EACH else heard[0]
        if not sound:
            raise UserError.expected("sounds to transcribe", "an empty list", "Give at least one")
        found: list = []
        at_once = _READ_AHEAD_BATCHES * self.batch_size
        load_one = functools.partial(self._load, rate_hz=rate_hz, channels=channels)
        with contextlib.closing(in_threads(load_one, sound, ahead=at_once)) as loaded:
            sounds = of_list("Sound", loaded)
            while group := list(islice(sounds, at_once)):
                heard = iter(self._transcribe([*chain(*group)], timestamps))
                of_sounds = [list(islice(heard, len(one))) for one in group]
                found += of_sounds if channels == EACH else [one for (one,) in of_sounds]
        return found

    def recognize(self, inputs: Inputs, timestamps: bool = False) -> list[Transcription]:
        """Recognizes a padded batch.

        Args:
            inputs: `waveforms` `[B, S]` float32 and `lengths` `[B]` int32.
            timestamps: whether to return words with their times.

        Returns:
            B transcriptions.

        Raises:
            UserError: the inputs do not fit the model, a score is not finite, or the session is
                closed.
        """
        if not timestamps:
            return self.decoder.transcriptions(self.run(inputs))
        with self._lock:
            heard = with_words(self.runner.run, self.decoder, inputs, FrameTimes(self.pipeline))
        rows = zip(heard, inputs["lengths"], strict=True)
        return [one.lasting(int(length) / self.limits.rate_hz) for one, length in rows]

    def preferring(self, hot_words: Sequence[str]) -> "SpeechSession":
        """Returns a session that shares the model, and whose greedy search prefers phrases.

        Phrases that the vocabulary of the model cannot write are left out. Close the session that
        was opened, not this one.

        Args:
            hot_words: phrases; without any, the session itself is returned.
        """
        surfaces = self.pipeline["vocabulary"]["surfaces"] if hot_words else ()
        given = [HotWord(" ".join(text.split())) for text in hot_words]
        words, _ = spelled_hot_words(given, surfaces, self._normalize)
        if not words:
            return self
        other = copy.copy(self)
        other.decoder = self.decoder.preferring(words)
        return other

    def recognize_long(
        self,
        pieces: Iterable[np.ndarray],
        timestamps: bool = False,
        *,
        partial: Callable[[str], None] | None = None,
    ) -> Transcription:
        """Recognizes a recording that is too long for a single run of the model.

        Args:
            pieces: the recording as `[S]` float32 arrays.
            timestamps: whether to return words with their times.
            partial: called with the text of greedy search so far after each batch of chunks.

        Returns:
            The transcription, with the length of the recording. If reading fails in the middle of
            the recording, it is that of the part before, and its `damage` is set.

        Raises:
            AudioError: nothing can be read.
            UserError: the model does not support long recordings, or a score is not finite.
        """
        if self._window is None:
            longest = f"a recording of up to {self.limits.max_seconds:g} s"
            raise UserError.expected(longest, "a longer one", "Cut the recording")
        readable, rate_hz = Readable(pieces), self.limits.rate_hz
        gate, heard = None, readable
        if self._skip_silence_seconds is not None:
            gate = SilenceGate(rate_hz, self._skip_silence_seconds)
            heard = gate.passed(readable)
        found = of_long(
            self.run,
            self.decoder,
            heard,
            window=self._window,
            batch_size=self.batch_size,
            times=FrameTimes(self.pipeline),
            has_words=timestamps,
            partial=partial,
        )
        if gate is not None:
            words = (
                word._replace(
                    start_seconds=gate.original_seconds(word.start_seconds),
                    end_seconds=gate.original_seconds(word.end_seconds),
                )
                for word in found.words
            )
            found = replace(found, words=tuple(words), skipped=tuple(gate.skipped))
        return replace(found, damage=readable.damage).lasting(readable.num_samples / rate_hz)

    def prepare(self, num_samples: Sequence[int], batch_size: int = 1) -> None:
        """Prepares the runtime for batches of given lengths.

        A converted model is slower in the first run of each input shape. This method tells the
        runtime the lengths, so that they share a few padded shapes, and runs each shape once on
        silence.

        Args:
            num_samples: padded length of each batch in samples.
            batch_size: rows in a batch.
        """
        with self._lock:
            sizes = self.runner.expect("waveforms", num_samples)
        for size in sizes:
            waveforms = np.zeros((batch_size, size), np.float32)
            self.recognize({"waveforms": waveforms, "lengths": np.full(batch_size, size, np.int32)})

    def is_long(self, num_samples: int) -> bool:
        """Returns whether a sound must be divided into chunks."""
        seconds = num_samples / self.limits.rate_hz
        if self._window is None:
            return False
        if self._skip_silence_seconds is not None and seconds > self._skip_silence_seconds:
            return True  # silence is looked for in the recording as a whole
        longest = self._at_once_seconds
        return seconds > (self.pipeline["max_seconds"] if longest is None else longest)

    def _load(
        self, sound: Sound, rate_hz: int | None, channels: str | int
    ) -> Sequence["np.ndarray | _LongFile"]:
        """Returns the waveforms of a sound, or channels that must be divided into chunks."""
        if self._window is not None and is_path(sound):
            info = probe(sound, self.limits, accept_damage=True)
            if self.is_long(info.num_samples):
                return [_LongFile(info, number) for number in chosen_channels(info, channels)]
        return load_channels(sound, self.limits, rate_hz, channels)

    def _transcribe(
        self, loaded: Sequence["np.ndarray | _LongFile"], timestamps: bool
    ) -> list[Transcription]:
        found: dict[int, Transcription] = {}
        waveforms: dict[int, np.ndarray] = {}
        for number, sound in enumerate(loaded):
            if isinstance(sound, _LongFile):
                info = sound.info
                reader = stream(info.path, self.limits, channel=sound.channel)
                with contextlib.closing(reader) as pieces:
                    heard = self.recognize_long(pieces, timestamps)
                if heard.damage is None:
                    heard = heard.lasting(info.duration_seconds)
                else:
                    text = "%s: recognized up to %.2f s; the rest cannot be read (%s)"
                    _log.warning(text, info.path, heard.duration_seconds, heard.damage)
                found[number] = heard
            elif self.is_long(len(sound)):
                found[number] = self.recognize_long([sound], timestamps)
            else:
                waveforms[number] = sound
        order = sorted(waveforms, key=lambda number: -len(waveforms[number]))
        for start in range(0, len(order), self.batch_size):
            numbers = order[start : start + self.batch_size]
            padded, lengths = pad_waveforms([waveforms[number] for number in numbers])
            heard = self.recognize({"waveforms": padded, "lengths": lengths}, timestamps)
            for number, length, one in zip(numbers, lengths, heard, strict=True):
                found[number] = one.lasting(int(length) / self.limits.rate_hz)
        return [found[number] for number in range(len(loaded))]

    def _run(self, inputs: Inputs, signature: str) -> dict[str, np.ndarray]:
        if signature == "serving_default":
            return self.decoder.answer(self.runner.run, inputs)
        return super()._run(inputs, signature)
