"""From a list of utterances to batches: nothing lost, nothing twice, the same numbers anywhere."""

import dataclasses
import functools
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from conformer.config import DataConfig, WaveformAugmentConfig
from conformer.tokenizer import CharacterTokenizer, SentencePieceTokenizer
from tests.support.errors import refused
from tools.recognition.training_data import TrainingSet, prepare, training_data
from tools.speech.audio import probe, read
from tools.speech.augmentation import WaveformAugmentation
from tools.speech.batches import pad_to_frame
from tools.speech.corpus import Utterance
from tools.speech.reading import evaluation_limits, read_batches
from tools.training.task import Position, Shard

RATE_HZ = 16000
DATA = DataConfig(num_buckets=2, max_seconds=2.0, num_parallel_calls=2)
WORDS = [
    "ONE",
    "",
    "TWO THREE",
    "FÜNF",
    "SIX SEVEN EIGHT",
    "NINE",
    "O",
    "ONE TWO",
    "SIX",
    "NO",
    "YES",
]


AUGMENT = WaveformAugmentConfig(
    max_speed_change=0.1,
    noise_probability=0.7,
    silence_probability=0.5,
    max_silence_seconds=0.2,
    empty_share=0.3,
)


@pytest.fixture(scope="module")
def utterances(tmp_path_factory):
    """Eleven files for every decoder: FLAC, WAV, and one at 8 kHz."""
    folder, rng, found = tmp_path_factory.mktemp("sounds"), np.random.default_rng(0), []
    for number, words in enumerate(WORDS):
        suffix = ("flac", "wav")[number % 2]
        path = str(folder / f"7-1-{number:04d}.{suffix}")
        rate_hz = 8000 if number == 5 else RATE_HZ
        sound = 0.1 * rng.normal(size=int(rng.integers(2000, 6000)))
        soundfile.write(path, sound, rate_hz, subtype="PCM_16")
        info = probe(path, evaluation_limits(DATA, RATE_HZ))
        found.append(
            Utterance(
                f"7-1-{number:04d}", path, info.num_samples, info.duration_seconds, words,
                info.decoder,
            )
        )  # fmt: skip
    assert {u.decoder for u in found} == {"graph_flac", "graph_wav", "python"}
    return found


@pytest.fixture
def copies(utterances, tmp_path):
    """The same files, to be damaged."""
    return [
        dataclasses.replace(u, path=shutil.copy(u.path, tmp_path / Path(u.path).name))
        for u in utterances
    ]


def make_data(
    utterances, rank=0, size=1, batch_size=4, position=None, num_epochs=2, augment=None, seed=1,
    tokenizer=None, plans_silence=True, **changes,
):  # fmt: skip
    augment = WaveformAugmentation(augment or WaveformAugmentConfig(), RATE_HZ)
    tokenizer = tokenizer or CharacterTokenizer.from_transcripts(WORDS)
    prepared = functools.partial(prepare, augment=augment, num_uniforms=6)
    added = augment.added_samples if plans_silence else None
    return training_data(
        TrainingSet(utterances, tokenizer.encode_in_graph, prepared, added),
        dataclasses.replace(DATA, **changes),
        rate_hz=RATE_HZ,
        seed=seed,
        shard=Shard(rank, size, batch_size),
        position=position or Position(),
        num_epochs=num_epochs,
    )


def rows_of(data, num_epochs=2, batches=None):
    """Rows by (epoch, index) that are not masked; checks the number of steps on the way."""
    batches = iter(data.dataset.as_numpy_iterator() if batches is None else batches)
    rows = {}
    for epoch in range(num_epochs):
        for _ in range(data.num_steps(epoch)):
            batch = next(batches)
            for position, index in enumerate(batch["index"]):
                if index >= 0:
                    assert (epoch, index) not in rows
                    rows[epoch, index] = {name: value[position] for name, value in batch.items()}
    assert next(batches, None) is None
    return rows


@pytest.fixture(scope="module")
def whole(utterances):
    """Data of a single process, its batches, and its rows."""
    data = make_data(utterances, augment=AUGMENT)
    batches = list(data.dataset.as_numpy_iterator())
    return data, batches, rows_of(data, batches=batches)


@pytest.fixture(scope="module")
def other_seed(utterances):
    """Rows of a run with another seed and without augmentation."""
    return rows_of(make_data(utterances, seed=2))


@pytest.fixture(scope="module")
def thirds(utterances):
    """Data and rows of three ranks with smaller batches."""
    ranks = [make_data(utterances, rank, 3, 2, augment=AUGMENT) for rank in range(3)]
    return [(data, rows_of(data)) for data in ranks]


def test_every_utterance_once_an_epoch_on_any_number_of_ranks(whole, thirds):
    everything = [(epoch, index) for epoch in range(2) for index in range(len(WORDS))]
    assert sorted(whole[2]) == everything
    assert sorted(key for _, rows in thirds for key in rows) == everything
    for data, global_batch_size in ((whole[0], 4), *((data, 6) for data, _ in thirds)):
        assert data.num_steps(0) == data.num_steps(1) >= -(-len(WORDS) // global_batch_size)
        assert data.remaining_steps == 2 * data.num_steps(0)
    assert len({data.num_steps(0) for data, _ in thirds}) == 1


def test_utterances_without_their_words_have_no_labels(whole, thirds, other_seed):
    """Other ones in each epoch, the same ones on any number of ranks."""
    said = {key: row["label_lengths"] for key, row in other_seed.items()}
    empty = {k for k, row in whole[2].items() if row["label_lengths"] == 0 and said[k] > 0}
    assert 2 <= len(empty) <= 12
    assert {index for epoch, index in empty if epoch == 0} != {n for e, n in empty if e == 1}
    for key, row in [*whole[2].items(), *(pair for _, rows in thirds for pair in rows.items())]:
        assert row["lengths"] > 0
        assert row["label_lengths"] == (0 if key in empty else said[key])
        assert "has_words" not in row


def test_rows_hold_the_sound_and_the_words(utterances, other_seed):
    tokenizer = CharacterTokenizer.from_transcripts(WORDS)
    limits = evaluation_limits(DATA, RATE_HZ)
    for (_, index), row in other_seed.items():
        utterance, length, sound = utterances[index], row["lengths"], row["waveforms"]
        assert length == utterance.num_samples
        np.testing.assert_array_equal(sound[:length], read(utterance.path, limits))
        assert not np.any(sound[length:])
        labels, count = row["labels"], row["label_lengths"]
        assert labels[:count].tolist() == tokenizer.encode(utterance.transcript)
        assert not np.any(labels[count:])
        assert row["reason"] == b""
        assert np.all((row["uniforms"] >= 0) & (row["uniforms"] < 1))


def test_labels_are_those_of_sentencepiece(utterances):
    tokenizer = SentencePieceTokenizer.train([w for w in WORDS if w] * 5, 24)
    data = make_data(utterances, tokenizer=tokenizer, num_epochs=1)
    for (_, index), row in rows_of(data, num_epochs=1).items():
        labels = row["labels"][: row["label_lengths"]]
        assert labels.tolist() == tokenizer.encode(WORDS[index])


def test_batches_have_the_shapes_of_the_contract(whole):
    spec = whole[0].dataset.element_spec
    assert {name: (s.dtype.name, s.shape.as_list()) for name, s in spec.items()} == {
        "waveforms": ("float32", [4, None]),
        "lengths": ("int32", [4]),
        "labels": ("int32", [4, None]),
        "label_lengths": ("int32", [4]),
        "uniforms": ("float32", [4, 6]),
        "index": ("int64", [4]),
        "reason": ("string", [4]),
    }


def test_randomness_belongs_to_epoch_and_utterance_alone(whole, thirds):
    for _, rows in thirds:
        for key, row in rows.items():
            expected = whole[2][key]
            length = expected["lengths"]
            assert row["lengths"] == length
            np.testing.assert_array_equal(row["uniforms"], expected["uniforms"])
            np.testing.assert_array_equal(row["waveforms"][:length], expected["waveforms"][:length])


def test_epochs_utterances_and_seeds_differ(whole, other_seed):
    rows = whole[2]
    drawn = [tuple(row["uniforms"]) for row in (*rows.values(), *other_seed.values())]
    assert len(set(drawn)) == len(drawn) == 4 * len(WORDS)
    lengths = {index: [rows[epoch, index]["lengths"] for epoch in range(2)] for _, index in rows}
    assert sum(first != second for first, second in lengths.values()) > len(WORDS) // 2
    orders = [[index for e, index in found if e == 0] for found in (rows, other_seed)]
    orders.append([index for e, index in rows if e == 1])
    assert orders[0] not in orders[1:]


@pytest.mark.parametrize(("epoch", "steps"), [(0, 2), (1, 1)])
def test_a_restart_goes_on_where_it_stopped(utterances, whole, epoch, steps):
    uninterrupted, batches, _ = whole
    data = make_data(utterances, position=Position(epoch, ((4, steps),)), augment=AUGMENT)
    left = batches[epoch * uninterrupted.num_steps(0) + steps :]
    assert data.remaining_steps == len(left)
    assert data.num_steps(epoch) == uninterrupted.num_steps(epoch) - steps
    for found, expected in zip(data.dataset.as_numpy_iterator(), left, strict=True):
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_restart_with_other_sizes_repeats_and_loses_nothing(utterances, whole):
    seen = [index for batch in whole[1][:2] for index in batch["index"]]
    for rank in range(2):
        position = Position(0, ((4, 2),))
        data = make_data(utterances, rank, 2, 3, position, num_epochs=1, augment=AUGMENT)
        seen += [index for _, index in rows_of(data, num_epochs=1)]
    assert sorted(i for i in seen if i >= 0) == list(range(len(WORDS)))


def test_a_finished_run_has_no_batches(utterances):
    data = make_data(utterances, position=Position(2))
    assert data.remaining_steps == 0
    assert list(data.dataset) == []


def damage(path):
    with open(path, "r+b") as file:
        file.seek(600)
        file.write(b"\xff\x00" * 400)


def test_files_damaged_after_the_manifest_are_dropped_and_named_once(copies, whole, caplog):
    damage(copies[2].path)
    Path(copies[3].path).unlink()
    soundfile.write(copies[4].path, np.zeros(RATE_HZ * 3), RATE_HZ, format="FLAC")
    reasons = {2: b"unreadable", 3: b"missing", 4: b"too_long"}
    data = make_data(copies)
    assert data.num_steps(0) == whole[0].num_steps(0)
    for (_, index), row in rows_of(data).items():
        assert row["reason"] == reasons.get(index, b"")
        assert (row["lengths"] == 0) == (index in reasons)
        if index in reasons:
            assert row["label_lengths"] == 0
            assert not np.any(row["labels"])
            assert not np.any(row["waveforms"])
    with caplog.at_level(logging.WARNING):
        for batch in data.dataset:
            names = data.names(batch)
            assert names == [
                copies[i].utterance_id if i >= 0 else "masked" for i in batch["index"].numpy()
            ]
    assert sorted(record.getMessage() for record in caplog.records) == sorted(
        f"dropped {copies[i].path}: {reason.decode()}" for i, reason in reasons.items()
    )


def test_masked_rows_are_empty(utterances):
    # One row of the last of twelve ranks, where there are only eleven utterances; a mixed batch.
    alone, *_ = make_data(utterances, 11, 12, 1).dataset
    *_, mixed = make_data(utterances, batch_size=12).dataset
    assert alone["index"].numpy().tolist() == [-1]
    assert alone["waveforms"].shape == (1, 400)
    assert alone["labels"].shape == (1, 0)
    for batch in (alone, mixed):
        row = int(np.flatnonzero(batch["index"].numpy() < 0)[0])
        assert batch["lengths"][row] == batch["label_lengths"][row] == 0
        assert not np.any(batch["waveforms"][row])
        assert not np.any(batch["labels"][row])
        assert batch["reason"][row] == b""


@pytest.mark.parametrize("parallel", [0, 1, 5])
def test_evaluation_keeps_the_order_and_the_last_partial_batch(copies, parallel):
    damage(copies[6].path)
    limits = evaluation_limits(DATA, RATE_HZ)
    batches = list(read_batches(copies, 4, limits, parallel))
    assert [len(batch.indices) for batch in batches] == [4, 4, 3]
    assert [index for batch in batches for index in batch.indices] == list(range(len(WORDS)))
    for batch in batches:
        rows = zip(batch.indices, batch.lengths, batch.waveforms, batch.reasons, strict=True)
        for index, length, sound, reason in rows:
            if index == 6:
                assert (length, reason) == (0, "unreadable")
                continue
            assert reason == ""
            np.testing.assert_array_equal(sound[:length], read(copies[index].path, limits))
            assert not np.any(sound[length:])


def test_evaluation_of_nothing_but_damage_still_has_a_frame(utterances):
    gone = [dataclasses.replace(u, path=u.path + ".gone") for u in utterances[:2]]
    (batch,) = read_batches(gone, 2, evaluation_limits(DATA, RATE_HZ))
    assert batch.waveforms.shape == (2, 400)
    assert batch.lengths.tolist() == [0, 0]
    assert batch.reasons == ["missing"] * 2


def test_batches_are_planned_with_the_silence_that_is_added(utterances):
    """Otherwise a batch is as long as its row with the most silence."""
    augment = WaveformAugmentConfig(silence_probability=0.5, max_silence_seconds=20.0)
    padding, rows = [], []
    for plans_silence in (True, False):
        data = make_data(
            utterances, batch_size=2, num_epochs=6, augment=augment, plans_silence=plans_silence
        )
        batches = list(data.dataset.as_numpy_iterator())
        padding.append(sum(b["waveforms"].size - b["lengths"].sum() for b in batches))
        rows.append(rows_of(data, 6, batches))
    assert padding[0] < 0.7 * padding[1]
    for key, row in rows[0].items():  # the rows are the same, in other batches
        length = row["lengths"]
        assert length == rows[1][key]["lengths"]
        np.testing.assert_array_equal(row["waveforms"][:length], rows[1][key]["waveforms"][:length])


BUDGET = {"max_batch_seconds": 0.9, "num_label_buckets": 2}  # utterances have 0.13 to 0.38 s


@pytest.fixture(scope="module")
def budgeted(utterances):
    """Data of a single process with a budget, and its batches."""
    data = make_data(utterances, batch_size=6, augment=AUGMENT, **BUDGET)
    return data, list(data.dataset.as_numpy_iterator())


def test_batches_of_a_budget_have_as_many_rows_as_fit(budgeted):
    data, batches = budgeted
    rows = rows_of(data, batches=batches)
    assert rows.keys() == {(epoch, index) for epoch in range(2) for index in range(len(WORDS))}
    sizes = [len(batch["index"]) for batch in batches]
    assert len(set(sizes)) > 1 and max(sizes) <= 6
    for batch in batches:
        assert np.all(batch["index"] >= 0)
        seconds = batch["waveforms"].shape[1] / RATE_HZ
        assert len(batch["index"]) * seconds <= BUDGET["max_batch_seconds"]
        assert all(len(value) == len(batch["index"]) for value in batch.values())


def test_batches_of_a_budget_are_not_padded_to_the_batch_size(utterances, monkeypatch):
    """Hundreds of masked rows as long as the longest one would take gigabytes."""
    padded = []

    def recorded(batch):
        waveforms = tf.ensure_shape(batch["waveforms"], [None, None])
        batch["waveforms"] = tf.numpy_function(
            lambda x: padded.append(x.shape) or x, [waveforms], tf.float32
        )
        batch["waveforms"].set_shape([None, None])
        return pad_to_frame(batch)

    monkeypatch.setattr("tools.recognition.training_data.pad_to_frame", recorded)
    data = make_data(utterances, batch_size=100, num_epochs=1, **BUDGET)
    batches = list(data.dataset.as_numpy_iterator())
    assert padded == [batch["waveforms"].shape for batch in batches]
    assert max(rows for rows, _ in padded) < 10


def test_ranks_share_the_batches_of_a_budget(utterances):
    """Every rank stays within the budget and runs the same number of steps."""
    ranks = [
        make_data(utterances, rank, 2, 6, augment=AUGMENT, num_epochs=1, **BUDGET)
        for rank in range(2)
    ]
    batches = [list(data.dataset.as_numpy_iterator()) for data in ranks]
    assert len({data.num_steps(0) for data in ranks}) == 1
    seen = []
    for mine, others in zip(*batches, strict=True):
        assert len(mine["index"]) == len(others["index"])
        for batch in (mine, others):
            longest = batch["lengths"].max()
            assert len(batch["index"]) * longest <= BUDGET["max_batch_seconds"] * RATE_HZ
            seen += [index for index in batch["index"] if index >= 0]
    assert sorted(seen) == list(range(len(WORDS)))


def test_a_restart_inside_an_epoch_of_a_budget(utterances, budgeted):
    data, batches = budgeted
    position = Position(1)
    for _ in range(3):
        position = position.advanced(6, 1, data.settings)
    assert position.done == ((6, 3, *data.settings),)
    rest = make_data(utterances, batch_size=6, position=position, augment=AUGMENT, **BUDGET)
    left = batches[data.num_steps(0) + 3 :]
    for found, expected in zip(rest.dataset.as_numpy_iterator(), left, strict=True):
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    without = make_data(utterances, batch_size=1, position=position, augment=AUGMENT)
    seen = sum(len(batch["index"]) for batch in batches[data.num_steps(0) :][:3])
    assert without.num_steps(1) == len(WORDS) - seen


def test_a_budget_below_one_utterance_is_refused(utterances):
    with refused("data.max_batch_seconds of at least the longest utterance"):
        make_data(utterances, max_batch_seconds=0.1)
