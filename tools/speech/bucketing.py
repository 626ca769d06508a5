"""Batch planning: assigns the utterances of an epoch to batches, identically on every process.

A plan depends only on the lengths of the utterances, the seed, the epoch and the batch size. Every
process computes the whole plan and takes its own rows of each batch, so all processes run the same
number of steps. A resumed run computes the plan again and continues at any step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tools.errors import UserError

MASKED_ROW = -1


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps of an epoch that were already run, and the settings of their plan.

    Attributes:
        global_batch_size: argument of `epoch_plan` in that run.
        num_steps: steps run with it.
        max_batch_samples: argument of `epoch_plan` in that run, 0 for no bound; None if it is the
            same as in the current run.
        num_buckets: argument of `epoch_plan` in that run; None if it is the same as in the current
            run.
        num_label_buckets: the same.
        num_ranks: the same.
    """

    global_batch_size: int
    num_steps: int
    max_batch_samples: int | None = None
    num_buckets: int | None = None
    num_label_buckets: int | None = None
    num_ranks: int | None = None


@dataclass(frozen=True, slots=True)
class _Settings:
    """Settings that determine the batches of an epoch; a sample budget of 0 means no bound."""

    global_batch_size: int
    max_batch_samples: int
    num_buckets: int
    num_label_buckets: int
    num_ranks: int

    def fits(self, num_rows, longest):
        """Returns whether the rows of every process are within the budget."""
        return -(-num_rows // self.num_ranks) * longest <= self.max_batch_samples


def bucket_boundaries(num_samples: np.ndarray, num_buckets: int) -> np.ndarray:
    """Returns the largest length of every bucket except the last.

    The buckets contain about the same number of utterances. Equal boundaries are merged.

    Args:
        num_samples: `[N]` lengths of all utterances.
        num_buckets: at least 1.

    Returns:
        Strictly ascending lengths, at most `num_buckets - 1`. Utterance n is in the bucket
        `np.searchsorted(boundaries, num_samples[n])`.
    """
    counts = np.arange(1, num_buckets) * len(num_samples) // num_buckets
    boundaries = np.unique(np.sort(num_samples)[counts[counts > 0] - 1])
    return boundaries[boundaries < num_samples.max(initial=0)]


def _cut(order: np.ndarray, num_samples: np.ndarray, settings: _Settings) -> list[np.ndarray]:
    """Divides utterances, in order, into the largest batches that batch size and budget allow."""
    size, budget = settings.global_batch_size, settings.max_batch_samples
    if not budget:
        return [order[start : start + size] for start in range(0, len(order), size)]
    lengths, batches, start = num_samples[order], [], 0
    if lengths.max(initial=0) > budget:
        raise UserError.expected(
            "data.max_batch_seconds of at least the longest utterance with its augmentation, "
            f"{lengths.max()} samples",
            f"{budget} samples",
            "Raise data.max_batch_seconds or lower data.max_seconds",
        )
    # The shortest utterance bounds the rows of a batch, and so how far the loop must look ahead.
    size = min(size, settings.num_ranks * (budget // max(1, int(lengths.min(initial=budget)))))
    rows = np.arange(1, size + 1)
    while start < len(order):
        longest = np.maximum.accumulate(lengths[start : start + size])
        stop = start + int(np.count_nonzero(settings.fits(rows[: len(longest)], longest)))
        batches.append(order[start:stop])
        start = stop
    return batches


def _is_full(batch: np.ndarray, num_samples: np.ndarray, settings: _Settings) -> bool:
    """Returns whether another row of the longest row's length would exceed size or budget."""
    if len(batch) == settings.global_batch_size:
        return True
    fits = settings.fits(len(batch) + 1, int(num_samples[batch].max()))
    return bool(settings.max_batch_samples) and not fits


def _buckets(lengths: tuple[np.ndarray, np.ndarray | None], settings: _Settings) -> np.ndarray:
    """Returns the number of the bucket of each utterance, given samples and labels."""
    num_samples, num_labels = lengths
    bucket = np.searchsorted(bucket_boundaries(num_samples, settings.num_buckets), num_samples)
    if settings.num_label_buckets == 1:
        return bucket
    if num_labels is None:
        raise ValueError("Buckets by labels require num_labels.")
    inside = np.zeros_like(bucket)
    for number in np.unique(bucket):
        members = bucket == number
        labels = num_labels[members]
        boundaries = bucket_boundaries(labels, settings.num_label_buckets)
        inside[members] = np.searchsorted(boundaries, labels)
    return bucket * settings.num_label_buckets + inside


def _bucketed(
    order: np.ndarray,
    lengths: tuple[np.ndarray, np.ndarray | None],
    settings: _Settings,
    generator: np.random.Generator,
) -> list[np.ndarray]:
    """Divides shuffled utterances into batches of similar lengths, in random order."""
    num_samples, bucket = lengths[0], _buckets(lengths, settings)
    by_bucket = order[np.argsort(bucket[order], kind="stable")]
    starts = np.flatnonzero(np.diff(bucket[by_bucket])) + 1
    batches, left_over = [], []
    for members in np.split(by_bucket, starts):
        batches += _cut(members, num_samples, settings)
        if batches and not _is_full(batches[-1], num_samples, settings):
            left_over.append(batches.pop())
    if left_over:
        # Batch the rest of all buckets together, sorted by length.
        rest = np.concatenate(left_over)
        rest = rest[np.argsort(-num_samples[rest], kind="stable")]
        batches += _cut(rest, num_samples, settings)
    return [batches[index] for index in generator.permutation(len(batches))]


def epoch_plan(
    num_samples: np.ndarray,
    *,
    seed: int,
    epoch: int,
    global_batch_size: int,
    num_buckets: int,
    max_batch_samples: int | None = None,
    num_labels: np.ndarray | None = None,
    num_label_buckets: int = 1,
    num_ranks: int = 1,
    shuffle: bool = True,
    done: Sequence[Segment] = (),
) -> list[np.ndarray]:
    """Returns the batches of one epoch. Every utterance is in exactly one batch.

    The utterances are shuffled and sorted into buckets by length. Each bucket is divided into
    batches; incomplete batches of all buckets are put together by length. Then the batches are
    shuffled. A run that stopped inside the epoch continues with the utterances that it has not
    seen: with the same settings exactly as if it had not stopped, otherwise with a new plan.

    Args:
        num_samples: `[N]` lengths of the manifest's utterances.
        seed: seed of the run.
        epoch: number of the epoch, from 0.
        global_batch_size: largest number of rows in a batch, over all processes.
        num_buckets: number of buckets; 1 mixes all lengths.
        max_batch_samples: largest product of the rows of a process and the length of the longest
            utterance in a batch; None or 0 for no bound.
        num_labels: `[N]` number of labels of each utterance, for `num_label_buckets`.
        num_label_buckets: number of buckets by labels inside each bucket by length.
        num_ranks: number of processes, for `max_batch_samples`.
        shuffle: False keeps the order of the manifest and ignores the buckets.
        done: steps of this epoch that were already run, in order.

    Returns:
        The batches still to run, each with at most `global_batch_size` indices (int64) of
        utterances.

    Raises:
        UserError: an utterance exceeds the budget, or `done` has more steps than the epoch.
    """
    num_samples = np.asarray(num_samples, np.int64)
    now = _Settings(
        global_batch_size, max_batch_samples or 0, num_buckets, num_label_buckets, num_ranks
    )
    segments = _merge(done, now)
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(num_samples)) if shuffle else np.arange(len(num_samples))

    def plan(settings: _Settings, num_steps: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Plans the utterances in `order`; returns the batches already run and those to run."""
        counts = (settings.num_buckets, settings.num_label_buckets, settings.num_ranks)
        if min(settings.global_batch_size, *counts) < 1:
            raise ValueError(f"Batch size and number of buckets must be positive: {settings}.")
        if shuffle:
            batches = _bucketed(order, (num_samples, num_labels), settings, generator)
        else:
            batches = _cut(order, num_samples, settings)
        if num_steps > len(batches):
            raise UserError.expected(
                f"at most {len(batches)} steps to resume in epoch {epoch}",
                f"{num_steps} steps already run",
                "Resume with the data that the run was started with",
            )
        return batches[:num_steps], batches[num_steps:]

    last_steps = segments.pop()[1] if segments and segments[-1][0] == now else 0
    for settings, num_steps in segments:
        seen = np.zeros(len(num_samples), bool)
        seen[np.concatenate(plan(settings, num_steps)[0])] = True
        order = order[~seen[order]]
    return plan(now, last_steps)[1]


def _merge(done: Sequence[Segment], now: _Settings) -> list[tuple[_Settings, int]]:
    """Returns settings and number of steps of the segments; merges neighbors of equal settings."""
    merged: list[tuple[_Settings, int]] = []
    for segment in done:
        names = ("max_batch_samples", "num_buckets", "num_label_buckets", "num_ranks")
        known = {name: getattr(segment, name) for name in names}
        known = {name: value for name, value in known.items() if value is not None}
        settings = replace(now, global_batch_size=segment.global_batch_size, **known)
        num_steps = segment.num_steps
        if not num_steps:
            continue
        if merged and merged[-1][0] == settings:
            num_steps += merged.pop()[1]
        merged.append((settings, num_steps))
    return merged


def rank_rows(global_batch: np.ndarray, *, rank: int, size: int, rows_per_rank: int) -> np.ndarray:
    """Returns the rows of a global batch for one process: every `size`-th row from `rank` on.

    Args:
        global_batch: indices of at most `size * rows_per_rank` utterances.
        rank: number of this process, from 0.
        size: number of processes.
        rows_per_rank: number of rows of every process, so that all have the same shapes.

    Returns:
        `[rows_per_rank]` int64 indices. Masked rows have -1 and come after the other rows.

    Raises:
        ValueError: the rank is out of range, or the batch has too many rows.
    """
    if not 0 <= rank < size or len(global_batch) > size * rows_per_rank:
        raise ValueError(
            f"Rank {rank} of {size} cannot take {rows_per_rank} rows of {len(global_batch)}."
        )
    rows = np.full(rows_per_rank, MASKED_ROW, np.int64)
    own = global_batch[rank::size]
    rows[: len(own)] = own
    return rows
