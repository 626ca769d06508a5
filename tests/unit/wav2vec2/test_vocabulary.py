"""Text to ids and back, and the files of Hugging Face."""

import json

import numpy as np
import pytest

from tools.errors import UserError
from wav2vec2.vocabulary import Vocabulary, load_vocabulary, save_vocabulary

LETTERS = "ETAONIHSRDLUMWCFGYPBVK'XJQZ"
TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS)


@pytest.fixture
def vocabulary():
    return Vocabulary(TOKENS)


def test_ids(vocabulary):
    assert len(vocabulary) == 32
    assert (vocabulary.blank_id, vocabulary.delimiter_id, vocabulary.unknown_id) == (0, 4, 3)


def test_text_and_back(vocabulary):
    ids = vocabulary.encode("IT'S TEA")
    assert ids == [TOKENS.index(x) for x in "IT'S|TEA"]
    assert vocabulary.decode(ids) == "IT'S TEA"
    assert vocabulary.encode("it's tea") == ids
    assert vocabulary.encode("É") == [3]
    assert vocabulary.decode([1, 3, 5, 2]) == "\u2047E"


def test_case_of_other_vocabularies():
    lower = Vocabulary(("<pad>", "|", "a", "b"), unknown="<unk>")
    assert lower.encode("AB a") == [2, 3, 1, 2]
    both = Vocabulary(("<pad>", "|", "<unk>", "a", "A"))
    assert both.encode("aAb") == [3, 4, 2]


def test_collapse(vocabulary):
    e, t = TOKENS.index("E"), TOKENS.index("T")
    path = np.array([0, 4, e, e, 0, e, t, t, 4, 4, 0, 0, t, 4])
    assert vocabulary.collapse(path) == [4, e, e, t, 4, t, 4]
    assert vocabulary.decode_path(path) == "EET T"
    assert vocabulary.decode_path([]) == ""


def test_unknown_characters_without_a_symbol_for_them():
    with pytest.raises(UserError, match="Received: é ü") as error:
        Vocabulary(("<pad>", "|", "a")).encode("aüéü")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tokens", [("<pad>", "a"), ("|", "a"), ("<pad>", "|", "a", "a"), ()])
def test_refused_symbols(tokens):
    with pytest.raises(UserError, match="different symbols with <pad> and"):
        Vocabulary(tokens)


def test_half_a_character_is_no_symbol():
    with pytest.raises(UserError, match="whole characters") as error:
        Vocabulary(("<pad>", "|", "a", "\ud83d"))
    str(error.value).encode()


def test_file_round_trip(vocabulary, tmp_path):
    save_vocabulary(vocabulary, tmp_path)
    assert load_vocabulary(tmp_path).tokens == TOKENS
    assert json.loads((tmp_path / "vocab.json").read_text("utf-8"))["|"] == 4


def test_other_names_and_added_symbols(tmp_path):
    files = {
        "vocab.json": {"a": 0, "[UNK]": 2, "|": 1, "[PAD]": 3},
        "added_tokens.json": {"<s>": 4, "</s>": 5},
        "tokenizer_config.json": {"pad_token": "[PAD]", "unk_token": {"content": "[UNK]"}},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), "utf-8")
    vocabulary = load_vocabulary(tmp_path)
    assert vocabulary.tokens == ("a", "|", "[UNK]", "[PAD]", "<s>", "</s>")
    assert (vocabulary.blank_id, vocabulary.unknown_id) == (3, 2)
    assert vocabulary.decode([0, 1, 2, 4]) == "a \u2047"
    save_vocabulary(vocabulary, tmp_path / "again")
    again = load_vocabulary(tmp_path / "again")
    assert (again.tokens, again.blank_id) == (vocabulary.tokens, 3)


@pytest.mark.parametrize(
    "content", [{"<pad>": 0, "|": 2}, {"<pad>": 0, "|": 0}, {"<pad>": "0"}, {"eng": {"<pad>": 0}}]
)
def test_refused_ids(content, tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(UserError, match="symbols with the ids 0 to"):
        load_vocabulary(tmp_path)


def test_folder_without_vocabulary(tmp_path):
    with pytest.raises(UserError, match=r"Expected vocab\.json of a Hugging Face folder"):
        load_vocabulary(tmp_path)
