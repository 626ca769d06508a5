"""The largest frame budget of batches that fits a device's memory."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from tools.errors import UserError
from tools.speech.bucketing import bucket_boundaries
from tools.training.memory import largest_fitting


class Bucket(NamedTuple):
    """Utterances of similar length.

    Attributes:
        samples: samples of the longest utterance.
        labels: largest number of labels of this bucket and of the shorter ones.
        num_utterances: number of utterances.
    """

    samples: int
    labels: int
    num_utterances: int


class Found(NamedTuple):
    """The largest batch of a bucket.

    Attributes:
        bucket: the bucket.
        rows: utterances of the batch.
        peak_bytes: memory of a training step with this batch.
    """

    bucket: Bucket
    rows: int
    peak_bytes: int


class Budget(NamedTuple):
    """Values of the config.

    Attributes:
        max_batch_samples: largest product of rows and samples.
        batch_size: largest number of rows.
    """

    max_batch_samples: int
    batch_size: int


def buckets_of(num_samples: np.ndarray, num_labels: np.ndarray, num_buckets: int) -> list[Bucket]:
    """Returns the buckets by length of utterances, shortest first; see `bucketing.epoch_plan`.

    Args:
        num_samples: `[N]` lengths.
        num_labels: `[N]` numbers of labels.
        num_buckets: largest number of buckets.
    """
    longest = [*bucket_boundaries(num_samples, num_buckets), num_samples.max()]
    number = np.searchsorted(longest, num_samples)
    return [
        Bucket(int(samples), int(num_labels[number <= k].max()), int(np.sum(number == k)))
        for k, samples in enumerate(longest)
    ]


def find_largest_batches(
    buckets: Sequence[Bucket],
    peak_of: Callable[[Bucket, int], int | None],
    most_rows: int,
    report: Callable[[Bucket, int, int | None], None] = lambda *_: None,
) -> list[Found]:
    """Searches for the largest batch of every bucket.

    Args:
        buckets: buckets, shortest first.
        peak_of: function of a bucket and a number of rows that returns the memory of a training
            step in bytes, or None if it does not fit.
        most_rows: largest number of rows to try.
        report: function that is called after every trial, with the result of `peak_of`.

    Returns:
        The largest batches, in the order of the buckets.

    Raises:
        UserError: a batch of one utterance does not fit.
    """
    found: list[Found] = []
    for bucket in reversed(buckets):
        peaks = {}

        def fits(rows: int, bucket: Bucket = bucket, peaks: dict[int, int] = peaks) -> bool:
            peak = peak_of(bucket, rows)
            report(bucket, rows, peak)
            if peak is not None:
                peaks[rows] = peak
            return peak is not None

        rows = largest_fitting(fits, most_rows, start=found[-1].rows if found else 1)
        if rows == 0:
            raise UserError.expected(
                "memory for a batch of one utterance",
                f"too little for {bucket.samples} samples with {bucket.labels} labels",
                "Raise --memory_gb, lower data.max_seconds, set loss.kind: fused or "
                "training.rematerialize: blocks",
            )
        found.append(Found(bucket, rows, peaks[rows]))
    return found[::-1]


def budget_of(found: Sequence[Found], most_rows: int) -> Budget:
    """Returns the budget with which every batch fits.

    Buckets whose largest batch has `most_rows` do not limit the product of rows and samples.

    Args:
        found: largest batches of the buckets, shortest first.
        most_rows: largest number of rows that was tried.
    """
    limited = [row for row in found if row.rows < most_rows] or [found[-1]]
    samples = min(row.rows * row.bucket.samples for row in limited)
    return Budget(samples, min(samples // found[0].bucket.samples, most_rows))
