"""Fine-tuning: what a row weighs, what moves, whose vocabulary it is, and learning by heart."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import wav2vec2
from tools.errors import UserError
from tools.inference.runner import load
from tools.speech.synthesis import synthesize
from tools.training.distributed import SingleProcess
from tools.training.task import Position, Shard
from wav2vec2.export import main as export
from wav2vec2.task import Wav2Vec2Task
from wav2vec2.train import main
from wav2vec2.vocabulary import vocabulary_of_letters

WORDS = ["ABBA", "BAD CAB", "FEE", "DEAD BED"]
SHORT_WORDS = "ONE TWO SIX NO YES GO UP ON OFF LOW SEE BY TEN ALL MAN ICE KEY ODD EGG ZOO".split()
STILL = {
    f"model.{name}_rate": "0"
    for name in "dropout attention_dropout activation_dropout head_dropout layer_drop".split()
}


@pytest.fixture
def corpus(tmp_path, rng):
    """Four utterances of noise, the same for training and evaluation."""
    write(tmp_path / "corpus", {w: 0.1 * rng.normal(size=9000 + 2000 * len(w)) for w in WORDS})
    return tmp_path / "corpus"


def write(root, sounds):
    """Writes a split `train`."""
    chapter = root / "train" / "7" / "1"
    chapter.mkdir(parents=True)
    lines = []
    for number, (words, sound) in enumerate(sounds.items()):
        soundfile.write(chapter / f"7-1-{number:04d}.flac", sound, 16000, subtype="PCM_16")
        lines.append(f"7-1-{number:04d} {words}\n")
    (chapter / "7-1.trans.txt").write_text("".join(lines))


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
    assert len(make_task().utterances) == 4
    transcript.write_text(lines.replace("ABBA", "AABCADABACADABACADAB"))
    task = make_task()
    assert len(task.utterances) == 3
    assert "1 skipped: too_few_frames" in task.report
    assert any(x.startswith("too_few_frames\t") and "21 of at most 20" in x for x in task.skipped)


def test_every_variable_that_trains_has_a_gradient(make_task):
    task = make_task(model__feature_mask_rate="0.1", model__time_mask_rate="0.3")
    batch, variables = batch_of(task), task.model.trainable_variables

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = task.loss(batch, training=True).loss_sum
        return tape.gradient(loss, [v.value for v in variables])

    found = {v.path: x.numpy() for v, x in zip(variables, gradients(), strict=True)}
    assert all(np.all(np.isfinite(x)) for x in found.values())
    # Softmax does not see what is added to all scores of a query.
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


@pytest.fixture
def run(project, corpus, tmp_path):
    """Trains through the program; returns the weights of its newest checkpoint."""

    def train(name, *arguments, data=corpus):
        place = tmp_path / name
        common = [f"--config={project / 'configs/wav2vec2/smoke.yml'}", f"--data_dir={data}"]
        splits = ["--set=data.train_splits=train", "--set=data.eval_splits=train"]
        assert main([*common, *splits, f"--output_dir={place}", *arguments]) == 0
        newest = max((place / "checkpoints").glob("step-*"))
        with np.load(newest / "arrays.npz") as file:
            return dict(file)

    return train


def test_resumed_equals_uninterrupted_and_the_convolutions_stay(run, folders, tmp_path):
    # Adam without a floor makes much of gradients that are nothing but rounding.
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
    # A vocabulary of another size is refused, wherever the checkpoint goes.
    newest = max((tmp_path / "whole" / "checkpoints").glob("step-*"))
    wav2vec2.vocabulary.save_vocabulary(vocabulary_of_letters(["XYZ"]), newest)
    with pytest.raises(UserError, match=r"Expected 12 symbols in .*vocab\.json.* Received: 6\."):
        export([f"--checkpoint={tmp_path / 'whole'}", f"--output_dir={tmp_path / 'export'}"])
    # A run goes on with its own vocabulary, not with the letters of its corpus.
    assert len(json.loads((tmp_path / "parts" / "vocab.json").read_text())) == 12
    wav2vec2.vocabulary.save_vocabulary(vocabulary_of_letters(["XYZ"]), tmp_path)
    with pytest.raises(UserError, match="12 symbols"):
        run("parts", "--resume", f"--set=vocabulary.folder={tmp_path}")


def test_learns_twenty_utterances_by_heart_and_exports_them(run, project, tmp_path, capsys):
    """Short words spoken fast, layer norm and four convolutions: they take the fewest steps."""
    sounds = {x: synthesize(x, rate_words_per_minute=250) for x in SHORT_WORDS}
    assert len(sounds) == 20
    write(tmp_path / "spoken", sounds)
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
        "data.eval_batch_size": "20",
    }
    settings = [f"--set={key}={value}" for key, value in settings.items()]
    run("run", *settings, "--epochs=180", "--batch_size=20", data=tmp_path / "spoken")
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (results["eval/wer"], results["eval/num_utterances"]) == (0, 20)
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


def test_letters_beyond_the_vocabulary_are_told_or_refused(make_task, corpus, folders):
    transcript = next(corpus.rglob("*.txt"))
    lines = transcript.read_text()
    transcript.write_text(lines.replace("FEE", "ZOE"))
    task = make_task(folders / "group")
    assert any(x.startswith("unknown to the vocabulary: 10.0%") for x in task.report)
    transcript.write_text(lines.translate(str.maketrans("ABCDEF", "ЖЩЮЯЭЫ")))
    with pytest.raises(UserError, match="12 symbols of the vocabulary") as caught:
        make_task(folders / "group")
    assert "\n" not in str(caught.value)


def test_transcripts_take_the_case_of_the_vocabulary(make_task, folders, tmp_path, vocabulary):
    lower = type(vocabulary)([x.lower() for x in vocabulary.tokens])
    wav2vec2.vocabulary.save_vocabulary(lower, tmp_path)
    task = make_task(folders / "group", vocabulary__folder=str(tmp_path))
    assert [u.transcript for u in task.utterances] == [x.lower() for x in WORDS]


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
    with pytest.raises(UserError) as caught:
        run("run", *arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dry_run_prints_what_would_happen(project, corpus, tmp_path, capsys):
    config = f"--config={project / 'configs/wav2vec2/smoke.yml'}"
    main([config, f"--data_dir={corpus}", "--dry_run", "--set=data.train_splits=train",
          "--set=data.eval_splits=train"])  # fmt: skip
    printed = capsys.readouterr().out
    for expected in ("logits: (2, ", "vocabulary: 9", "steps per epoch: 2", "feature_encoder"):
        assert expected in printed


def test_recipes_are_read(project):
    for path in (project / "configs/wav2vec2").glob("*.yml"):
        # Only what begins with initial weights has convolutions to learn.
        starts_anew = wav2vec2.load_config(path).vocabulary.source == "letters"
        frozen = () if starts_anew else ("feature_encoder",)
        assert wav2vec2.load_config(path).training.freeze == frozen, path
    assert dataclasses.asdict(wav2vec2.load_config().training)["freeze"] == ("feature_encoder",)
