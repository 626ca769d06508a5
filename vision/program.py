"""Shared part of the programs that classify: runs a model on image files and reports speed."""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from tools.amounts import counted
from tools.inference.report import Stopwatch, runner_facts, skipped_lines
from vision.input_pipeline import Batches, unreadable
from vision.options import ImageDataOptions
from vision.session import ImageSession, feed


class Classification:
    """Runs a model on image files. Iteration yields indices and outputs of each batch.

    Attributes:
        batches: the batches of images.
        watch: measured times of the model.
        skipped: `(path, reason)` of `left_out` and of unreadable images; complete after the
            iteration.

    Args:
        session: the opened model.
        paths: paths of the images.
        data: options for reading and batching.
        signature: signature of the model to run.
        left_out: `(path, reason)` of files that are not images.
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
        """Runs the model on all images that can be read.

        Raises:
            UserError: none of the images could be read.
        """
        session, count = self._session, self._data.warmup_count
        few = len(self._paths) <= self._data.batch_size
        self.watch = Stopwatch()
        # Without `delay`: tqdm.write shows a delayed bar, too, and its last line then has no end.
        with tqdm(total=len(self._paths), unit="image", file=sys.stderr, disable=few) as bar:
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
        """Skipped files; see the attributes of the class."""
        return [*self._left_out, *self._unreadable]

    @property
    def _unreadable(self) -> list[tuple[str, str]]:
        return [(self._paths[i], reason) for i, reason in sorted(self.batches.reasons.items())]

    def facts(self, num_images: int) -> dict:
        """Returns the entries of a report on speed and runtime."""
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
    """Prints the speed and the skipped images to stderr."""
    print(
        f"{counted(facts['num_images'], 'image')} at batch size {facts['batch_size']} "
        f"({facts['mode']}, {facts['backend']}, {facts['precision']}): "
        f"{facts['samples_per_second']:.2f} images/s "
        f"({facts['end_to_end_samples_per_second']:.2f} including reading, "
        f"{facts['decode_wait_share']:.1%} of the time waiting for images); "
        "loading and warm-up excluded",
        file=sys.stderr,
    )
    for line in skipped_lines(skipped):
        print(line, file=sys.stderr)
