"""Tests tokenizers: round trips, graph and Python, comparison with the library, broken files."""

import json
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
import tensorflow as tf

from conformer.tokenizer import (
    CharacterTokenizer,
    SentencePieceTokenizer,
    load_tokenizer,
    save_tokenizer,
    tokenizer_from_json,
)
from tests.support.errors import refused

VOCABULARY_SIZE = 60


def made_up_corpus(num_sentences: int = 200) -> list[str]:
    """Returns sentences of random syllables with accents and an apostrophe."""
    rng = np.random.default_rng(0)
    syllables = ["BA", "CO", "DU", "ÉL", "FI", "GO'", "HÜ", "IN", "THE", "ER"]
    words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(60)]
    return [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(num_sentences)]


CORPUS = made_up_corpus()
UNKNOWN_TEXTS = ["", "ЖBA", "BA ЖЖ CO", "ba co", "BA Ж", "日 ÉL", "BA [x] <unk> <blank>"]


def make(kind: str):
    if kind == "characters":
        return CharacterTokenizer.from_transcripts(CORPUS)
    return SentencePieceTokenizer.train(CORPUS, VOCABULARY_SIZE, kind)


@pytest.fixture(scope="module", params=["characters", "unigram", "bpe"])
def tokenizer(request):
    return make(request.param)


def library(tokenizer: SentencePieceTokenizer) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)


def test_blank_comes_first_then_unknown(tokenizer):
    assert tokenizer.pieces[:2] == ("<blank>", "<unk>")
    assert tokenizer.vocabulary_size == len(tokenizer.pieces) == len(tokenizer.surfaces)
    assert len(set(tokenizer.pieces)) == tokenizer.vocabulary_size
    assert tokenizer.decode([0, 0]) == ""


def test_characters_are_sorted_and_hold_the_space():
    tokenizer = CharacterTokenizer.from_transcripts(["B A", "É"])
    assert tokenizer.pieces == ("<blank>", "<unk>", " ", "A", "B", "É")
    assert tokenizer.encode("A BX") == [3, 2, 4, 1]
    assert tokenizer.decode([0, 3, 0, 2, 4, 1]) == "A B⁇"


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_vocabulary_has_the_size_asked_for(model_type):
    assert make(model_type).vocabulary_size == VOCABULARY_SIZE


def test_unknown_characters_are_those_that_the_corpus_lacks(tokenizer):
    known = {x for text in CORPUS for x in text}
    for text in UNKNOWN_TEXTS:
        assert tokenizer.unknown_characters(text) == "".join(x for x in text if x not in known)


def test_known_text_comes_back(tokenizer):
    for text in CORPUS:
        ids = tokenizer.encode(text)
        assert min(ids) > 1
        assert max(ids) < tokenizer.vocabulary_size
        assert tokenizer.decode(ids) == text


def test_unknown_text_becomes_the_unknown_symbol(tokenizer):
    for text in UNKNOWN_TEXTS[1:]:
        assert 1 in tokenizer.encode(text)
    assert tokenizer.encode("") == []


def test_surfaces_join_to_the_decoded_text(tokenizer):
    rng = np.random.default_rng(1)
    for _ in range(50):
        ids = rng.integers(0, tokenizer.vocabulary_size, 12)
        joined = "".join(tokenizer.surfaces[i] for i in ids)
        assert joined.strip() == tokenizer.decode(ids)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_sentencepiece_is_the_library_shifted_by_one(model_type):
    tokenizer = make(model_type)
    reference = library(tokenizer)
    rng = np.random.default_rng(2)
    for text in CORPUS + UNKNOWN_TEXTS:
        assert [i - 1 for i in tokenizer.encode(text)] == reference.encode(text)
    for _ in range(100):
        ids = rng.integers(1, VOCABULARY_SIZE, 9).tolist()
        assert tokenizer.decode(ids) == reference.decode([i - 1 for i in ids]).strip()


@pytest.mark.parametrize("inside_map", [False, True])
@pytest.mark.parametrize("kind", ["characters", "unigram", "bpe"])
def test_graph_equals_python(kind, inside_map, capfd):
    tokenizer = make(kind)
    texts = CORPUS + UNKNOWN_TEXTS
    if inside_map:  # the first use traces the map; the table created there must remain valid
        dataset = tf.data.Dataset.from_tensor_slices(texts).batch(16)
        batches = list(dataset.map(tokenizer.encode_in_graph))
        batches = list(dataset.map(tokenizer.encode_in_graph, num_parallel_calls=2))
        ids = [row for batch in batches for row in batch.to_list()]
    else:
        encoded = tokenizer.encode_in_graph(tf.constant(texts))
        assert encoded.dtype == tf.int32
        ids = encoded.to_list()
    assert ids == [tokenizer.encode(text) for text in texts]
    assert capfd.readouterr().err == ""  # of libraries in C++, too


def test_real_transcripts(shared_data):
    files = sorted((shared_data / "librispeech_samples").rglob("*.trans.txt"))
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    transcripts = [line.split(" ", 1)[1] for line in lines]
    assert len(transcripts) > 100
    subwords = SentencePieceTokenizer.train(transcripts[::2], 300)
    reference = library(subwords)
    expected = [[i + 1 for i in reference.encode(text)] for text in transcripts]
    assert [subwords.encode(text) for text in transcripts] == expected
    assert subwords.encode_in_graph(tf.constant(transcripts)).to_list() == expected
    for tokenizer in (subwords, CharacterTokenizer.from_transcripts(transcripts)):
        assert [tokenizer.decode(tokenizer.encode(text)) for text in transcripts] == transcripts


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_training_is_deterministic(model_type):
    assert make(model_type).model == make(model_type).model


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_impossible_sizes_name_the_possible_one(model_type, capfd):
    for size, words in ((5000, "at most"), (10, "at least")):
        with refused(words) as error:
            SentencePieceTokenizer.train(CORPUS, size, model_type)
        possible = int(str(error.value).split(words)[1].split()[0])
        assert str(size) in str(error.value)
        assert " tokenizer.vocabulary_size of the config, or --voc" in str(error.value)
        tokenizer = SentencePieceTokenizer.train(CORPUS, possible, model_type)
        assert tokenizer.vocabulary_size == possible
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_rare_characters_and_long_transcripts_count(model_type):
    rare, long = "BA Ω", " ".join(["CO"] * 2000 + ["Ψ"])
    assert len(long) > 5000
    tokenizer = SentencePieceTokenizer.train([*CORPUS, rare, long], VOCABULARY_SIZE, model_type)
    for text in (rare, long):
        assert 1 not in tokenizer.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("transcripts", [[], ["", "  "]])
def test_no_transcripts(transcripts):
    with refused("transcripts"):
        SentencePieceTokenizer.train(transcripts, 100)
    with refused("transcripts"):
        CharacterTokenizer.from_transcripts(transcripts[:1])


def test_model_type_is_checked():
    with refused("unigram or bpe"):
        SentencePieceTokenizer.train(CORPUS, 100, "word")


def test_file_round_trip(tokenizer, tmp_path):
    path = tmp_path / "new" / "vocabulary.json"
    save_tokenizer(tokenizer, path)
    save_tokenizer(tokenizer, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["vocabulary.json"]
    again = load_tokenizer(path)
    assert type(again) is type(tokenizer)
    assert (again.pieces, again.surfaces) == (tokenizer.pieces, tokenizer.surfaces)
    assert again.to_json() == tokenizer.to_json()
    assert all(again.encode(text) == tokenizer.encode(text) for text in CORPUS + UNKNOWN_TEXTS)


def test_failed_save_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / "vocabulary.json"
    save_tokenizer(CharacterTokenizer(["A"]), path)
    before = path.read_bytes()

    def full_disk(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full_disk)
    with refused("No space left"):
        save_tokenizer(CharacterTokenizer(["B"]), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_save_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with refused("room and permission to write"):
        save_tokenizer(CharacterTokenizer(["A"]), tmp_path / "file" / "vocabulary.json")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        "{}",
        '{"kind": "words"}',
        '{"kind": []}',
        '{"kind": "characters"}',
        '{"kind": "characters", "characters": []}',
        '{"kind": "characters", "characters": ["A", "B", "A"]}',
        '{"kind": "characters", "characters": ["AB"]}',
        '{"kind": "characters", "characters": [""]}',
        '{"kind": "characters", "characters": [3]}',
        '{"kind": "characters", "characters": 3}',
        '{"kind": "sentencepiece"}',
        '{"kind": "sentencepiece", "model": 3}',
        '{"kind": "sentencepiece", "model": ""}',
        '{"kind": "sentencepiece", "model": "###"}',
        '{"kind": "sentencepiece", "model": "é"}',
        '{"kind": "sentencepiece", "model": "AAAA"}',
    ],
)
def test_broken_vocabularies(content, tmp_path, capfd):
    path = tmp_path / "vocabulary.json"
    path.write_text(content, encoding="utf-8")
    with refused(str(path)):
        load_tokenizer(path)
    assert capfd.readouterr() == ("", "")


def test_other_broken_files(tmp_path):
    with refused("nowhere.json"):
        load_tokenizer(tmp_path / "nowhere.json")
    with refused("directory"):
        load_tokenizer(tmp_path)
    path = tmp_path / "utf16.json"
    path.write_bytes("Ж".encode("utf-16"))
    with refused("utf16"):
        load_tokenizer(path)


def test_truncated_model_is_refused():
    fields = json.loads(make("unigram").to_json())
    fields["model"] = fields["model"][: len(fields["model"]) // 8 * 4]
    with refused():
        tokenizer_from_json(json.dumps(fields))


def test_encoding_needs_no_tensorflow():
    program = (
        "import runpy, sys; from pathlib import Path; "
        f"names = runpy.run_path({str(sys.modules['conformer.tokenizer'].__file__)!r}); "
        "tokenizer = names['CharacterTokenizer'](['A']); "
        "assert tokenizer.encode('A') == [2]; assert 'tensorflow' not in sys.modules"
    )
    environment_path = ":".join(path for path in sys.path if path)
    subprocess.run(
        [sys.executable, "-c", program], check=True, env={"PYTHONPATH": environment_path}
    )


@pytest.mark.parametrize("at_once", [1, 2, 3, 5, 9])
def test_labels_are_counted_in_slices_of_any_size(tokenizer, at_once):
    texts = CORPUS[:5]
    expected = [len(tokenizer.encode(text)) for text in texts]
    assert len(set(expected)) > 2
    assert tokenizer.count_labels(texts, at_once).tolist() == expected
    assert tokenizer.count_labels([], at_once).tolist() == []
