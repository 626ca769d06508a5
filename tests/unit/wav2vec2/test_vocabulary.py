"""Text to ids and back, and the files of Hugging Face."""

import json

import numpy as np
import pytest

from tests.support.errors import refused
from wav2vec2.vocabulary import (
    Vocabulary,
    load_vocabulary,
    save_vocabulary,
    vocabulary_of_letters,
)

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
    with refused("Received: é ü"):
        Vocabulary(("<pad>", "|", "a")).encode("aüéü")


@pytest.mark.parametrize("tokens", [("<pad>", "a"), ("|", "a"), ("<pad>", "|", "a", "a"), ()])
def test_refused_symbols(tokens):
    with refused(match="different symbols with <pad> and"):
        Vocabulary(tokens)


def test_half_a_character_is_no_symbol():
    with refused("whole characters") as caught:
        Vocabulary(("<pad>", "|", "a", "\ud83d"))
    str(caught.value).encode()


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
    with refused(match="symbols with the ids 0 to"):
        load_vocabulary(tmp_path)


def test_folder_without_vocabulary(tmp_path):
    with refused(match=r"Expected vocab\.json of a Hugging Face folder"):
        load_vocabulary(tmp_path)


def test_the_blank_may_stand_anywhere():
    vocabulary = Vocabulary(("A", "B", "|", "<pad>", "<s>", "<unk>"))
    assert (vocabulary.blank_id, vocabulary.delimiter_id, vocabulary.unknown_id) == (3, 2, 5)
    assert vocabulary.surfaces == ("A", "B", " ", "", "", "\u2047")
    path = [3, 0, 0, 3, 0, 2, 3, 2, 1, 4, 1, 3]
    assert vocabulary.collapse(path) == [0, 0, 2, 2, 1, 4, 1]
    assert vocabulary.decode_path(path) == "AA  BB"
    assert vocabulary.encode("ab Z") == [0, 1, 2, 5]


def test_vocabularies_are_the_same_by_their_symbols_and_what_these_mean():
    tokens = ("<pad>", "|", "a", "b", "<unk>")
    one = Vocabulary(tokens)
    assert one == Vocabulary(list(tokens))
    assert one != Vocabulary(("<pad>", "|", "b", "a", "<unk>"))
    assert one != Vocabulary(tokens[:-1])
    assert one != Vocabulary(tokens, blank="a")
    assert one != Vocabulary(tokens, delimiter="b")
    assert one != Vocabulary(tokens, unknown="b")
    assert one != tokens


def test_letters_of_transcripts_are_sorted_behind_what_every_vocabulary_has():
    vocabulary = vocabulary_of_letters(["ZA B", "Ä|B", ""])
    assert vocabulary.tokens == ("<pad>", "<unk>", "|", "A", "B", "Z", "Ä")
    assert (vocabulary.blank_id, vocabulary.unknown_id, vocabulary.delimiter_id) == (0, 1, 2)


def test_the_files_name_the_special_symbols_that_are_there(tmp_path):
    """A name of a symbol that is not there would be added by Hugging Face's tokenizer."""
    tokens = ("a", "<s>", "#", "-")
    save_vocabulary(Vocabulary(tokens, blank="-", delimiter="#", unknown="?"), tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    wanted = {"pad_token": "-", "word_delimiter_token": "#", "bos_token": "<s>"}
    wanted |= {"eos_token": None, "unk_token": None, "do_lower_case": False}
    assert {key: settings[key] for key in wanted} == wanted
    ids = json.loads((tmp_path / "vocab.json").read_text("utf-8"))
    assert ids == {"a": 0, "<s>": 1, "#": 2, "-": 3}
    again = load_vocabulary(tmp_path)
    assert (again.blank, again.delimiter, again.unknown_id) == ("-", "#", None)


def test_an_added_symbol_does_not_move_one_that_is_there(tmp_path):
    files = {"vocab.json": {"<pad>": 0, "|": 1, "a": 2}, "added_tokens.json": {"a": 3, "b": 3}}
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content), "utf-8")
    assert load_vocabulary(tmp_path).tokens == ("<pad>", "|", "a", "b")
