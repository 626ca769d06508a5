"""Sessions of recognizers: transcribe files, bytes and arrays."""

import contextlib
import functools
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import BinaryIO, TypeVar, overload

import numpy as np

from tools.config.values import argument
from tools.errors import UserError
from tools.inference.runner import Runner
from tools.inference.session import Inputs, Session
from tools.recognition.decoders import Decoder, Transcription
from tools.speech.audio import AudioInfo, AudioLimits, is_path, load, probe, stream
from tools.speech.long_audio import Window
from tools.speech.reading import pad_waveforms
from tools.threads import in_threads, of_list

# A path, the bytes of a sound file, a binary file object, or a waveform [S] of floats in [-1, 1].
Sound = str | os.PathLike[str] | bytes | BinaryIO | np.ndarray
Source = TypeVar("Source", bound=Sound)
_READ_AHEAD_BATCHES = 8


class SpeechSession(Session):
    """An open recognizer.

    Most callers use `transcribe`. `recognize` runs batches that are already padded.

    Args:
        runner: runs the signatures of the model.
        decoder: decoder of the model's outputs.
        limits: lengths and rates that are accepted.
        batch_size: number of sounds in a batch.
        window: how to divide recordings that are too long for the model; None refuses them.
    """

    def __init__(
        self,
        runner: Runner,
        decoder: Decoder,
        limits: AudioLimits,
        *,
        batch_size: int = 1,
        window: Window | None = None,
    ):
        super().__init__(runner)
        self.decoder, self.limits, self.batch_size = decoder, limits, batch_size
        self._window = window
        if "serving_default" not in self.signatures:
            # The search in the graph was not converted: `answer` starts with `listen` instead,
            # which has the same inputs.
            listen = self.signatures["listen"]
            self.signatures = {**self.signatures, "serving_default": listen}

    @overload
    def transcribe(
        self, sound: Sound, *, rate_hz: int | None = None, timestamps: bool = False
    ) -> Transcription: ...

    @overload
    def transcribe(
        self,
        sound: list[Source] | tuple[Source, ...],
        *,
        rate_hz: int | None = None,
        timestamps: bool = False,
    ) -> list[Transcription]: ...

    def transcribe(
        self,
        sound: Sound | Sequence[Sound],
        *,
        rate_hz: int | None = None,
        timestamps: bool = False,
    ) -> Transcription | list[Transcription]:
        """Recognizes a sound, or each sound of a list.

        Args:
            sound: a path, the bytes of a sound file, an open binary file, or a waveform `[S]` of
                floats in [-1, 1]; or a list of these, which is run in batches.
            rate_hz: sampling rate in Hz; required for waveforms, ignored for files.
            timestamps: whether to return words with their times.

        Returns:
            A transcription, or for a list, a list of transcriptions in the same order.

        Raises:
            UserError: a sound cannot be used, the list is empty, or the session is closed.

        Example:
            >>> import conformer
            >>> with conformer.load() as model:
            ...     model.transcribe("conformer/pretrained/digits/sample.flac").text
            'ONE SEVEN NINE ZERO'
        """
        self.check_open()
        timestamps = argument("timestamps", timestamps, bool)
        if timestamps and not self.decoder.has_words:
            raise UserError.expected(
                "a model with word times, such as wav2vec 2.0",
                "another model",
                "Leave timestamps out",
            )
        if not isinstance(sound, list | tuple):
            return self._transcribe([self._load(sound, rate_hz)], timestamps)[0]
        if not sound:
            raise UserError.expected("sounds to transcribe", "an empty list", "Give at least one")
        found: list[Transcription] = []
        at_once = _READ_AHEAD_BATCHES * self.batch_size
        load_one = functools.partial(self._load, rate_hz=rate_hz)
        with contextlib.closing(in_threads(load_one, sound, ahead=at_once)) as loaded:
            sounds = of_list("Sound", loaded)
            while group := list(islice(sounds, at_once)):
                found += self._transcribe(group, timestamps)
        return found

    def recognize(self, inputs: Inputs, with_words: bool = False) -> list[Transcription]:
        """Recognizes a padded batch.

        Args:
            inputs: `waveforms` `[B, S]` float32 and `lengths` `[B]` int32.
            with_words: whether to return words with their times.

        Returns:
            B transcriptions.

        Raises:
            UserError: the inputs do not fit the model, a score is not finite, or the session is
                closed.
        """
        return self.decoder.transcriptions(self.run(inputs), with_words)

    def recognize_long(
        self, pieces: Iterable[np.ndarray], num_samples: int, with_words: bool = False
    ) -> Transcription:
        """Recognizes a recording that is too long for a single run of the model.

        Args:
            pieces: the recording as `[S]` float32 arrays.
            num_samples: length of the recording.
            with_words: whether to return words with their times.

        Raises:
            UserError: the model does not support long recordings, or a score is not finite.
        """
        if self._window is None:
            longest = f"a recording of up to {self.limits.max_seconds:g} s"
            seconds = f"{num_samples / self.limits.rate_hz:.1f} s"
            raise UserError.expected(longest, seconds, "Cut the recording")
        return self.decoder.of_long(
            self.run,
            pieces,
            num_samples,
            window=self._window,
            batch_size=self.batch_size,
            with_words=with_words,
        )

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
        at_once = round(self.pipeline["max_seconds"] * self.limits.rate_hz)
        return self._window is not None and num_samples > at_once

    def _load(self, sound: Sound, rate_hz: int | None) -> np.ndarray | AudioInfo:
        """Returns a waveform, or the properties of a file that must be divided into chunks."""
        if self._window is not None and is_path(sound):
            info = probe(sound, self.limits)
            if self.is_long(info.num_samples):
                return info
        return load(sound, self.limits, rate_hz)

    def _transcribe(
        self, loaded: Sequence[np.ndarray | AudioInfo], with_words: bool
    ) -> list[Transcription]:
        found: dict[int, Transcription] = {}
        waveforms: dict[int, np.ndarray] = {}
        for number, sound in enumerate(loaded):
            if isinstance(sound, AudioInfo):
                with contextlib.closing(stream(sound.path, self.limits)) as pieces:
                    heard = self.recognize_long(pieces, sound.num_samples, with_words)
                found[number] = heard.lasting(sound.duration_seconds)
            elif self.is_long(len(sound)):
                heard = self.recognize_long([sound], len(sound), with_words)
                found[number] = heard.lasting(len(sound) / self.limits.rate_hz)
            else:
                waveforms[number] = sound
        order = sorted(waveforms, key=lambda number: -len(waveforms[number]))
        for start in range(0, len(order), self.batch_size):
            numbers = order[start : start + self.batch_size]
            padded, lengths = pad_waveforms([waveforms[number] for number in numbers])
            heard = self.recognize({"waveforms": padded, "lengths": lengths}, with_words)
            for number, length, one in zip(numbers, lengths, heard, strict=True):
                found[number] = one.lasting(int(length) / self.limits.rate_hz)
        return [found[number] for number in range(len(loaded))]

    def _run(self, inputs: Inputs, signature: str) -> dict[str, np.ndarray]:
        if signature == "serving_default":
            return self.decoder.answer(self.runner.run, inputs)
        return super()._run(inputs, signature)
