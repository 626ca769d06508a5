"""Vocabularies of tensorflow-datasets: the ids and texts of the package, and broken files."""

import json

import pytest
import tensorflow as tf

from conformer.subwords import Subwords, read_subwords, subword_normalization
from conformer.tokenizer import SubwordTokenizer, load_tokenizer, tokenizer_from_json
from tests.support.errors import refused


@pytest.fixture(scope="module")
def golden(project):
    """What tensorflow-datasets computes; see tests/golden/make_subwords.py."""
    return json.loads((project / "tests" / "golden" / "subwords.json").read_text())


@pytest.fixture(params=["words", "odd", "plain"])
def case(request, golden, tmp_path):
    """The values of a vocabulary, and its file."""
    path = tmp_path / "v.subwords"
    path.write_text(golden[request.param]["file"], encoding="utf-8")
    return golden[request.param], path


def test_ids_and_texts_of_tensorflow_datasets(case):
    values, path = case
    codec = Subwords(read_subwords(path))
    assert len(codec.subwords) + 257 == values["size"]
    for text, ids in values["encoded"]:
        assert codec.encode(text) == ids
    for ids, text in values["decoded"]:
        assert codec.decode(ids) == text


def test_the_tokenizer_of_a_file(case):
    values, path = case
    tokenizer = load_tokenizer(path)
    assert isinstance(tokenizer, SubwordTokenizer)
    assert tokenizer.vocabulary_size == len(tokenizer.surfaces) == values["size"]
    texts = [text for text, _ in values["encoded"]]
    ids = [ids for _, ids in values["encoded"]]
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(16).map(tokenizer.encode_in_graph)
    assert [row for batch in dataset for row in batch.to_list()] == ids
    assert tokenizer.count_labels(texts).tolist() == [*map(len, ids)]
    again = tokenizer_from_json(tokenizer.to_json())
    assert (again.pieces, again.surfaces) == (tokenizer.pieces, tokenizer.surfaces)
    for ids, text in values["decoded"]:
        assert again.decode([0, *ids, 0]) == text.strip(" ")
        if text.isascii():
            assert "".join(tokenizer.surfaces[token_id] for token_id in ids) == text


def test_windows_line_ends_and_a_missing_last_one(case, tmp_path):
    _, path = case
    other = tmp_path / "w.subwords"
    other.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().rstrip(b"\n").replace(b"\n", b"\r\n"))
    assert read_subwords(other) == read_subwords(path)


@pytest.mark.parametrize(
    "words, expected",
    [
        ("a_ b", "the é"),
        ("A B_", "THE É"),
        ("a_ B", "The É"),
        ("12", "The É"),
        ("the_ cat_ sat", "the é"),
        ("THE_ CAT", "THE É"),
        ("The_ cat", "The É"),
        ("i cat_ THE_", "The É"),
    ],
)
def test_transcripts_get_the_case_of_the_vocabulary(words, expected):
    tokenizer = SubwordTokenizer(words.split())
    for normalize in (tokenizer.normalize, subword_normalization(tokenizer.surfaces)):
        assert normalize(" The  E\u0301") == expected


HEADER = b"### SubwordTextEncoder\n### Metadata: {}\n"


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "does not start with"),
        (b"A\nB\n", "does not start with"),
        (b"### SubwordTextEncoder\n", "does not start with"),
        (b"### TokenTextEncoder\n### Metadata: {}\n'a'\n", "does not start with"),
        (HEADER + b"'a'\nb\n", "line 4"),
        (HEADER + b"'\n", "line 3"),
        (HEADER + b"'a'\n\n'b'\n", "line 4"),
        (HEADER + b"'\xff'\n", "not UTF-8"),
        (HEADER, "no subwords"),
        (HEADER + b"''\n", "no subwords"),
    ],
)
def test_files_that_are_no_vocabulary(data, message, tmp_path):
    path = tmp_path / "v.subwords"
    path.write_bytes(data)
    with refused(message) as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_missing(tmp_path):
    with refused("nowhere.subwords"):
        load_tokenizer(tmp_path / "nowhere.subwords")


@pytest.mark.parametrize("fields", ["3", "[]", "[3]", '[""]'])
def test_broken_json(fields):
    with refused():
        tokenizer_from_json(f'{{"kind": "subwords", "subwords": {fields}}}')
