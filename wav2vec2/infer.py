"""Recognizes sound files, folders, or a LibriSpeech-layout corpus with an exported wav2vec 2.0."""

import os
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from tools.config.command_line import CommandLine, run
from tools.conversion.quantization import Examples
from tools.conversion.saved_model import read_pipeline
from tools.errors import UserError
from tools.inference.flags import add_inference_flags, open_runner, restrict_devices
from tools.inference.runner import Runner, answer
from tools.recognition.program import Recognizer, Transcript, read_examples, run_recognizer
from tools.recognition.sounds import check_flags, chosen_utterances
from tools.speech.audio import AudioLimits, stream
from tools.speech.corpus import Utterance
from tools.speech.language_model import BeamSearch
from tools.speech.long_audio import Window, stitched
from tools.speech.timestamps import words_of
from wav2vec2.decoding import Decoder

LONGEST_SECONDS = 8 * 3600.0  # of a recording in chunks


def command_line() -> CommandLine:
    """The program's flags."""
    flags = CommandLine(
        "wav2vec2/infer.py",
        "Recognizes sound files or folders, or recognizes and scores a corpus.",
        "--native_savedmodel_dir=DIR [FLAGS] [FILE|FOLDER ...]",
    )
    flags.boolean("timestamps", False, "Tells words with their start and end in seconds.")
    flags.number("chunk_seconds", 20.0, "What longer recordings are cut into.")
    flags.number("overlap_seconds", 4.0, "What a chunk shares with the next one.")
    flags.integer("beam_width", 0, "Hypotheses of a beam search; 0: greedy decoding alone.")
    flags.string("lm_path", None, "Its n-gram model, ARPA or of KenLM.", default_text="none")
    flags.number("lm_weight", 0.5, "Weight of that model.")
    flags.number("word_bonus", 1.5, "Added for each word with that model.")
    add_inference_flags(flags)
    return flags


def examples(pipeline: dict, data_dir: Path, num_samples: int, judged: bool) -> Examples:
    """Reads utterances to calibrate with; see `tools.inference.flags.family`."""
    decoder = Decoder(pipeline)
    limits = _limits(pipeline, pipeline["max_seconds"])

    def texts(run, inputs):
        found = answer(run, pipeline)(inputs)
        return [decoder.text(path) for path in _paths(decoder, found)]

    return read_examples(data_dir, num_samples, limits, judged, texts, decoder.normalize)


def _limits(pipeline: dict, max_seconds: float) -> AudioLimits:
    return AudioLimits(
        rate_hz=pipeline["sample_rate_hz"],
        min_seconds=pipeline["min_seconds"],
        max_seconds=max_seconds,
    )


def _paths(decoder: Decoder, found: dict) -> list[np.ndarray]:
    rows = zip(decoder.path(found["logits"]), found["logit_lengths"], strict=True)
    return [path[:length] for path, length in rows]


class CtcTranscription:
    """Batches and long recordings through a CTC model and its decoder.

    Args:
        runner: of the model.
        decoder: of its logits.
        window: how recordings are cut that are too long to be run at once.
        batch_size: chunks run together.
        with_words: whether transcripts have them.
    """

    def __init__(
        self, runner: Runner, decoder: Decoder, window: Window, batch_size: int, with_words: bool
    ):
        self._runner, self._decoder, self._window = runner, decoder, window
        self._batch_size, self._with_words = batch_size, with_words
        self._silence = np.zeros(len(decoder.surfaces), np.float32)  # logits of a silent frame
        self._silence[decoder.blank] = 100.0

    def transcribe(self, inputs) -> list[Transcript]:
        """Recognizes a padded batch."""
        found = self._runner.run(inputs)
        return [
            self._transcript(path, logits[: len(path)])
            for path, logits in zip(_paths(self._decoder, found), found["logits"], strict=True)
        ]

    def of_long(self, utterance: Utterance, limits: AudioLimits) -> Transcript:
        """Recognizes a recording chunk by chunk.

        What is kept of the whole is the best symbol of each frame, 4 bytes for 20 ms; a beam search
        keeps its logits.
        """
        paths, kept = [np.zeros(0, np.int32)], []
        pieces = stream(utterance.path, limits)
        frames = stitched(
            pieces, utterance.num_samples, self._window, self._frames, self._batch_size
        )
        for logits in frames:
            paths.append(self._decoder.path(logits))
            if self._decoder.searches:
                kept.append(logits)
        return self._transcript(np.concatenate(paths), np.concatenate(kept) if kept else None)

    def _frames(self, waveforms, lengths):
        found = self._runner.run({"waveforms": waveforms, "lengths": lengths})
        pipeline, rows = self._runner.pipeline, []
        hop, window = pipeline["hop_samples"], pipeline["receptive_field_samples"]
        for logits, length, said in zip(
            found["logits"], lengths, found["logit_lengths"], strict=True
        ):
            rows.append(logits[: (length - window) // hop + 1])
            if said == 0:  # silence: its frames keep their places
                rows[-1] = np.broadcast_to(self._silence, rows[-1].shape)
        return rows

    def _transcript(self, path, logits) -> Transcript:
        decoder = self._decoder
        return Transcript(
            decoder.text(path),
            decoder.beam_text(logits) if decoder.searches else None,
            words_of(decoder.pieces(path)) if self._with_words else (),
        )


def beam_search(values: SimpleNamespace) -> BeamSearch | None:
    """What the flags ask for."""
    if values.beam_width == 0:
        if values.lm_path:
            raise UserError.expected("--beam_width with --lm_path", 0, "Give --beam_width 100")
        return None
    return BeamSearch(values.beam_width, values.lm_path, values.lm_weight, values.word_bonus)


def main(argv: list[str]) -> int:
    """Runs the program."""
    values, paths = command_line().parse(argv)
    check_flags(values, paths)
    if not values.native_savedmodel_dir:
        raise UserError.expected(
            "--native_savedmodel_dir DIR", "none", "Make one with `python -m wav2vec2.export`"
        )
    beam = beam_search(values)
    restrict_devices(values)
    pipeline = read_pipeline(values.native_savedmodel_dir, "wav2vec2")
    decoder = Decoder(pipeline, beam)
    at_once = pipeline["max_seconds"]
    window = Window.of_seconds(
        values.chunk_seconds,
        values.overlap_seconds,
        pipeline["hop_samples"],
        pipeline["sample_rate_hz"],
    )
    if values.chunk_seconds > at_once:
        raise UserError.expected(
            f"--chunk_seconds up to the model's {at_once:g}",
            values.chunk_seconds,
            "Give a smaller one",
        )
    limits = _limits(pipeline, values.max_seconds or LONGEST_SECONDS)
    utterances, skipped = chosen_utterances(values, paths, limits, decoder.normalize)
    runner = open_runner(values, values.native_savedmodel_dir)
    transcription = CtcTranscription(runner, decoder, window, values.batch_size, values.timestamps)
    recognizer = Recognizer(
        runner,
        limits,
        transcription.transcribe,
        lambda utterance: transcription.of_long(utterance, limits),
        at_once,
    )
    return run_recognizer(recognizer, values, paths, utterances, skipped)


if __name__ == "__main__":
    run(main)
