"""Vocabularies of tensorflow-datasets: the ids and texts of the package, and broken files."""

import json

import pytest
import tensorflow as tf

from conformer.subwords import Subwords, read_subwords, subword_normalization
from conformer.tokenizer import SubwordTokenizer, load_tokenizer, tokenizer_from_json
from tests.support.errors import refused
from tools.decoding.graph import Hypotheses, detokenize
from tools.decoding.text import text_of
from tools.decoding.timestamps import Piece, words_of
from tools.files import to_json
from tools.recognition.characters import never_written

# Bytes that are not UTF-8: cut off, of no character, too long, a surrogate, beyond the last one.
BROKEN = (
    b"a\xc3",
    b"\xff\xfeb",
    b"\xc0\xafc",
    b"\xed\xa0\x80d",
    b"\xf4\x90\x80\x80",
    b"\xe4\xb8 x",
)


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
        assert text_of(ids, tokenizer.surfaces) == text.strip()
    assert never_written(tokenizer.surfaces)("\u00e9\u4e2d") == ""


def test_exported_texts_are_those_of_tensorflow_datasets(case):
    """In a graph and on the host: bytes become characters, and U+FFFD if they are not UTF-8."""
    values, path = case
    tokenizer = load_tokenizer(path)
    surfaces = json.loads(to_json([*tokenizer.surfaces]))  # as pipeline.json holds them
    first = len(tokenizer.surfaces) - 256
    broken = [[first + byte for byte in text] for text in BROKEN]
    decoded = [*values["decoded"], *((ids, tokenizer.decode(ids)) for ids in broken)]
    assert sum("\ufffd" in text for _, text in decoded) >= len(BROKEN)
    rows = tf.ragged.constant([ids for ids, _ in decoded], tf.int32)
    lengths = tf.cast(rows.row_lengths(), tf.int32)
    found = Hypotheses(rows.to_tensor(), lengths, tf.zeros(len(decoded)))
    in_graph = [text.decode() for text in tf.function(detokenize)(found, surfaces).numpy()]
    for (ids, text), written in zip(decoded, in_graph, strict=True):
        assert text_of(ids, surfaces) == text.strip()
        assert written == text.strip(" ")
        pieces = [Piece(surfaces[token_id], 0.0, 1.0) for token_id in ids]
        assert [word.text for word in words_of(pieces)] == [x for x in text.split(" ") if x]


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
