"""Fine-tuning of published Conformers: architecture, vocabulary, weights and losses."""

import dataclasses
import json

import numpy as np
import pytest

import conformer
from conformer.published import read_published
from conformer.task import ConformerTask
from conformer.tokenizer import CharacterTokenizer, save_tokenizer
from conformer.train import main as train
from conformer.train import make_task
from tests.support import parakeet
from tests.support.conformer_reference import ctc_loss
from tests.support.errors import refused
from tests.support.parakeet import Sizes
from tests.support.speech import write_librispeech
from tests.unit.conformer.test_tdt_loss import of_all_paths
from tools.training.distributed import SingleProcess
from tools.training.task import Position, Shard

TEXTS = ["THE TIN", "IN", "THIN"]
KINDS = {
    "tdt": Sizes(kind="tdt", layers=1, durations=(0, 1, 2)),
    "ctc": Sizes(kind="ctc", layers=1),
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(1)
    sounds = [0.1 * rng.normal(size=2560 + 640 * number) for number in range(len(TEXTS))]
    write_librispeech(folder / "train", zip(TEXTS, sounds, strict=True))
    return folder


@pytest.fixture(scope="module", params=KINDS)
def source(request, tmp_path_factory):
    sizes = KINDS[request.param]
    tensors = parakeet.make_tensors(sizes, np.random.default_rng(3))
    folder = tmp_path_factory.mktemp(request.param)
    return sizes, parakeet.write_folder(folder, sizes, tensors)


def values(corpus):
    return {
        "data.data_dir": str(corpus),
        "data.train_splits": ["train"],
        "data.eval_splits": ["train"],
        "data.num_buckets": 1,
        "model.dropout_rate": 0.0,
    }


def made(corpus, source, changes=None) -> ConformerTask:
    config = conformer.load_config(None, values(corpus) | (changes or {}))
    arguments = config, SingleProcess(), str(source), None
    return make_task(*arguments, needs_evaluation=False)


def test_a_task_has_the_architecture_the_vocabulary_and_the_loss_of_the_source(corpus, source):
    sizes, folder = source
    task = made(corpus, folder, {"loss.sigma": 0.05} if sizes.kind == "tdt" else None)
    published = read_published(folder)
    expected = dataclasses.replace(published.config.model, dropout_rate=0.0)
    assert (task.config.model, task.config.features) == (expected, published.config.features)
    assert task.tokenizer.to_json() == published.tokenizer.to_json()
    for ours, theirs in zip(task.model.weights, published.build().weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    (batch,) = task.train_data(Shard(0, 1, 3), Position(), 1).dataset
    losses = task.loss(batch, training=False).examples.numpy()
    rows = np.flatnonzero(batch["index"].numpy() >= 0)
    assert len(rows)
    for row in rows:
        count = int(batch["label_lengths"][row])
        labels = batch["labels"][row, :count].numpy()
        assert task.tokenizer.decode(labels) in {text.lower() for text in TEXTS}
        sound = [batch[name][row : row + 1] for name in ("waveforms", "lengths")]
        encoded, frames = task.model.listen(*sound)
        if sizes.kind == "ctc":
            logits = np.asarray(task.model.ctc_head(encoded))[0, : int(frames[0])]
            loss = ctc_loss(logits.astype("float64"), labels)
        else:
            logits = np.asarray(task.model.align(encoded, labels[None]))[0, : int(frames[0])]
            loss = of_all_paths(
                logits.astype("float64"), labels, sizes.durations, sizes.vocabulary, sigma=0.05
            )
        assert losses[row] == pytest.approx(loss, rel=1e-4)
    texts = task.texts(batch["waveforms"], batch["lengths"])
    assert texts.shape == (3,)


def test_another_vocabulary_leaves_the_layers_of_the_vocabulary_at_random(corpus, source, tmp_path):
    _, folder = source
    save_tokenizer(CharacterTokenizer(sorted("EHINT ")), tmp_path / "v.json")
    task = made(corpus, folder, {"tokenizer.vocabulary_file": str(tmp_path / "v.json")})
    assert task.model.vocabulary_size == 8
    theirs = {v.path: v for v in read_published(folder).build().weights}
    changed = {v.path for v in task.model.weights if v.shape != theirs[v.path].shape}
    assert changed and all("vocab" in x or "embedding" in x or "ctc_head" in x for x in changed)
    for variable in task.model.weights:
        if variable.path not in changed:
            np.testing.assert_array_equal(variable, theirs[variable.path])


def test_a_refusal_of_letters_says_nothing_wrong_about_their_case(corpus, source, tmp_path):
    """Transcripts take the lower case of the vocabulary, which lacks M."""
    write_librispeech(tmp_path / "train", [("MEN", np.ones(3200))])
    with refused("lacks: m (1)") as caught:
        made(tmp_path, source[1])
    assert "upper case" not in str(caught.value)


def cut(path, share=0.6):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def changed(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


BAD = {
    "missing": lambda folder: folder.rename(folder.with_name("elsewhere")),
    "without a config": lambda folder: (folder / "config.json").unlink(),
    "model type": lambda folder: changed(folder / "config.json", model_type="whisper"),
    "cut weights": lambda folder: cut(folder / "model.safetensors"),
    "cut config": lambda folder: cut(folder / "config.json"),
    "vocabulary": lambda folder: changed(folder / "config.json", vocab_size=30),
    "tensor": lambda folder: changed(folder / "config.json", decoder_hidden_size=7),
}
EXPECTED = {
    "missing": "which does not exist. Correct the path, or write hf:",
    "without a config": "config.json",
    "model type": "whisper",
    "cut weights": "a complete .safetensors file",
    "cut config": "not a JSON file",
    "vocabulary": "symbols besides the blank",
    "tensor": "another shape",
    "cut archive": "a complete .nemo archive",
    "vocabulary_file": "vocabulary",
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_source_that_cannot_be_used_ends_the_program_and_leaves_nothing(
    kind, corpus, tmp_path, sentencepiece_model
):
    sizes = KINDS["tdt"]
    tensors = parakeet.make_tensors(sizes, np.random.default_rng(3))
    source, more = parakeet.write_folder(tmp_path / "source", sizes, tensors), []
    if kind == "cut archive":
        members = parakeet.nemo_members(sizes, tensors, sentencepiece_model, tmp_path)
        source = parakeet.write_nemo(tmp_path / "m.nemo", members)
        cut(source)
    elif kind == "vocabulary_file":
        (tmp_path / "v.json").write_text('{"kind": "characters"}')
        more = [f"--set=tokenizer.vocabulary_file={tmp_path / 'v.json'}"]
    else:
        BAD[kind](source)
    before = sorted(tmp_path.rglob("*"))
    splits = ["--set=data.train_splits=train", "--set=data.eval_splits=train"]
    output = f"--output_dir={tmp_path / 'runs' / 'new'}"
    with refused(EXPECTED[kind]) as caught:
        train([f"--pretrained={source}", f"--data_dir={corpus}", output, *splits, *more])
    assert tmp_path.name in str(caught.value), "the line names the file"
    assert sorted(tmp_path.rglob("*")) in (before, sorted([*before, tmp_path / "runs"]))
