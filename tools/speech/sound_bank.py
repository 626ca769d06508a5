"""Sounds from folders, kept in memory: background noise and room responses for augmentation."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from tools.errors import UserError
from tools.files import one_line
from tools.speech.audio import AudioError, AudioLimits, is_known, stream
from tools.speech.corpus import counts_of, listed, walk

_MAX_SECONDS = 100 * 3600.0  # longest accepted file, of which only the first part is read


@dataclass(frozen=True, eq=False)
class SoundBank:
    """Sounds of the same sampling rate, concatenated in memory.

    Attributes:
        samples: `[N]` float16 tensor; each sound is scaled to a peak of 1.
        starts: `[F + 1]` int64 tensor, the start of each of F sounds, and the end.
        report: one line about the sounds that were read and skipped.
        skipped: skipped files as `REASON<TAB>DETAIL`.
    """

    samples: tf.Tensor
    starts: tf.Tensor
    report: str
    skipped: tuple[str, ...]

    def sound(self, uniform: tf.Tensor) -> tf.Tensor:
        """Returns one of the sounds, `[S]` float32, selected by a number in `[0, 1)`."""
        start, stop = self._bounds(uniform)
        return tf.cast(self.samples[start:stop], tf.float32)

    def stretch(self, uniforms: tf.Tensor, num_samples: tf.Tensor) -> tf.Tensor:
        """Returns a section of one of the sounds, which is repeated if it is too short.

        Args:
            uniforms: `[2]` numbers in `[0, 1)` that select the sound and the start in it.
            num_samples: length S of the section.

        Returns:
            `[S]` float32.
        """
        start, stop = (tf.cast(x, tf.int64) for x in self._bounds(uniforms[0]))
        length = stop - start
        first = tf.cast(uniforms[1] * tf.cast(length, tf.float32), tf.int64)
        places = start + (first + tf.range(tf.cast(num_samples, tf.int64))) % length
        return tf.cast(tf.gather(self.samples, places), tf.float32)

    def _bounds(self, uniform):
        count = tf.size(self.starts) - 1
        number = tf.minimum(tf.cast(uniform * tf.cast(count, tf.float32), tf.int32), count - 1)
        return self.starts[number], self.starts[number + 1]


def read_bank(
    folders: Sequence[str], rate_hz: int, *, key: str, max_minutes: float, max_seconds: float
) -> SoundBank:
    """Reads all sounds in folders, of any rate and number of channels.

    Args:
        folders: folders that contain sounds at any depth.
        rate_hz: sampling rate to which the sounds are resampled.
        key: key of the config, for messages.
        max_minutes: largest total length. Each file is cut to an equal share of it.
        max_seconds: largest length of a sound.

    Raises:
        UserError: a folder is missing, or has no sound that can be used.
    """
    paths, skipped = [], defaultdict(list)
    different: dict[str, str] = {}
    for folder in folders:
        different.setdefault(os.path.realpath(folder), folder)
    for folder in different.values():
        if not os.path.isdir(folder):
            raise UserError.expected(f"a folder for {key}", folder, f"Correct {key}")
        found = [
            os.path.join(parent, name)
            for parent, names in walk(folder, listed(skipped))
            for name in names
        ]
        sounds = [path for path in found if is_known(path)]
        if not sounds:
            received = "; ".join((folder, *skipped.get("unreadable_folder", ())[-1:]))
            raise UserError.expected(
                f"sound files in each folder of {key}", received, f"Correct {key}"
            )
        for path in set(found).difference(sounds):
            skipped[_why_no_sound(path)].append(path)
        paths += sounds
    share = min(max_seconds, 60.0 * max_minutes / len(paths))
    limits = AudioLimits(rate_hz, min_seconds=0.0, max_seconds=_MAX_SECONDS)
    kept, num_cut = [], 0
    for path in paths:
        try:
            waveform, is_cut = _first(path, max(1, round(share * rate_hz)), limits)
        except AudioError as error:
            skipped[error.reason].append(path)
            continue
        peak = np.abs(waveform).max(initial=0.0)
        if not peak > 0:
            skipped["silent"].append(path)
            continue
        kept.append((waveform / peak).astype(np.float16))
        num_cut += is_cut
    left_out = [
        (why, one_line(path)) for why, several in skipped.items() for path in sorted(several)
    ]
    if not kept:
        received = "; ".join(f"{path} ({reason})" for reason, path in left_out[:5])
        raise UserError.expected(f"sounds that can be used for {key}", received, f"Correct {key}")
    samples = np.concatenate(kept)
    starts = np.cumsum([0, *map(len, kept)])
    line = (
        f"{key}: {len(kept)} sound{'s' * (len(kept) > 1)} ({len(samples) / rate_hz / 60:.1f} min)"
    )
    line += f", {num_cut} of them cut to {share:.1f} s" if num_cut else ""
    return SoundBank(
        tf.constant(samples),
        tf.constant(starts),
        line + counts_of(skipped),
        tuple(f"{reason}\t{path}" for reason, path in left_out),
    )


def _why_no_sound(path: str) -> str:
    if not os.path.exists(path):
        return "missing"
    return "no_sound" if os.access(path, os.R_OK) else "unreadable"


def _first(path: str, num_samples: int, limits: AudioLimits) -> tuple[np.ndarray, bool]:
    """Reads the first samples of a file; returns them, and whether the file has more."""
    pieces, missing = [], num_samples
    with contextlib.closing(stream(path, limits)) as blocks:
        for block in blocks:
            if missing <= 0:
                return np.concatenate(pieces), True
            pieces.append(block[:missing])
            if len(block) > missing:
                return np.concatenate(pieces), True
            missing -= len(block)
    return np.concatenate([np.zeros(0, np.float32), *pieces]), False
