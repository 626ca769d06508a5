"""The body of the programs that classify: a run over image files, and what is said of its speed."""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from tools.inference.report import Stopwatch, runner_facts, skipped_lines
from vision.input_pipeline import Batches, unreadable
from vision.options import ImageDataOptions
from vision.session import ImageSession, feed


class Classification:
    """A run over image files; iterating gives indices and outputs of each batch.

    Attributes:
        batches: the images.
        watch: times of the model.
        skipped: `(path, reason)` of what was left out and of the images that could not be read,
            when all was iterated.

    Args:
        session: the model.
        paths: of the images.
        data: how they are read and run.
        signature: of the model.
        left_out: `(path, reason)` of files that are none of the images.
    """

    def __init__(
        self,
        session: ImageSession,
        paths: Sequence[str],
        data: ImageDataOptions,
        signature: str = "serving_default",
        *,
        left_out: Sequence[tuple[str, str]] = (),
    ):
        self._session, self._paths, self._data = session, paths, data
        self._signature, self._left_out = signature, left_out
        self.batches = Batches(
            paths,
            session.preprocessing,
            max(1, min(data.batch_size, len(paths))),
            data.num_parallel_workers,
            prefetch=data.prefetch,
        )
        self.watch = Stopwatch()

    def __iter__(self) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
        """Runs the images that can be read.

        Raises:
            UserError: none could, after the last of them.
        """
        session, count = self._session, self._data.warmup_count
        few = len(self._paths) <= self._data.batch_size
        self.watch = Stopwatch()
        with tqdm(
            total=len(self._paths), unit="image", file=sys.stderr, delay=2, disable=few
        ) as bar:
            for indices, images in self.batches:
                inputs = feed(session.pipeline, images)
                with self.watch.excluded():
                    for _ in range(count):
                        session.run(inputs, self._signature)
                count = 0
                with self.watch.running():
                    outputs = session.run(inputs, self._signature)
                yield indices, outputs
                bar.update(indices[-1] + 1 - bar.n)
        if len(self.batches.reasons) == len(self._paths):
            raise unreadable(dict(self._unreadable))

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """See the class."""
        return [*self._left_out, *self._unreadable]

    @property
    def _unreadable(self) -> list[tuple[str, str]]:
        return [(self._paths[i], reason) for i, reason in sorted(self.batches.reasons.items())]

    def facts(self, num_images: int) -> dict:
        """What a report says of speed and runner."""
        speed = self.watch.speed(num_images)
        waiting = self.batches.waiting_seconds
        return {
            **speed,
            "decode_wait_share": min(1.0, waiting / speed["end_to_end_seconds"]),
            "num_images": num_images,
            "num_skipped": len(self.skipped),
            "batch_size": self._data.batch_size,
            **runner_facts(self._session.runner),
        }


def show_speed(facts: dict, skipped: Sequence[tuple[str, str]]) -> None:
    """Writes speed and skipped images to stderr, for people."""
    print(
        f"{facts['num_images']} images at batch size {facts['batch_size']} ({facts['mode']}, "
        f"{facts['backend']}, {facts['precision']}): {facts['samples_per_second']:.2f} images/s "
        f"({facts['end_to_end_samples_per_second']:.2f} with reading, "
        f"{facts['decode_wait_share']:.1%} of the time waiting for it); "
        "loading and warm-up excluded",
        file=sys.stderr,
    )
    for line in skipped_lines(skipped):
        print(line, file=sys.stderr)
