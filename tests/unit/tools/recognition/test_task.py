"""The part of training that recognizers share: which data are read, and who scores what."""

import dataclasses

import numpy as np
import pytest

from tests.support.errors import refused
from tests.support.speech import RATE_HZ, write_librispeech
from tools.speech.config import DataConfig
from tools.training.distributed import SingleProcess
from tools.training.task import Position, Shard

# The toy recognizer writes lengths: what is wrong here is an error of a word.
HELD_OUT = {8000: "8000", 3200: "3200 AND", 4800: "4801", 6400: "6400", 5600: "5600", 9600: "9600"}
TRAINING = {4000: "AB", 2400: "A", 12000: "ABCDE", 3000: "ABC"}


def utterances(rng, texts):
    return [(text, 0.1 * rng.normal(size=samples)) for samples, text in texts.items()]


@pytest.fixture
def data(tmp_path, rng):
    """Six utterances held out and four to train on."""
    write_librispeech(tmp_path / "dev", utterances(rng, HELD_OUT))
    write_librispeech(tmp_path / "train", utterances(rng, TRAINING))
    return DataConfig(
        data_dir=str(tmp_path),
        train_splits=("train",),
        eval_splits=("dev",),
        eval_batch_size=2,
        num_buckets=1,
        num_parallel_calls=2,
    )


class Rank(SingleProcess):
    """One of several processes, which remembers what it gathers and hears from `others`."""

    def __init__(self, rank, size, others=None):
        self.rank, self.size, self.others, self.own = rank, size, others, None

    def gather_objects(self, value):
        self.own = value
        return [value] if self.others is None else self.others


def evaluated(task, processes=None):
    task.processes = processes or SingleProcess()
    return task.evaluators["eval"]()


def test_each_rank_recognizes_its_share_and_scores_those_of_all(data, toy_task):
    task = toy_task(data, SingleProcess())
    task.evaluate_splits(task.texts)
    whole = evaluated(task)
    # One insertion is missing and one word is wrong, of seven.
    assert whole == {"wer": 2 / 7, "cer": 5 / 28, "num_utterances": 6, "num_skipped": 0}
    ranks = [Rank(rank, 3) for rank in range(3)]
    for processes in ranks:
        evaluated(task, processes)
    # The longest first, dealt out in turn: no rank has more to do than the others.
    heard = [[int(text) for _, text in processes.own] for processes in ranks]
    assert heard == [[9600, 5600], [8000, 4800], [6400, 3200]]
    assert all((HELD_OUT[int(text)], text) in ranks[1].own for text in ("8000", "4800"))
    assert evaluated(task, Rank(1, 3, others=[processes.own for processes in ranks])) == whole


def test_a_rank_without_a_share_takes_part(data, toy_task):
    task = toy_task(data, SingleProcess())
    task.evaluate_splits(task.texts)
    assert evaluated(task, Rank(7, 8, others=[[("A", "A")]])) == {
        "wer": 0.0, "cer": 0.0, "num_utterances": 1, "num_skipped": 0,
    }  # fmt: skip


def test_sounds_that_got_lost_are_counted_and_named(data, toy_task, tmp_path, caplog):
    task = toy_task(data, SingleProcess())
    task.evaluate_splits(task.texts)
    lost = next(tmp_path.glob("dev/*/*/*0002.flac"))  # the one that is wrong
    lost.unlink()
    for _ in range(2):
        assert evaluated(task) == {
            "wer": 1 / 6, "cer": 4 / 24, "num_utterances": 5, "num_skipped": 1,
        }  # fmt: skip
    (record,) = caplog.records  # said once
    assert record.getMessage() == f"evaluation skips {lost}: missing"
    others = [[("A", "A"), (None, "a.flac: truncated")], [(None, "b.flac: missing")]]
    assert evaluated(task, Rank(1, 2, others))["num_skipped"] == 2
    assert len(caplog.records) == 1  # rank 0 alone says it


def test_nothing_evaluated_is_no_score(data, toy_task, tmp_path, caplog):
    task = toy_task(data, SingleProcess())
    task.evaluate_splits(task.texts)
    for path in tmp_path.glob("dev/*/*/*.flac"):
        path.unlink()
    with refused("evaluation sounds that can be read"):
        evaluated(task)
    assert caplog.text.count("evaluation skips ") == 6 and "0002.flac: " in caplog.text
    assert evaluated(task, Rank(1, 2, others=[[("A", "A")], []]))["num_utterances"] == 1


def test_one_graph_recognizes_batches_of_any_size(data, toy_task):
    task = toy_task(data, SingleProcess())
    task.evaluate_splits(task.texts)
    for processes in (SingleProcess(), Rank(0, 5), Rank(1, 5)):  # batches of two rows and of one
        evaluated(task, processes)
    assert task.graphs == 1


def test_limits_of_training_and_evaluation_are_kept_apart(data, toy_task):
    limits = {"max_seconds": 0.2, "max_eval_seconds": 0.5, "min_seconds": 0.17}
    task = toy_task(dataclasses.replace(data, **limits), SingleProcess())
    assert [u.num_samples for u in task.training_set.utterances] == [3000]
    task.evaluate_splits(task.texts)
    assert evaluated(task)["num_utterances"] == 5
    reasons = [line.split("\t")[0] for line in task.skipped]
    assert sorted(reasons) == ["too_long", "too_long", "too_long", "too_short"]
    assert task.report == [
        "train: 1 utterance (0.2 s); skipped 3: too_long 2, too_short 1",
        "dev: 5 utterances (1.8 s); skipped 1: too_long 1",
    ]


def test_transcripts_are_written_as_the_recognizer_writes(data, toy_task):
    task = toy_task(data, SingleProcess())
    lower = task.read_training_set(normalize=str.lower)
    assert sorted(u.transcript for u in lower) == sorted(t.lower() for t in TRAINING.values())
    task.evaluate_splits(task.texts, normalize=lambda text: text.removesuffix(" AND"))
    assert evaluated(task)["wer"] == 1 / 6


def test_training_batches_are_of_the_runs_seed_and_the_ranks_share(data, toy_task):
    def order(seed, rank=0, size=1):
        task = toy_task(data, SingleProcess(), seed=seed)
        seen = []
        for batch in task.train_data(Shard(rank, size, 1), Position(), 2).dataset:
            (index,), (ids,) = batch["index"].numpy().tolist(), batch["labels"].numpy().tolist()
            assert "".join(map(chr, ids)) == task.training_set.utterances[index].transcript
            seen.append(index)
        return seen

    assert order(3) != order(4)
    assert sorted(order(3, 0, 2) + order(3, 1, 2)) == sorted(2 * list(range(4)))


def test_what_has_too_many_labels_is_left_out_and_listed(data, toy_task):
    task = toy_task(dataclasses.replace(data, max_labels=7), SingleProcess())
    utterances = task.training_set.utterances
    counts = np.array([len(u.transcript) for u in utterances])
    kept = task.keep_fitting(utterances, counts, np.array([2, 1, 4, 3.0]), "too_dense")
    # Exactly as many as the limit fit.
    assert [u.transcript for u in kept] == ["AB", "A", "ABC"]
    assert task.report[-1] == "1 skipped: too_dense"
    path = utterances[2].path
    assert task.skipped == [f"too_dense\t{path}: 5 of at most 4"]
    assert task.keep_fitting(kept, np.array([2, 1, 3]), np.array([9, 9, 9])) == kept
    assert len(task.report) == 2
    with refused("at most 7 labels"):
        task.keep_fitting(kept, np.array([2, 1, 3]), np.array([1, 0, 2]))


class Told(SingleProcess):
    """Rank 0 of two, or rank 1, which hears what rank 0 told."""

    size = 2

    def __init__(self, rank, told):
        self.rank, self.told = rank, told

    def broadcast_object(self, value):
        if self.rank:
            return self.told.pop(0)
        self.told.append(value)
        return value


def test_rank_0_alone_reads_the_corpus(data, toy_task, tmp_path):
    told = []
    first = toy_task(data, Told(0, told))
    first.evaluate_splits(first.texts)
    assert len(told) == 2
    elsewhere = dataclasses.replace(data, data_dir=str(tmp_path / "nowhere"))
    other = toy_task(elsewhere, Told(1, told))
    other.evaluate_splits(other.texts)
    assert other.training_set.utterances == first.training_set.utterances
    assert (other.report, other.skipped) == (first.report, first.skipped)
    assert not told


def test_the_rate_is_the_models(data, toy_task):
    task = toy_task(data, SingleProcess(), rate_hz=RATE_HZ // 2)
    samples = [u.num_samples for u in task.training_set.utterances]
    assert sorted(samples) == sorted(n // 2 for n in TRAINING)
    task.evaluate_splits(task.texts)
    assert evaluated(task)["num_utterances"] == 6
    heard = Rank(0, 1)
    evaluated(task, heard)
    assert [text for _, text in heard.own] == ["4800", "4000", "3200", "2800", "2400", "1600"]


def test_characters_that_the_vocabulary_lacks_are_counted(data, toy_task):
    """B is in three of four transcripts and C in two: most by their number first."""
    task = toy_task(data, SingleProcess())
    found = task.read_training_set()

    def unknown(text):
        return "".join(x for x in text if x in "BC\t")

    received = "3 of 4 transcripts (75.0%) with characters that the vocabulary lacks: B (3), C (2)"
    with refused(f"Received: {received}. Use another."):
        task.check_characters(found, unknown, "Use another", most=None)
    task.check_characters(found, unknown, "", most=0.75)
    assert task.report[-1] == received
    task.data = dataclasses.replace(data, max_unknown_share=0.75)
    task.check_characters(found, unknown, "", most=None)
    told = len(task.report)
    task.check_characters(found, lambda text: "", "", most=0.0)
    assert len(task.report) == told


def test_many_unknown_characters_are_named_in_part_and_of_evaluation_told(data, toy_task):
    task = toy_task(data, SingleProcess())
    task.evaluate_splits(task.texts, unknown=lambda text: "".join(map(chr, range(65, 90))))
    (line,) = (x for x in task.report if "lacks" in x)
    assert line.startswith("6 of 6 transcripts (100.0%)") and "T (6) and 5 others" in line
    assert "U (6)" not in line
