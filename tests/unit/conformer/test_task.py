"""The training task: what a row weighs, what ranks tell each other, and evaluation."""

import dataclasses

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from conformer.task import ConformerTask
from tools.errors import UserError
from tools.training.distributed import SingleProcess
from tools.training.task import Position, Shard

WORDS = ["ONE", "TWO THREE", "SIX SEVEN", "NINE TWO", "SIX"]


@pytest.fixture
def corpus(tmp_path, rng):
    """Five utterances of noise, the same for training and evaluation."""
    chapter = tmp_path / "corpus" / "train" / "7" / "1"
    chapter.mkdir(parents=True)
    lines = []
    for number, words in enumerate(WORDS):
        name = f"7-1-{number:04d}"
        sound = 0.1 * rng.normal(size=8000 + 2000 * number)
        soundfile.write(chapter / f"{name}.flac", sound, 16000, subtype="PCM_16")
        lines.append(f"{name} {words}\n")
    (chapter / "7-1.trans.txt").write_text("".join(lines))
    return tmp_path / "corpus"


@pytest.fixture
def make_task(corpus, tiny_config):
    def make(processes=None, needs_evaluation=False, **model):
        config = dataclasses.replace(
            tiny_config,
            data=dataclasses.replace(
                tiny_config.data,
                data_dir=str(corpus),
                train_splits=("train",),
                eval_splits=("train",),
                eval_batch_size=2,
                num_buckets=1,
                max_labels=model.pop("max_labels", 400),
            ),
            model=dataclasses.replace(tiny_config.model, num_layers=1, dropout_rate=0.0, **model),
        )
        processes = processes or SingleProcess()
        return ConformerTask(config, processes, needs_evaluation=needs_evaluation)

    return make


def batch_of(task, batch_size):
    (batch,) = task.train_data(Shard(0, 1, batch_size), Position(), 1).dataset
    return batch


def only(batch, rows):
    return {name: tf.gather(value, rows) for name, value in batch.items()}


@pytest.mark.parametrize("ctc_weight", [0.0, 0.4])
def test_a_row_without_sound_weighs_nothing(make_task, corpus, ctc_weight):
    task = make_task(ctc_weight=ctc_weight)
    next(corpus.rglob("7-1-0003.flac")).write_bytes(b"fLaC")
    batch = batch_of(task, 7)
    sums = task.loss(batch, training=False)
    index = batch["index"].numpy()
    heard = np.flatnonzero((index >= 0) & (index != 3))
    assert len(heard) == 4
    assert float(sums.weight) == 4
    assert float(sums.metrics["dropped_share"]) == 1
    labels = sum(len(words) for i, words in enumerate(WORDS) if i != 3)
    assert float(sums.metrics["labels_per_utterance"]) == labels
    examples = sums.examples.numpy()
    assert np.all(examples[heard] > 0)
    np.testing.assert_array_equal(np.delete(examples, heard), [0, 0, 0])
    # The good ones alone: the same losses, and in training the same moments of batch norm.
    alone = task.loss(only(batch, heard), training=True)
    together = task.loss(batch, training=True)
    np.testing.assert_allclose(together.loss_sum, alone.loss_sum, rtol=1e-5)
    np.testing.assert_allclose(together.examples.numpy()[heard], alone.examples, rtol=1e-4)


def test_a_batch_of_masked_rows_has_no_loss_and_a_finite_gradient(make_task):
    task = make_task(ctc_weight=0.4)
    *_, batch = task.train_data(Shard(5, 6, 1), Position(), 1).dataset
    assert batch["index"].numpy().tolist() == [-1]
    # Eagerly, Keras warns of a softmax over a single frame: take a few.
    batch = {**batch, "waveforms": tf.zeros([1, 1600])}
    variables = [v.value for v in task.model.trainable_variables]
    with tf.GradientTape() as tape:
        sums = task.loss(batch, training=True)
    assert (float(sums.loss_sum), float(sums.weight)) == (0.0, 0.0)
    for gradient in tape.gradient(sums.loss_sum, variables):
        assert gradient is None or not np.any(tf.convert_to_tensor(gradient))
    for variable in task.model.non_trainable_variables:
        assert np.all(np.isfinite(variable.numpy()))


class Rank0(SingleProcess):
    """Remembers what it tells the others."""

    size = 2

    def __init__(self):
        self.told = []

    def broadcast_object(self, value):
        self.told.append(value)
        return value


class Rank1(SingleProcess):
    """Hears what rank 0 has told."""

    rank, size = 1, 2

    def __init__(self, told):
        self.told = iter(told)

    def broadcast_object(self, value):
        assert value in (None, (None, None)), "only rank 0 reads"
        return next(self.told)


def test_rank_0_reads_and_the_others_hear(make_task, corpus):
    first = Rank0()
    task = make_task(first, needs_evaluation=True)
    for file in corpus.rglob("*.txt"):
        file.unlink()
    other = make_task(Rank1(first.told), needs_evaluation=True)
    assert other.utterances == task.utterances
    assert other.assets == task.assets
    assert other.report == task.report
    for ours, theirs in zip(task.model.weights, other.model.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_an_error_of_rank_0_ends_every_rank(make_task, corpus):
    for file in corpus.rglob("*.txt"):
        file.unlink()
    first = Rank0()
    with pytest.raises(UserError, match="no utterances") as caught:
        make_task(first)
    assert caught.value in first.told[0]
    with pytest.raises(SystemExit, match="2"):  # one message is enough
        make_task(Rank1(first.told))


def test_transcripts_with_too_many_labels_are_dropped_and_counted(make_task):
    task = make_task(max_labels=8)
    assert [u.transcript for u in task.utterances] == ["ONE", "NINE TWO", "SIX"]
    assert "2 skipped: too_many_labels" in task.report
    with pytest.raises(UserError, match="at most 2 labels"):
        make_task(max_labels=2)


def test_evaluation_scores_the_shares_of_all(make_task, corpus, monkeypatch):
    task = make_task(needs_evaluation=True)
    for number in (4, 3):  # the two longest: a batch of dropped rows only
        next(corpus.rglob(f"7-1-000{number}.flac")).write_bytes(b"fLaC")
    said = iter([b"SIX SEVEN", b"TWO THREE", b"ONE ONE"])

    def recognize(waveforms, lengths):
        texts = [next(said) if n > 0 else b"noise" for n in lengths.numpy()]
        return tf.constant(texts)

    real = task.recognize
    task.recognize = recognize
    theirs = [("NINE", "NINE"), ("A B", "A")]
    monkeypatch.setattr(task.processes, "gather_objects", lambda heard: [heard, theirs])
    found = task.evaluators["eval"]()
    assert found["num_utterances"] == 5
    assert found["wer"] == pytest.approx(2 / 8)  # an insertion and a deletion
    texts = real(tf.zeros([2, 4000]), tf.constant([4000, 0])).numpy()
    assert texts.shape == (2,)
    assert texts[1] == b""
    assert real(tf.zeros([2, 400]), tf.constant([0, 0])).numpy().tolist() == [b"", b""]


def test_layers_are_counted_from_the_sound_to_the_text(make_task):
    task = make_task()
    depths = {v.path.split("/", 1)[1]: task.layer_depth(v.path) for v in task.model.weights}
    assert depths["encoder/subsampling/projection/kernel"] == 0
    assert depths["encoder/block_0/norm_output/gamma"] == 1
    assert depths["prediction/embedding/embeddings"] == 2
    assert depths["joint/vocabulary_projection/bias"] == 2
