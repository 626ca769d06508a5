"""Times of the frames of a recognizer in the recognized sound."""

import math
from collections.abc import Mapping, Sequence

from tools.decoding.protocol import Hypothesis
from tools.decoding.timestamps import Word, pieces_of, words_of


def hop_samples_of(pipeline: Mapping) -> int:
    """Returns the distance between the decoded frames of a model in samples.

    Args:
        pipeline: content of the model's `pipeline.json`.
    """
    if "hop_samples" in pipeline:
        return pipeline["hop_samples"]
    step_samples = round(pipeline["frame_step_ms"] * pipeline["sample_rate_hz"] / 1000)
    return step_samples * pipeline["subsampling"]


class FrameTimes:
    """Converts frames of a search to seconds in the sound.

    A frame begins with the hop in the middle of its receptive field. Models that emit a token only
    after they have seen its sound are delayed: `word_delay_seconds` of `pipeline.json` is
    subtracted from the starts and from the ends of words.

    Args:
        pipeline: content of the model's `pipeline.json`.
    """

    def __init__(self, pipeline: Mapping):
        self._rate_hz, self._hop_samples = pipeline["sample_rate_hz"], hop_samples_of(pipeline)
        field_samples = pipeline.get("receptive_field_samples", 0)  # 0: centered frames
        self._margin_samples = (field_samples - self._hop_samples) / 2
        delay = pipeline.get("word_delay_seconds", {})
        self._start_delay, self._end_delay = delay.get("start", 0.0), delay.get("end", 0.0)
        self._skips: list[tuple[int, int]] = []  # frame of the search, number of frames before it
        self._num_frames = 0

    def add(self, num_decoded: int, num_frames: int) -> None:
        """Counts the next frames of the sound.

        Args:
            num_decoded: number of frames that the search decodes.
            num_frames: number of frames of the sound; the rest comes after the decoded ones.
        """
        self._num_frames += num_decoded
        if num_frames > num_decoded:
            self._skips.append((self._num_frames, num_frames - num_decoded))

    def words(self, found: Hypothesis, surfaces: Sequence[str]) -> tuple[Word, ...]:
        """Returns the words of a hypothesis. A word ends where the next one starts, or before.

        Args:
            found: result of a search over the frames.
            surfaces: `[V]` text of each token.
        """
        words = words_of(pieces_of(found, surfaces, self._start_seconds, self._end_seconds))
        least_seconds = self._hop_samples / self._rate_hz
        following = [*(word.start_seconds for word in words[1:]), math.inf][: len(words)]
        return tuple(
            word._replace(
                end_seconds=max(
                    word.start_seconds + least_seconds, min(word.end_seconds, next_seconds)
                )
            )
            for word, next_seconds in zip(words, following, strict=True)
        )

    def _start_seconds(self, frame: int) -> float:
        return max(0.0, self._seconds(frame, after=True) - self._start_delay)

    def _end_seconds(self, frame: int) -> float:
        return max(0.0, self._seconds(frame, after=False) - self._end_delay)

    def _seconds(self, frame: int, after: bool) -> float:
        """Returns the time of a frame of the search; `after` a skipped part that begins there."""
        skipped = sum(n for start, n in self._skips if start < frame or (after and start == frame))
        samples = (frame + skipped) * self._hop_samples + self._margin_samples
        return samples / self._rate_hz
