"""Tests fine-tuning: weights of rows, frozen variables, vocabularies, and overfitting."""

import dataclasses
import itertools
import json
from itertools import groupby

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import wav2vec2
from tests.support.accumulation import check_parts, check_rematerialized
from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.inference.runner import load
from tools.speech.synthesis import synthesize
from tools.training.distributed import SingleProcess
from tools.training.task import Position, Shard
from wav2vec2.export import main as export
from wav2vec2.input_pipeline import label_lookup, label_pieces
from wav2vec2.task import Wav2Vec2Task
from wav2vec2.train import main
from wav2vec2.vocabulary import Vocabulary, vocabulary_of_letters
from wav2vec2.vocabulary_files import save_vocabulary

WORDS = ["ABBA", "BAD CAB", "FEE", "DEAD BED"]
SHORT_WORDS = "ONE TWO SIX NO YES UP TEN MAN EGG ZOO".split()
STILL = {
    f"model.{name}_rate": "0"
    for name in "feature_dropout dropout attention_dropout activation_dropout head_dropout "
    "layer_drop".split()
}


@pytest.fixture
def corpus(tmp_path, rng):
    """Writes four utterances of noise, the same for training and evaluation."""
    sounds = [(words, 0.1 * rng.normal(size=9000 + 2000 * len(words))) for words in WORDS]
    write_librispeech(tmp_path / "corpus" / "train", sounds)
    return tmp_path / "corpus"


def config_of(project, corpus, overrides):
    common = {
        "data.data_dir": str(corpus),
        "data.train_splits": "train",
        "data.eval_splits": "train",
        "data.num_buckets": "1",
        "training.batch_size": "4",
    }
    return wav2vec2.load_config(project / "configs/wav2vec2/smoke.yml", common | overrides)


@pytest.fixture
def make_task(project, corpus):
    def make(pretrained="", **overrides):
        overrides = {key.replace("__", "."): value for key, value in overrides.items()}
        config = config_of(project, corpus, STILL | overrides)
        return Wav2Vec2Task(config, SingleProcess(), str(pretrained), needs_evaluation=False)

    return make


def batch_of(task, batch_size=4):
    return next(iter(task.train_data(Shard(0, 1, batch_size), Position(), 1).dataset))


def labels_of(path, blank):
    """Returns the labels of a path, by definition."""
    return [symbol for symbol, _ in groupby(path) if symbol != blank]


def enumerated_loss(logits, labels, blank):
    """Returns -log of the sum of the probabilities of all paths that give the labels."""
    logits = np.asarray(logits, "float64")
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    frames, symbols = logits.shape
    total = sum(
        np.exp(log_probabilities[np.arange(frames), path].sum())
        for path in itertools.product(range(symbols), repeat=frames)
        if labels_of(path, blank) == list(labels)
    )
    return -np.log(total)


def ragged_batch(rng, uniforms=None):
    """Rows with 4, 3, too few and no frames, with garbage in the padding."""
    lengths = np.array([400 + 3 * 320, 400 + 2 * 320 + 319, 400 + 320, 0])
    waveforms = rng.standard_normal((4, lengths.max())).astype("float32") + 0.3
    for row, length in zip(waveforms, lengths, strict=True):
        row[length:] = 1e4
    return {
        "waveforms": tf.constant(waveforms),
        "lengths": tf.constant(lengths, tf.int32),
        "labels": tf.constant([[0, 0, 1], [2, 1, 4], [0, 0, 1], [0, 0, 0]]),
        "label_lengths": tf.constant([3, 2, 2, 0]),
        "index": tf.constant([1, 0, 3, 2], tf.int64),
        "uniforms": tf.zeros((4, 30)) if uniforms is None else uniforms,
    }


BLANK = 6


@pytest.fixture
def blank_last(tmp_path, vocabulary):
    """Returns the setting for a vocabulary whose blank is not the first symbol."""
    tokens = (*"ABCDEF", "<pad>", "|")
    save_vocabulary(type(vocabulary)(tokens), tmp_path / "symbols")
    return {"vocabulary__folder": str(tmp_path / "symbols")}


def test_the_loss_is_that_of_all_paths_with_the_blank_of_the_vocabulary(make_task, blank_last, rng):
    rates = {f"model__{x.removeprefix('model.')}": "0.4" for x in STILL}
    task = make_task(**blank_last, **rates, model__time_mask_rate="0.5")
    assert task.vocabulary.blank_id == BLANK
    task.model.head.kernel.assign(rng.standard_normal((32, 8)))
    task.model.head.bias.assign(rng.standard_normal(8))
    batch = ragged_batch(rng)
    sums = task.loss(batch, training=False)
    for row, labels in enumerate(([0, 0, 1], [2, 1])):
        sound = batch["waveforms"].numpy()[row, : int(batch["lengths"][row])]
        x = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
        wanted = enumerated_loss(task.model(x[None])[0], labels, BLANK)
        assert float(sums.examples[row]) == pytest.approx(wanted, rel=1e-4)
    assert sums.examples.numpy()[2:].tolist() == [0, 0]
    assert float(sums.loss_sum) == pytest.approx(float(sums.examples[0] + sums.examples[1]))
    assert float(sums.weight) == 2
    # The sums over rows: 3 + 2 + 2 labels, a row without sound, a row with too little.
    told = {name: float(value) for name, value in sums.metrics.items()}
    assert told == {"labels_per_utterance": 7, "dropped_share": 1, "too_short_share": 1}


def test_training_lays_the_masks_of_the_uniforms_and_drops(make_task, blank_last, rng):
    masks = {"model__time_mask_rate": "0.9", "model__time_mask_frames": "1"}
    task = make_task(**blank_last, **masks)
    uniforms = [rng.uniform(size=(4, 30)).astype("float32") for _ in range(2)]
    batches = [ragged_batch(np.random.default_rng(1), x) for x in uniforms]
    first, second = (task.loss(x, training=True).examples.numpy() for x in batches)
    assert np.any(np.abs(first[:2] - second[:2]) > 1e-3)
    np.testing.assert_array_equal(task.loss(batches[0], training=True).examples, first)
    still = [task.loss(x, training=False).examples.numpy() for x in batches]
    np.testing.assert_array_equal(*still)
    dropped = make_task(**blank_last, model__time_mask_rate="0", model__head_dropout_rate="0.5")
    losses = {float(dropped.loss(batches[0], training=True).loss_sum) for _ in range(3)}
    assert len(losses) == 3


def test_sound_that_is_not_to_be_normalized_is_learnt_from_as_it_is(make_task, blank_last, rng):
    task = make_task(**blank_last, preprocessing__normalize="false")
    batch = ragged_batch(rng)
    sums = task.loss(batch, training=False)
    sound = batch["waveforms"].numpy()[:1, : int(batch["lengths"][0])]
    wanted = enumerated_loss(task.model(sound)[0], [0, 0, 1], BLANK)
    assert float(sums.examples[0]) == pytest.approx(wanted, rel=1e-4)


def test_evaluation_and_examples_write_with_the_blank_of_the_vocabulary(make_task, blank_last, rng):
    task = make_task(**blank_last)
    task.model.head.kernel.assign(3 * rng.standard_normal((32, 8)))
    batch = ragged_batch(rng)
    logits = np.asarray(task.example_logits(batch))
    texts = task.texts(batch["waveforms"], batch["lengths"]).numpy()
    for row, (frames, text) in enumerate(zip((4, 3, 2, 0), texts, strict=True)):
        path = logits[row, :frames].argmax(-1)
        letters = "".join("ABCDEF?|"[x] for x in labels_of(path, BLANK))
        assert text.decode() == letters.replace("|", " ").strip()
    assert any(texts)


def test_every_row_of_every_epoch_has_uniforms_of_its_own(make_task):
    task = make_task(data__max_seconds="3")
    data = [list(task.train_data(Shard(0, 1, 4), Position(), 2).dataset) for _ in range(2)]
    drawn = {}
    for number, batch in enumerate(data[0]):
        rows = zip(batch["index"].numpy(), batch["uniforms"].numpy(), strict=True)
        drawn |= {(number, int(index)): tuple(x) for index, x in rows}
    assert len(drawn) == len(set(drawn.values())) == 2 * 4
    assert all(0 <= min(x) <= max(x) < 1 for x in drawn.values())
    for one, other in zip(*data, strict=True):
        np.testing.assert_array_equal(one["uniforms"], other["uniforms"])
    # 149 frames: two to round by, and two masks of time, the fewest.
    assert {len(x) for x in drawn.values()} == {2 + 2}


def test_waveforms_change_as_configured_and_their_masks_cover_what_is_added(make_task):
    rooms = {"silence_probability": "1", "max_silence_seconds": "2", "empty_share": "0.4"}
    masks = {"model__time_mask_rate": "0.9", "model__time_mask_frames": "1"}
    rooms = {f"waveform_augment__{key}": value for key, value in rooms.items()}
    task, plain = (make_task(data__max_seconds="3", **masks, **more) for more in (rooms, {}))
    found = [
        {
            (number, int(index)): (int(samples), int(labels), len(uniforms))
            for number, batch in enumerate(one.train_data(Shard(0, 1, 4), Position(), 4).dataset)
            for index, samples, labels, uniforms in zip(
                *(batch[x].numpy() for x in ("index", "lengths", "label_lengths", "uniforms")),
                strict=True,
            )
        }
        for one in (task, plain)
    ]
    added = {key: found[0][key][0] - found[1][key][0] for key in found[1]}
    assert min(added.values()) >= 0
    assert max(added.values()) > 1600
    silent = [key for key in found[1] if found[0][key][1] == 0]
    assert 0 < len(silent) < len(found[1])
    # 349 frames for 7 s, 149 frames for 3 s.
    assert {x[2] for x in found[0].values()} == {task.model.num_uniforms(7 * 16000)}
    assert task.model.num_uniforms(7 * 16000) > task.model.num_uniforms(3 * 16000)


def test_the_seed_of_the_run_is_that_of_the_initial_weights(make_task):
    one, same, other = (make_task(training__seed=x) for x in ("5", "5", "6"))
    pairs = list(zip(one.model.weights, same.model.weights, strict=True))
    assert all(np.array_equal(x, y) for x, y in pairs)
    assert not np.array_equal(one.model.head.kernel, other.model.head.kernel)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("mixed_float16", 0.01), ("mixed_bfloat16", 0.08)]
)
def test_losses_and_gradients_of_half_precision_are_near_those_of_float32(
    make_task, blank_last, precision, tolerance, rng
):
    tasks = [make_task(**blank_last, training__precision=x) for x in ("float32", precision)]
    assert [task.model.compute_dtype for task in tasks] == ["float32", precision[6:]]
    batch, found = ragged_batch(rng, tf.random.stateless_uniform((4, 30), [1, 2])), []
    for task in tasks:
        task.model.head.kernel.assign(np.random.default_rng(3).standard_normal((32, 8)))
        values = [v.value for v in task.model.trainable_variables]
        with tf.GradientTape() as tape:
            loss = task.loss(batch, training=True).loss_sum
        gradients = tape.gradient(loss, values)
        flat = np.concatenate([np.ravel(x) for x in gradients if x is not None])
        found.append((float(loss), flat))
    (wanted, whole), (loss, flat) = found
    assert 0 < abs(loss - wanted) < tolerance * wanted
    assert 0 < np.linalg.norm(flat - whole) < 3 * tolerance * np.linalg.norm(whole)


def test_a_row_without_sound_weighs_nothing_and_padding_changes_nothing(make_task, corpus):
    task = make_task()
    next(corpus.rglob("7-1-0003.flac")).write_bytes(b"fLaC")
    batch = batch_of(task, 6)
    sums = task.loss(batch, training=True)
    index = batch["index"].numpy()
    heard = np.flatnonzero((index >= 0) & (index != 3))
    assert len(heard) == float(sums.weight) == 3
    assert float(sums.metrics["dropped_share"]) == 1
    np.testing.assert_array_equal(np.delete(sums.examples.numpy(), heard), 0)
    for row in heard:
        length, count = int(batch["lengths"][row]), int(batch["label_lengths"][row])
        alone = {name: value[row : row + 1] for name, value in batch.items()}
        alone["waveforms"] = alone["waveforms"][:, :length]
        alone["labels"] = alone["labels"][:, :count]
        assert task.vocabulary.decode(alone["labels"].numpy()[0]) == WORDS[index[row]]
        expected = task.loss(alone, training=True).loss_sum
        assert float(expected) > 1
        np.testing.assert_allclose(sums.examples[row], expected, rtol=1e-4)
    garbage = np.where(
        np.arange(batch["waveforms"].shape[1]) < batch["lengths"].numpy()[:, None],
        batch["waveforms"],
        1e4,
    )
    found = task.loss({**batch, "waveforms": tf.constant(garbage, tf.float32)}, training=True)
    np.testing.assert_allclose(found.loss_sum, sums.loss_sum, rtol=1e-4)


def test_a_sound_that_became_too_short_weighs_nothing(make_task):
    task = make_task()
    batch = batch_of(task)
    short = tf.where(batch["index"] == 1, 1000, batch["lengths"])
    sums = task.loss({**batch, "lengths": short}, training=False)
    assert float(sums.weight) == 3
    assert float(sums.metrics["too_short_share"]) == 1
    assert sums.examples.numpy()[batch["index"].numpy() == 1] == 0


def test_transcripts_too_long_for_their_sound_are_left_out_and_said(make_task, corpus, rng):
    # 20 frames, one for each letter, and one more for the blank between the equal ones.
    path = next(corpus.rglob("7-1-0000.flac"))
    soundfile.write(path, 0.1 * rng.normal(size=400 + 19 * 320), 16000, subtype="PCM_16")
    transcript = next(corpus.rglob("*.txt"))
    lines = transcript.read_text()
    transcript.write_text(lines.replace("ABBA", "ABACADABACADABACADAB"))
    assert len(make_task().training_set.utterances) == 4
    faster = make_task(waveform_augment__max_speed_change="0.1")
    assert len(faster.training_set.utterances) == 3, "at its fastest it has 18 frames"
    transcript.write_text(lines.replace("ABBA", "AABCADABACADABACADAB"))
    task = make_task()
    assert len(task.training_set.utterances) == 3
    assert "1 skipped: too_few_frames" in task.report
    assert any(x.startswith("too_few_frames\t") and "21 of at most 20" in x for x in task.skipped)


def test_each_sound_is_judged_by_its_own_frames_where_others_have_too_many_labels(
    make_task, tmp_path, rng
):
    frames = {"ABABABABA": 60, "ABAB": 4, "AABB": 5, "AB": 60}
    sounds = [(text, 0.1 * rng.normal(size=400 + 320 * (n - 1))) for text, n in frames.items()]
    write_librispeech(tmp_path / "other" / "train", sounds)
    limits = {"data__max_labels": "8", "data__min_seconds": "0.01"}
    task = make_task(data__data_dir=str(tmp_path / "other"), **limits)
    assert {u.transcript for u in task.training_set.utterances} == {"ABAB", "AB"}
    told = [x.rsplit(": ", 1)[1] for x in task.skipped]
    assert told == ["9 of at most 8", "6 of at most 5"]


def test_every_variable_that_trains_has_a_gradient(make_task):
    task = make_task(model__feature_mask_rate="0.1", model__time_mask_rate="0.3")
    batch, variables = batch_of(task), task.model.trainable_variables

    with tf.GradientTape() as tape:
        loss = task.loss(batch, training=True).loss_sum
    gradients = tape.gradient(loss, [v.value for v in variables])
    found = {v.path: x.numpy() for v, x in zip(variables, gradients, strict=True)}
    assert all(np.all(np.isfinite(x)) for x in found.values())
    # Softmax is invariant to a constant that is added to all scores of a query.
    still = {path for path, x in found.items() if not np.any(x)}
    assert all(path.endswith("key/bias") for path in still)
    assert any(path.endswith("masking/embedding") for path in found)


def test_layers_are_counted_from_the_sound_to_the_text(make_task):
    task = make_task(model__pre_norm="true")
    depth = {v.path.split("/", 1)[1]: task.layer_depth(v.path) for v in task.model.weights}
    assert depth["feature_encoder/block_1/kernel"] == depth["encoder/position/gain"] == 0
    assert depth["encoder/block_0/attention/query/kernel"] == 1
    assert depth["encoder/block_1/attention/query/kernel"] == 2
    assert depth["encoder/norm/gamma"] == depth["head/kernel"] == 3
    # With post-norm, the norm of the encoder is before the layers.
    task = make_task(model__pre_norm="false")
    assert task.layer_depth("wav2vec2/encoder/norm/gamma") == 0
    assert task.layer_depth("wav2vec2/head/bias") == 3
    assert task.layer_depth("wav2vec2/encoder/block_11/attention_norm/gamma") == 12


@pytest.fixture
def run(project, corpus, tmp_path):
    """Trains through the program; returns the weights of its newest checkpoint."""

    def train(name, *arguments, data=corpus):
        place = tmp_path / name
        common = [f"--data_dir={data}"]
        if not any(argument.startswith("--config=") for argument in arguments):
            common.append(f"--config={project / 'configs/wav2vec2/smoke.yml'}")
        splits = ["--set=data.train_splits=train", "--set=data.eval_splits=train"]
        assert main([*common, *splits, f"--output_dir={place}", *arguments]) == 0
        newest = max((place / "checkpoints").glob("step-*"))
        with np.load(newest / "arrays.npz") as file:
            return dict(file)

    return train


def test_resumed_equals_uninterrupted_and_the_convolutions_stay(run, folders, tmp_path, make_task):
    # With a small epsilon, Adam amplifies gradients that are only rounding errors.
    arguments = ["--skip_eval", "--epochs=2", "--set=training.optimizer.epsilon=1e-4"]
    pretrained = f"--pretrained={folders / 'group'}"
    whole = run("whole", *arguments, pretrained)
    first = run("parts", *arguments, pretrained, "--steps=1")
    parts = run("parts", *arguments, "--resume")
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, atol=1e-5, err_msg=name)
    changed = {name for name in first if not np.allclose(first[name], parts[name], atol=1e-5)}
    assert {"model/wav2vec2/head/kernel", "model/wav2vec2/masking/embedding"} <= changed
    assert not any("feature_encoder" in name for name in changed)
    # Another run starts from this one, with a head for its own letters or with the same.
    trained = wav2vec2.from_checkpoint(tmp_path / "whole")
    trained = {v.path: np.asarray(v) for v in trained.weights}
    for source, symbols in (("letters", 9), ("pretrained", 12)):
        task = make_task(tmp_path / "whole", vocabulary__source=source)
        weights = {v.path: np.asarray(v) for v in task.model.weights}
        same = {path for path, x in weights.items() if np.array_equal(x, trained[path])}
        new = {"wav2vec2/head/kernel", "wav2vec2/head/bias"} if symbols == 9 else set()
        assert weights.keys() - same == new
        assert weights["wav2vec2/head/bias"].shape == (symbols,)
    # A vocabulary of another size is refused in all uses of the checkpoint.
    newest = max((tmp_path / "whole" / "checkpoints").glob("step-*"))
    save_vocabulary(vocabulary_of_letters(["XYZ"]), newest)
    with refused(match=r"Expected 12 symbols in .*vocab\.json.* Received: 6\."):
        export([f"--checkpoint={tmp_path / 'whole'}", f"--output_dir={tmp_path / 'export'}"])
    # A resumed run uses its own vocabulary instead of the letters of the corpus.
    assert len(json.loads((tmp_path / "parts" / "vocab.json").read_text())) == 12
    save_vocabulary(vocabulary_of_letters(["XYZ"]), tmp_path)
    with refused("12 symbols"):
        run("parts", "--resume", f"--set=vocabulary.folder={tmp_path}")
    # Sizes and preprocessing come from the checkpoint; other values are refused.
    for setting, message in (
        ("model.num_layers=5", "Expected model.num_layers 2, as in the run of"),
        ("preprocessing.normalize=false", "Expected preprocessing.normalize True, as in the run"),
    ):
        with refused(message):
            run("parts", "--resume", f"--set={setting}")


def test_learns_ten_utterances_by_heart_and_exports_them(run, project, tmp_path, capsys):
    """Short words spoken fast, layer norm and four convolutions require the fewest steps."""
    sounds = {x: synthesize(x, rate_words_per_minute=250) for x in SHORT_WORDS}
    assert len(sounds) == 10
    write_librispeech(tmp_path / "spoken" / "train", sounds.items())
    settings = {
        **STILL,
        "model.time_mask_rate": "0",
        "model.feature_norm": "layer",
        "model.pre_norm": "true",
        "model.feature_filters": "32,32,32,32",
        "model.feature_kernel_sizes": "10,8,4,4",
        "model.feature_strides": "5,4,4,4",
        "training.freeze": "",
        "training.eval_every_epochs": "1000",
        "training.log_every_steps": "50",
        "training.schedule.name": "cosine",
        "training.schedule.peak": "6e-3",
        "training.schedule.warmup_steps": "10",
        "data.num_buckets": "1",
        "data.eval_batch_size": "10",
    }
    settings = [f"--set={key}={value}" for key, value in settings.items()]
    run("run", *settings, "--epochs=180", "--batch_size=10", data=tmp_path / "spoken")
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (results["eval/wer"], results["eval/num_utterances"]) == (0, 10)
    export([f"--checkpoint={tmp_path / 'run'}", f"--output_dir={tmp_path / 'export'}"])
    runner = load(tmp_path / "export")
    model = wav2vec2.from_checkpoint(tmp_path / "run")
    for word in ("EGG", "MAN"):
        sound = sounds[word]
        inputs = {"waveforms": sound[None], "lengths": np.array([len(sound)], np.int32)}
        logits = runner.run(inputs)["logits"][0]
        assert model.vocabulary.decode_path(logits.argmax(axis=-1)) == word


def test_a_folder_brings_sizes_weights_and_vocabulary(make_task, folders):
    task = make_task(folders / "layer")
    model = wav2vec2.from_pretrained(folders / "layer")
    assert task.vocabulary == model.vocabulary
    assert task.config.model.pre_norm and task.config.model.layer_drop_rate == 0
    for ours, theirs in zip(task.model.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_another_vocabulary_gets_a_new_head(make_task, folders):
    task = make_task(folders / "group", vocabulary__source="letters")
    assert task.vocabulary == vocabulary_of_letters(WORDS)
    assert task.vocabulary.tokens == ("<pad>", "<unk>", "|", *"ABCDEF")
    assert any("new head of 9 symbols" in line for line in task.report)
    model = wav2vec2.from_pretrained(folders / "group")
    assert task.model.head.kernel.shape == (32, 9)
    for ours, theirs in zip(task.model.encoder.weights, model.encoder.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_another_vocabulary_of_the_same_size_gets_a_new_head_too(
    make_task, folders, vocabulary, tmp_path
):
    tokens = list(vocabulary.tokens)
    for name, order in {"same": tokens, "other": [*tokens[:-2], *tokens[:-3:-1]]}.items():
        save_vocabulary(type(vocabulary)(order), tmp_path / name)
    model = wav2vec2.from_pretrained(folders / "group")
    same, other = (
        make_task(folders / "group", vocabulary__folder=str(tmp_path / name))
        for name in ("same", "other")
    )
    np.testing.assert_array_equal(same.model.head.kernel, model.head.kernel)
    assert not any("new head" in line for line in same.report)
    assert np.abs(np.asarray(other.model.head.kernel)).max() < 0.2 < model.head.kernel.numpy().max()
    assert any("new head of 12 symbols" in line for line in other.report)


def test_transcripts_with_more_labels_than_allowed_are_left_out(make_task):
    task = make_task(data__max_labels="7")
    assert [u.transcript for u in task.training_set.utterances] == ["ABBA", "BAD CAB", "FEE"]
    assert any("8 of at most 7" in line for line in task.skipped)
    assert len(make_task(data__max_labels="8").training_set.utterances) == 4


def test_characters_beyond_the_vocabulary_are_told_or_refused(make_task, corpus, folders):
    transcript = next(corpus.rglob("*.txt"))
    lines = transcript.read_text()
    transcript.write_text(lines.replace("FEE", "ZO\u00c9"))
    task = make_task(folders / "group")
    lacks = "1 of 4 transcripts (25.0%) with characters that the vocabulary lacks: Z (1), O (1), "
    assert f"{lacks}\u00c9 (1)" in task.report
    batch = batch_of(task)
    (row,) = np.flatnonzero(batch["label_lengths"] == 3)
    labels = batch["labels"][row, :3]
    assert labels.numpy().tolist() == [task.vocabulary.unknown_id] * 3
    transcript.write_text(lines.translate(str.maketrans("ABCDEF", "ЖЩЮЯЭЫ")))
    with refused("4 of 4 transcripts (100.0%)"):
        make_task(folders / "group")
    assert make_task(folders / "group", data__max_unknown_share="1").report
    with refused("data.max_unknown_share at least 0"):
        make_task(data__max_unknown_share="1.1")


def test_without_an_unknown_symbol_no_character_may_be_unknown(make_task, blank_last, corpus):
    transcript = next(corpus.rglob("*.txt"))
    transcript.write_text(transcript.read_text().replace("FEE", "GEE"))
    with refused("vocabulary lacks: G (1)"):
        make_task(**blank_last)


def test_labels_in_the_graph_are_those_of_the_vocabulary():
    symbols = ("<pad>", "|", "<unk>", *"abt", "t\u0283", "\u0301", "t\u0283ab", "(", "\\", "-")
    for phones in (False, True):
        vocabulary = Vocabulary(symbols, phones=phones)
        texts = ["t\u0283a tt\u0283 \u00e1b", "(b\\ -\u0416\n)", "", "t\u0283abt\u0283", "\u00e9a"]
        texts = [vocabulary.normalize(x) for x in texts]
        encode = label_lookup(label_pieces(vocabulary, texts))
        found = tf.function(encode)(tf.constant(texts)).to_list()
        assert found == [vocabulary.ids(x) for x in texts]


def test_transcripts_take_the_case_of_the_vocabulary(make_task, folders, tmp_path, vocabulary):
    lower = type(vocabulary)([x.lower() for x in vocabulary.tokens])
    save_vocabulary(lower, tmp_path)
    task = make_task(folders / "group", vocabulary__folder=str(tmp_path))
    assert [u.transcript for u in task.training_set.utterances] == [x.lower() for x in WORDS]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pretrained=/nowhere"], "/nowhere"),
        (["--set=vocabulary.folder=/nowhere"], "/nowhere"),
        (["--set=vocabulary.source=words"], "vocabulary.source"),
        (["--set=training.freeze=feature_encodr"], "feature_encodr"),
        (["--set=data.max_labels=2"], "at most 2 labels"),
        (["stray"], "stray"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, arguments, message):
    with refused(message):
        run("run", *arguments)


def test_dry_run_prints_what_would_happen(project, corpus, tmp_path, capsys):
    config = f"--config={project / 'configs/wav2vec2/smoke.yml'}"
    main([config, f"--data_dir={corpus}", "--dry_run", "--set=data.train_splits=train",
          "--set=data.eval_splits=train"])  # fmt: skip
    printed = capsys.readouterr().out
    for expected in ("logits: (2, ", "vocabulary: 9", "steps per epoch: 2", "feature_encoder"):
        assert expected in printed


def test_recipes_are_read(project):
    for path in (project / "configs/wav2vec2").glob("*.yml"):
        # Only training from initial weights trains the convolutions.
        starts_anew = wav2vec2.load_config(path).vocabulary.source == "letters"
        frozen = () if starts_anew else ("feature_encoder",)
        assert wav2vec2.load_config(path).training.freeze == frozen, path
    assert dataclasses.asdict(wav2vec2.load_config().training)["freeze"] == ("feature_encoder",)


SMALL = {
    "feature_filters": ",".join(["8"] * 7),
    "num_layers": "1",
    "hidden_dim": "64",
    "num_heads": "2",
    "feedforward_dim": "16",
    "position_kernel_size": "4",
    "position_groups": "2",
}


@pytest.mark.parametrize("name", ["base_100h", "digits"])  # other tests train with smoke
def test_every_recipe_takes_a_step(run, project, name):
    names = {path.stem for path in (project / "configs/wav2vec2").glob("*.yml")}
    assert names == {"base_100h", "digits", "smoke"}
    sizes = [f"--set=model.{key}={value}" for key, value in SMALL.items()]
    config = f"--config={project / f'configs/wav2vec2/{name}.yml'}"
    found = run("run", config, *sizes, "--steps=1", "--batch_size=4", "--skip_eval")
    assert all(np.all(np.isfinite(x)) for x in found.values())
    # Biases are zero until a step has been taken.
    assert np.any(found["model/wav2vec2/head/bias"])
    bias = "model/wav2vec2/feature_encoder/block_0/"
    bias += "bias" if name == "digits" else "beta"
    assert np.any(found[bias]) == (name == "digits")


def test_an_update_from_two_batches_equals_one_from_both(make_task):
    tasks = [make_task(), make_task()]
    check_parts(tasks, batch_of(tasks[0]), 2)


def test_rematerialized_blocks_have_the_same_gradients(make_task):
    tasks = [make_task(model__dropout_rate="0.2") for _ in range(2)]
    check_rematerialized(tasks, batch_of(tasks[0]))
