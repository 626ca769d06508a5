"""Tests the training task: vocabulary, weights of rows, communication of ranks, evaluation."""

import numpy as np
import pytest
import tensorflow as tf

import conformer
from conformer.config import DecodingConfig
from conformer.graph_recognition import greedy, without_silence
from conformer.task import ConformerTask
from conformer.tokenizer import (
    CharacterTokenizer,
    SentencePieceTokenizer,
    save_tokenizer,
    tokenizer_from_json,
)
from conformer.train import main
from tests.support import conformer_reference as reference
from tests.support.accumulation import check_parts, check_rematerialized
from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.training.checkpoint import CheckpointStore
from tools.training.distributed import SingleProcess
from tools.training.task import Position, Shard

WORDS = ["ONE", "TWO THREE", "SIX SEVEN", "NINE TWO", "SIX"]


@pytest.fixture
def corpus(tmp_path, rng):
    """Writes five utterances of noise, the same for training and evaluation."""
    sounds = [0.1 * rng.normal(size=3200 + 800 * number) for number in range(len(WORDS))]
    write_librispeech(tmp_path / "corpus" / "train", zip(WORDS, sounds, strict=True))
    return tmp_path / "corpus"


@pytest.fixture
def make_task(corpus, tiny_sizes):
    """Returns a function that makes a task of one block without dropout, with given changes."""

    def make(overrides=None, processes=None, needs_evaluation=False, **checkpoints):
        values = {
            **tiny_sizes,
            "model.num_layers": 1,
            "model.dropout_rate": 0.0,
            "data.data_dir": str(corpus),
            "data.train_splits": ["train"],
            "data.eval_splits": ["train"],
            "data.eval_batch_size": 2,
            "data.num_buckets": 1,
        }
        config = conformer.load_config(None, values | (overrides or {}))
        processes = processes or SingleProcess()
        return ConformerTask(config, processes, needs_evaluation=needs_evaluation, **checkpoints)

    return make


def batch_of(task, batch_size):
    (batch,) = task.train_data(Shard(0, 1, batch_size), Position(), 1).dataset
    return batch


def only(batch, rows):
    return {name: tf.gather(value, rows) for name, value in batch.items()}


@pytest.mark.parametrize("ctc_weight", [0.0, 0.4])
def test_a_row_without_sound_weighs_nothing(make_task, corpus, ctc_weight):
    task = make_task({"model.ctc_weight": ctc_weight})
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
    # Without the bad rows: the same losses, and in training the same moments of batch norm.
    alone = task.loss(only(batch, heard), training=True)
    together = task.loss(batch, training=True)
    np.testing.assert_allclose(together.loss_sum, alone.loss_sum, rtol=1e-5)
    np.testing.assert_allclose(together.examples.numpy()[heard], alone.examples, rtol=1e-4)


def test_a_batch_of_masked_rows_has_no_loss_and_a_finite_gradient(make_task):
    task = make_task({"model.ctc_weight": 0.4})
    *_, batch = task.train_data(Shard(5, 6, 1), Position(), 1).dataset
    assert batch["index"].numpy().tolist() == [-1]
    # Several frames, because eager Keras warns about a softmax over a single frame.
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
    """Rank 0; records what it sends to the others."""

    size = 2

    def __init__(self):
        self.told = []

    def broadcast_object(self, value):
        self.told.append(value)
        return value


class Rank1(SingleProcess):
    """Another rank; receives what rank 0 has sent."""

    rank, size = 1, 2

    def __init__(self, told):
        self.told = iter(told)

    def broadcast_object(self, value):
        assert value in (None, (None, None)), "only rank 0 reads"
        return next(self.told)


def test_rank_0_reads_and_the_others_hear(make_task, corpus):
    first = Rank0()
    task = make_task(processes=first, needs_evaluation=True)
    for file in corpus.rglob("*.txt"):
        file.unlink()
    other = make_task(processes=Rank1(first.told), needs_evaluation=True)
    assert other.training_set.utterances == task.training_set.utterances
    assert other.assets == task.assets
    assert other.report == task.report
    for ours, theirs in zip(task.model.weights, other.model.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_an_error_of_rank_0_ends_every_rank(make_task, corpus):
    for file in corpus.rglob("*.txt"):
        file.unlink()
    first = Rank0()
    with refused("no utterances") as caught:
        make_task(processes=first)
    assert caught.value in first.told[0]
    with pytest.raises(SystemExit, match="2"):  # one message is enough
        make_task(processes=Rank1(first.told))


def test_transcripts_with_too_many_labels_are_dropped_and_counted(make_task):
    task = make_task({"data.max_labels": 8})
    assert [u.transcript for u in task.training_set.utterances] == ["ONE", "NINE TWO", "SIX"]
    assert "2 skipped: too_many_labels" in task.report
    assert sum("too_many_labels" in line for line in task.skipped) == 2
    with refused("at most 2 labels"):
        make_task({"data.max_labels": 2})


def test_evaluation_scores_the_shares_of_all(make_task, corpus, monkeypatch):
    task = make_task()
    for number in (4, 3):  # the two longest, so that a batch has only dropped rows
        next(corpus.rglob(f"7-1-000{number}.flac")).write_bytes(b"fLaC")
    said = iter([b"SIX SEVEN", b"TWO THREE", b"ONE ONE"])

    def say(lengths):
        return np.array([next(said) if n > 0 else b"noise" for n in lengths], object)

    task.evaluate_splits(lambda _, lengths: tf.numpy_function(say, [lengths], tf.string))
    theirs = [("NINE", "NINE"), ("A B", "A")]
    monkeypatch.setattr(task.processes, "gather_objects", lambda heard: [heard, theirs])
    found = task.evaluators["eval"]()
    assert found["num_utterances"] == 5
    assert found["wer"] == pytest.approx(2 / 8)  # an insertion and a deletion


def test_no_sound_has_no_text(make_task):
    task = make_task()
    batch = [tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None], tf.int32)]
    real = tf.function(task.texts, input_signature=batch, autograph=False)
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


@pytest.mark.parametrize(
    ("cap", "frame_step_ms", "head", "kept"),
    [
        (1, 10.0, "transducer", [0, 2]),
        (2, 20.0, "transducer", [0, 2]),
        (2, 10.0, "transducer", [0, 1, 2, 3, 4]),
        (2, 10.0, "ctc", [0, 2]),
    ],
)
def test_a_transcript_must_fit_the_symbols_that_decoding_its_sound_can_give(
    make_task, tmp_path, rng, cap, frame_step_ms, head, kept
):
    """3200 samples are 5 encoded frames of 40 ms; with one sample less, 5 symbols do not fit."""
    sounds = [("ABCDE", 3200), ("ABCDEF", 3200), ("ABCDE", 3839), ("ABCDEF", 3839), ("FEDCB", 3199)]
    utterances = [(words, 0.1 * rng.normal(size=n)) for words, n in sounds]
    write_librispeech(tmp_path / "short" / "train", utterances)
    task = make_task(
        {
            "data.data_dir": str(tmp_path / "short"),
            "decoding.max_symbols_per_frame": cap,
            "decoding.head": head,
            "model.ctc_weight": 0.3,
            "features.frame_step_ms": frame_step_ms,
        }
    )
    found = [(u.transcript, u.num_samples) for u in task.training_set.utterances]
    assert found == [sounds[number] for number in kept]
    assert sum("too_many_labels" in line for line in task.skipped) == 5 - len(kept)


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_the_loss_mixes_transducer_and_ctc_by_the_weight_of_ctc(make_task, weight):
    task = make_task({"model.ctc_weight": weight})
    reference.randomize(task.model, np.random.default_rng(1))
    batch = batch_of(task, 5)
    sums = task.loss(batch, training=False)
    encoded, lengths = task.model.listen(batch["waveforms"], batch["lengths"])
    logits = task.model.align(encoded, batch["labels"]).numpy().astype("float64")
    weights = reference.weights_of(task.model)
    told_apart = 0
    for row, (frames, count) in enumerate(zip(lengths, batch["label_lengths"], strict=True)):
        labels = batch["labels"][row, :count].numpy()
        expected = reference.transducer_loss(logits[row, :frames, : count + 1], labels)
        if weight:
            head = reference.below(weights, "ctc_head")
            frame_logits = reference.dense(head, encoded[row, :frames].numpy().astype("float64"))
            aligned = reference.ctc_loss(frame_logits, labels)
            told_apart += np.isfinite(aligned) and abs(aligned - expected) > 1.0
            aligned = aligned if np.isfinite(aligned) else 0.0  # more labels than frames
            expected = weight * aligned + (1 - weight) * expected
        np.testing.assert_allclose(sums.examples[row], expected, rtol=1e-4)
    np.testing.assert_allclose(sums.loss_sum, np.sum(sums.examples), rtol=1e-6)
    assert not weight or told_apart > 1


def test_head_and_evaluation_set_are_there_only_where_they_are_needed(make_task):
    task = make_task({"data.eval_splits": ["nowhere"]})
    assert task.evaluators == {}
    assert task.model.ctc_head is None
    assert make_task({"model.ctc_weight": 0.1}).model.ctc_head is not None


def test_a_vocabulary_file_decides_the_symbols(make_task, tmp_path):
    path = tmp_path / "vocabulary.json"
    save_tokenizer(CharacterTokenizer("ZYXWVUTSRONIHGFE "), path)
    task = make_task({"tokenizer.vocabulary_file": str(path)})
    assert task.tokenizer.pieces[2:5] == ("Z", "Y", "X")
    assert task.vocabulary_size == task.model.vocabulary_size == 19
    batch = batch_of(task, 5)
    for index, labels in zip(batch["index"].numpy(), batch["labels"].numpy(), strict=True):
        words = WORDS[index]
        assert labels[: len(words)].tolist() == task.tokenizer.encode(words)
    assert task.assets["vocabulary.json"] == tokenizer_from_json(path.read_text()).to_json()
    with refused("nowhere.json"):
        make_task({"tokenizer.vocabulary_file": "nowhere.json"})


def test_a_vocabulary_of_subwords_gets_transcripts_in_its_case(make_task, tmp_path):
    path = tmp_path / "v.subwords"
    subwords = "'one'\n'two_'\n'three'\n'e'\n's'\n"
    path.write_text("### SubwordTextEncoder\n### Metadata: {}\n" + subwords)
    task = make_task({"tokenizer.vocabulary_file": str(path)}, needs_evaluation=True)
    assert task.vocabulary_size == task.model.vocabulary_size == 1 + 5 + 256
    assert [u.transcript for u in task.training_set.utterances] == [w.lower() for w in WORDS]
    batch = batch_of(task, 5)
    rows = dict(zip(batch["index"].numpy().tolist(), batch["labels"].numpy(), strict=True))
    assert rows[0].tolist()[:2] == [1, 0]
    assert rows[1].tolist()[:3] == [2, 3, 0]
    byte = {letter: 6 + ord(letter) for letter in "ix"}
    assert rows[4].tolist()[:4] == [5, byte["i"], byte["x"], 0]
    again = make_task(pretrained=save(task, tmp_path / "run"))
    assert again.assets["vocabulary.json"] == task.assets["vocabulary.json"]
    assert [u.transcript for u in again.training_set.utterances] == [w.lower() for w in WORDS]


def save(task, directory):
    """Saves the model of a task with weights that differ from initial ones."""
    reference.randomize(task.model, np.random.default_rng(6))
    groups = {"model": {v.path: v for v in task.model.weights}}
    store = CheckpointStore(directory)
    store.save({"step": 1, "metric": 0.5}, groups, task.assets)
    return store.latest()


def test_characters_that_a_vocabulary_file_lacks_are_told_or_refused(make_task, corpus, tmp_path):
    """The vocabulary of ONE TWO THREE NINE lacks S, X, V: unknown in three of five transcripts."""
    save_tokenizer(CharacterTokenizer(sorted(set("ONE TWO THREE"))), tmp_path / "v.json")
    overrides = {"tokenizer.vocabulary_file": str(tmp_path / "v.json")}
    lacks = "3 of 5 transcripts (60.0%) with characters that the vocabulary lacks: "
    with refused(f"{lacks}S (3), I (3), X (2), V (1)"):
        make_task(overrides)
    task = make_task({**overrides, "data.max_unknown_share": 0.6})
    assert any(line.startswith(lacks) for line in task.report)


def test_a_vocabulary_file_of_lower_case_is_refused_by_that_name(make_task, corpus, tmp_path):
    refusal = "Transcripts are converted to upper case, and this vocabulary has lower-case letters."
    for letters, has_lower_case in (("one two three six seven nine", True), ("QWZ", False)):
        save_tokenizer(CharacterTokenizer(sorted({*letters})), tmp_path / "v.json")
        with refused("Leave --pretrained and tokenizer.vocabulary_file out") as caught:
            make_task({"tokenizer.vocabulary_file": str(tmp_path / "v.json")})
        assert (refusal in str(caught.value)) == has_lower_case


def test_the_vocabulary_of_a_checkpoint_stays_in_force(make_task, corpus, tmp_path):
    other, same = tmp_path / "other.json", tmp_path / "same.json"
    save_tokenizer(CharacterTokenizer("ZYXWVUTSRONIHGFE "), other)
    trained = make_task({"tokenizer.vocabulary_file": str(other)})
    checkpoint = save(trained, tmp_path / "checkpoints")
    save_tokenizer(CharacterTokenizer("ZYXWVUTSRONIHGFE "), same)

    # Without a file, the transcripts would give another vocabulary.
    task = make_task(pretrained=checkpoint)
    assert task.assets["vocabulary.json"] == trained.assets["vocabulary.json"]
    for ours, theirs in zip(task.model.weights, trained.model.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)
    make_task({"tokenizer.vocabulary_file": str(same)}, pretrained=checkpoint)

    # As many symbols, so that only the symbols themselves differ.
    save_tokenizer(CharacterTokenizer("EFGHINORSTUVWXYZ "), other)
    for role in ("pretrained", "resumed"):
        with refused("Leave tokenizer.vocabulary_file out") as caught:
            make_task({"tokenizer.vocabulary_file": str(other)}, **{role: checkpoint})
        assert str(other) in str(caught.value)
        assert str(checkpoint.path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "part", "before", "now"),
    [
        ("model.ctc_weight", "ctc_head", 0.0, 0.3),
        ("model.ctc_weight", "ctc_head", 0.3, 0.0),
        ("model.ctc_weight", "ctc_head", 0.3, 0.3),
        ("loss.kind", "simple_joint", "fused", "pruned"),
        ("loss.kind", "simple_joint", "pruned", "plain"),
    ],
)
def test_a_pretrained_model_may_have_a_part_for_a_loss_or_none(
    make_task, tmp_path, key, part, before, now
):
    trained = make_task({key: before})
    checkpoint = save(trained, tmp_path / "checkpoints")
    initial = {v.path: v.numpy() for v in make_task({key: now}).model.weights}
    task = make_task({key: now}, pretrained=checkpoint)
    expected = initial | {v.path: v.numpy() for v in trained.model.weights}
    assert any(part in v.path for v in task.model.weights) == (now in (0.3, "pruned"))
    for variable in task.model.weights:
        np.testing.assert_array_equal(variable, expected[variable.path], err_msg=variable.path)


def test_a_run_that_continues_keeps_its_own_vocabulary(make_task, tmp_path):
    """The run may have started from a model with as many symbols, but other ones."""
    tasks = {}
    for name, characters in (("first", "ZYXWVUTSRONIHGFE "), ("run", "EFGHINORSTUVWXYZ ")):
        save_tokenizer(CharacterTokenizer(characters), tmp_path / f"{name}.json")
        tasks[name] = make_task({"tokenizer.vocabulary_file": str(tmp_path / f"{name}.json")})
    pretrained = save(tasks["first"], tmp_path / "first")
    resumed = save(tasks["run"], tmp_path / "run")
    task = make_task(pretrained=pretrained, resumed=resumed)
    assert task.assets["vocabulary.json"] == tasks["run"].assets["vocabulary.json"]


def test_sentencepiece_is_trained_on_the_transcripts_and_read_back(make_task):
    task = make_task(
        {
            "tokenizer.kind": "sentencepiece",
            "tokenizer.vocabulary_size": 18,
            "decoding.max_symbols_per_frame": 2,
        }
    )
    assert isinstance(task.tokenizer, SentencePieceTokenizer)
    assert task.vocabulary_size == task.model.vocabulary_size == 18
    batch = batch_of(task, 5)
    for row, index in enumerate(batch["index"].numpy()):
        labels = batch["labels"][row, : batch["label_lengths"][row]].numpy()
        assert min(labels) > 0
        assert task.tokenizer.decode(labels) == WORDS[index]
    assert np.all(np.isfinite(task.loss(batch, training=True).examples))
    # The checkpoint contains the same tokenizer, and recognition uses it.
    again = tokenizer_from_json(task.assets["vocabulary.json"])
    assert again.surfaces == task.tokenizer.surfaces
    reference.randomize(task.model, np.random.default_rng(2))
    batch = only(batch, [0, 1])
    heard = greedy(task.model, batch["waveforms"], batch["lengths"], DecodingConfig(2))
    assert np.any(heard.token_lengths)
    expected = [
        again.decode(ids[:n])
        for ids, n in zip(heard.token_ids.numpy(), heard.token_lengths.numpy(), strict=True)
    ]
    texts = task.texts(batch["waveforms"], batch["lengths"]).numpy()
    assert [text.decode() for text in texts] == expected


def test_long_sounds_are_left_out_of_training_and_evaluation_by_limits_of_their_own(make_task):
    task = make_task({"data.max_seconds": 0.31, "data.max_eval_seconds": 0.26})
    transcripts = [u.transcript for u in task.training_set.utterances]
    assert transcripts == WORDS[:3]  # 0.2, 0.25, 0.3 seconds
    task.evaluate_splits(lambda _, lengths: tf.fill(tf.shape(lengths), "ONE"))
    assert task.evaluators["eval"]()["num_utterances"] == 2
    assert ["too_long 2" in line for line in task.report] == [True, False]
    assert ["too_long 3" in line for line in task.report] == [False, True]


def test_the_training_rows_carry_the_numbers_that_spec_augment_needs(make_task):
    masks = {"spec_augment.num_time_masks": 3, "spec_augment.num_frequency_masks": 2}
    task = make_task(masks)
    batch = batch_of(task, 5)
    assert batch["uniforms"].shape == (5, 10)
    arguments = batch["waveforms"], batch["lengths"], batch["uniforms"]
    plain, _ = task.model.listen(*arguments[:2])
    for training in (False, True):
        encoded, _ = task.model.listen(*arguments, training)
        without, _ = task.model.listen(*arguments[:2], None, training)
        assert np.any(encoded != without) == training
        if not training:
            np.testing.assert_array_equal(encoded, plain)


# The tests of whole runs use the config `smoke`.
CONFIGS = ["conformer_l", "conformer_m", "conformer_s", "conformer_s_100h"]
CONFIGS += ["digits", "digits_rooms", "quickstart", "words"]


def test_silence_has_no_frames_whatever_the_padding_holds():
    waveforms = np.zeros((4, 10), "float32")
    waveforms[0, 6:] = np.nan
    waveforms[1, 5] = 1e-30
    waveforms[2, 6] = 1.0
    waveforms[3, 0] = -1.0
    frames = without_silence(
        tf.constant(waveforms), tf.constant([6, 6, 6, 10]), tf.constant([3, 4, 5, 6])
    )
    assert frames.numpy().tolist() == [0, 4, 0, 6]


def normalizations(task):
    layers = [block.convolution.normalization for block in task.model.encoder.blocks]
    assert len(layers) == 2
    return layers


def test_ranks_sum_the_moments_of_batch_norm_where_the_configuration_says_so(make_task):
    class Doubling(Rank0):
        def sum(self, tensors):
            return [2 * x for x in tensors]

    two_blocks = {"model.num_layers": 2}
    for wanted in (False, True):
        overrides = {**two_blocks, "training.synchronize_batch_norm": wanted}
        for layer in normalizations(make_task(overrides, processes=Doubling())):
            if wanted:
                assert layer.sum_over_ranks(tf.constant([1.0, 2.0])).numpy().tolist() == [2, 4]
            else:
                assert layer.sum_over_ranks is None
        for layer in normalizations(make_task(overrides)):
            assert layer.sum_over_ranks is None, "a single process has nothing to add"


def test_weights_follow_the_seed_and_layers_the_precision(make_task):
    def kernel(seed):
        task = make_task({"training.seed": seed, "training.precision": "mixed_bfloat16"})
        assert task.model.encoder.compute_dtype == "bfloat16"
        return task.model.joint.encoded_projection.kernel.numpy()

    first, again, other = kernel(3), kernel(3), kernel(4)
    np.testing.assert_array_equal(first, again)
    assert np.all(first != other)


def test_every_configuration_takes_a_step_somewhere(project):
    found = sorted(p.stem for p in (project / "configs/conformer").iterdir())
    assert found == sorted([*CONFIGS, "smoke"])


@pytest.fixture
def eagerly():
    """Runs eagerly, which takes half the time for a single step."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.filterwarnings("ignore:Even though the .tf.config.experimental_run_functions_eagerly")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_takes_a_step_at_tiny_size(
    name, project, tiny_sizes, tmp_path, rng, eagerly
):
    path = project / f"configs/conformer/{name}.yml"
    config = conformer.load_config(path)
    sounds = [0.1 * rng.normal(size=3200) for _ in WORDS]
    for split in {*config.data.train_splits, *config.data.eval_splits}:
        write_librispeech(tmp_path / "corpus" / split, zip(WORDS, sounds, strict=True))
    values = {**tiny_sizes, "model.num_layers": 1, "training.batch_size": 2}
    if config.tokenizer.kind == "sentencepiece":
        values["tokenizer.vocabulary_size"] = 18
    arguments = [f"--config={path}", f"--data_dir={tmp_path / 'corpus'}", "--steps=1"]
    arguments += [f"--set={key}={value}" for key, value in values.items()]
    assert main([*arguments, "--skip_eval", f"--output_dir={tmp_path / 'run'}"]) == 0
    (checkpoint,) = (tmp_path / "run/checkpoints").glob("step-*")
    again = conformer.load_config(checkpoint / "config.yml")
    assert again.features == config.features
    assert again.spec_augment == config.spec_augment


@pytest.mark.filterwarnings("ignore:Even though the .tf.config.experimental_run_functions_eagerly")
def test_an_update_from_two_batches_equals_one_from_both(make_task, eagerly):
    tasks = [make_task({"model.ctc_weight": 0.3}), make_task({"model.ctc_weight": 0.3})]
    check_parts(tasks, batch_of(tasks[0], 6), 2)


def test_the_pruned_loss_is_the_weighted_sum_of_both(make_task):
    """With all states, and two losses of the same joint network."""
    pruned = {"loss.kind": "pruned", "loss.pruning.s_range": 10, "loss.pruning.warmup_steps": 10}
    task, plain = make_task(pruned), make_task()
    batch = {**batch_of(task, 5), "num_updates": tf.constant(0, tf.int64)}
    first, last = (
        task.loss({**batch, "num_updates": tf.constant(n, tf.int64)}, training=False).examples
        for n in (0, 10)
    )
    exact = plain.loss(batch, training=False).examples
    simple = (last - exact) / 0.5
    assert np.all(simple > 0)
    np.testing.assert_allclose(first, simple + 0.1 * exact, rtol=1e-4)
    variables = task.model.trainable_variables
    with tf.GradientTape() as tape:
        loss = task.loss(batch, training=True).loss_sum
    for variable, gradient in zip(
        variables, tape.gradient(loss, [v.value for v in variables]), strict=True
    ):
        assert gradient is not None, variable.path


def test_transcripts_that_do_not_fit_the_pruned_loss(make_task, monkeypatch):
    longest = max(map(len, WORDS))
    with refused(f"loss.pruning.s_range up to {longest + 1}"):
        make_task({"loss.kind": "pruned", "loss.pruning.s_range": longest + 2})
    few = {"loss.kind": "pruned", "loss.pruning.s_range": 2, "features.frame_step_ms": 25}
    task = make_task(few)
    kept = task.training_set.utterances
    for utterance in kept:
        assert len(utterance.transcript) <= utterance.num_samples / 16 / 100
    assert len(kept) < len(WORDS)
    assert any("too_many_labels" in line for line in task.skipped)
    with refused("at most 1 labels per encoder frame, which loss.pruning.s_range 2 allows"):
        make_task(few | {"features.frame_length_ms": 600, "features.frame_step_ms": 500,
                         "features.fft_length": 16384})  # fmt: skip


def test_rematerialized_blocks_have_the_same_gradients(make_task):
    tasks = [make_task({"model.dropout_rate": 0.2}) for _ in range(2)]
    check_rematerialized(tasks, batch_of(tasks[0], 5))
