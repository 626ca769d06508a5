"""Tests conversion of text to ids and back, and files of Hugging Face."""

import json
import unicodedata

import numpy as np
import pytest

from tests.support.errors import refused
from tools.speech.scoring import score
from wav2vec2.vocabulary import Vocabulary, vocabulary_of_letters
from wav2vec2.vocabulary_files import load_vocabulary, save_vocabulary

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
    ("content", "message"),
    [
        ({"<pad>": -1, "|": 2}, "symbols with ids of 0 to 65535"),
        ({"<pad>": 1 << 16}, "symbols with ids of 0 to 65535"),
        ({"<pad>": "0"}, "symbols with ids of 0 to 65535"),
        ({}, "Received: none"),
        ({"<pad>": 0, "a": 0}, "one symbol for each id"),
        ({"a": 0, "|": 1}, "different symbols with <pad> and |"),
        ({"deu": {"<pad>": 0}, "eng": {"<pad>": 0}}, "vocab.json: deu eng. Received: null."),
    ],
)
def test_refused_ids(content, message, tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps(content), "utf-8")
    with refused(message):
        load_vocabulary(tmp_path)


def write(folder, vocabulary, **files):
    """Writes a folder: symbols in order of id (None: an unused id), and other files."""
    folder.mkdir(exist_ok=True)
    ids = {x: i for i, x in enumerate(vocabulary) if x is not None}
    for name, content in {"vocab": ids, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return folder


def surfaces(vocabulary):
    return list(vocabulary.surfaces)


def test_logits_decide_how_many_symbols_there_are(tmp_path, caplog):
    symbols = ("<pad>", "|", "a", None, "b")
    folder = write(tmp_path, symbols, added_tokens={"<s>": 5, "c": 6})
    assert load_vocabulary(folder).tokens == (*symbols, "<s>", "c")
    assert load_vocabulary(folder, 5).tokens == symbols
    assert "since they have no logit: c" in caplog.text and "<s>" not in caplog.text
    longer = load_vocabulary(folder, 9)
    assert longer.tokens == (*symbols, "<s>", "c", None, None)
    assert surfaces(longer) == ["", " ", "a", "\u2047", "b", "", "c", "\u2047", "\u2047"]
    assert "logits without a symbol: 3" in caplog.text
    save_vocabulary(longer, tmp_path / "again")
    assert load_vocabulary(tmp_path / "again", 9) == load_vocabulary(tmp_path / "again") == longer
    with refused("Expected 8 symbols in"):
        load_vocabulary(tmp_path / "again", 8)


def test_names_of_special_symbols_come_from_any_of_the_files(tmp_path):
    symbols = ("<pad>", "|", "a", "[PAD]", "[B]", "?")
    names = {"pad_token": "[PAD]", "unk_token": {"content": "?"}, "bos_token": "[B]"}
    folder = write(tmp_path, symbols, special_tokens_map=names)
    found = load_vocabulary(folder)
    assert (found.blank_id, found.unknown_id) == (3, 5)
    assert surfaces(found) == ["<pad>", " ", "a", "", "", "\u2047"]
    # The map has precedence over tokenizer_config.json, unless that file contains all names.
    write(tmp_path, symbols, tokenizer_config={"pad_token": "<pad>"})
    assert load_vocabulary(folder).blank_id == 3
    decoder = {"added_tokens_decoder": {"0": {"content": "<pad>"}, "6": {"content": "ä"}}}
    write(tmp_path, symbols, tokenizer_config={"pad_token": "<pad>", **decoder})
    assert load_vocabulary(folder).blank_id == 0
    assert load_vocabulary(folder).tokens == (*symbols, "ä")


def test_phones_have_spaces_between_them(tmp_path):
    phones = ("<pad>", "<unk>", "t\u0283", "o", "t", "\u0283", "|")
    settings = {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer", "word_delimiter_token": "|"}
    found = load_vocabulary(write(tmp_path, phones, tokenizer_config=settings))
    assert found.decode_path([2, 2, 0, 2, 6, 6, 3, 1, 0]) == "t\u0283 t\u0283 o \u2047"
    assert found.encode("t\u0283 o  t \u0283 to | t") == [2, 3, 4, 5, 1, 6, 4]
    assert found.unknown_characters("t\u0283 to o") == "to"
    settings["word_delimiter_token"] = None
    found = load_vocabulary(write(tmp_path, phones[:-1], tokenizer_config=settings), 7)
    assert found.delimiter_id is None
    save_vocabulary(found, tmp_path / "again")
    assert load_vocabulary(tmp_path / "again", 7) == found
    # The class may be only in config.json.
    kind = settings.pop("tokenizer_class")
    write(tmp_path, phones, tokenizer_config=settings, config={"tokenizer_class": kind})
    assert load_vocabulary(tmp_path).decode([3, 4]) == "o t"


def test_without_a_word_delimiter_symbols_stand_side_by_side(tmp_path):
    settings = {"word_delimiter_token": None}
    phones = ("<pad>", "<unk>", "t\u0283", "o")
    found = load_vocabulary(write(tmp_path, phones, tokenizer_config=settings))
    assert found.decode([2, 3, 2]) == "t\u0283ot\u0283"
    assert found.encode("t\u0283 o") == [2, 3]


def test_a_space_may_be_the_delimiter(tmp_path):
    for settings in ({}, {"word_delimiter_token": "|"}, {"word_delimiter_token": " "}):
        found = load_vocabulary(write(tmp_path, ("<pad>", " ", "a"), tokenizer_config=settings))
        assert (found.delimiter_id, found.decode([2, 1, 2, 1])) == (1, "a a")
        assert found.encode("a A") == [2, 1, 2]


def test_something_else_between_words_than_a_space_is_refused(tmp_path):
    settings = {"replace_word_delimiter_char": " "}
    found = load_vocabulary(write(tmp_path, TOKENS, tokenizer_config=settings))
    assert found.decode([5, 4, 6]) == "E T"
    settings["replace_word_delimiter_char"] = "_"
    write(tmp_path, TOKENS, tokenizer_config=settings)
    with refused(match="replace_word_delimiter_char .*Received: '_'"):
        load_vocabulary(tmp_path)


def test_lower_case_is_that_of_texts_alone(tmp_path):
    settings = {"do_lower_case": True}
    symbols = ("<pad>", "|", "<unk>", "a", "A", "B")
    found = load_vocabulary(write(tmp_path, symbols, tokenizer_config=settings))
    assert found.decode([4, 1, 5, 2]) == "a b\u2047"
    assert found.encode("Ab c") == [4, 5, 1, 2]
    save_vocabulary(found, tmp_path / "again")
    assert load_vocabulary(tmp_path / "again") == found
    assert found != Vocabulary(symbols)


def test_the_language_is_that_of_the_tokenizer(tmp_path):
    (tmp_path / "vocab.json").write_text('{"deu": {"<pad>": 0, "|": 1, "ä": 2}, "eng": {"a": 0}}')
    (tmp_path / "tokenizer_config.json").write_text('{"target_lang": "deu"}')
    assert load_vocabulary(tmp_path).tokens == ("<pad>", "|", "ä")


def test_labels_are_the_longest_symbols():
    vocabulary = Vocabulary(
        ("<pad>", "|", "<unk>", "t", "t\u0283", "t\u0283o", "o", "-"), blank="-"
    )
    assert vocabulary.encode("t\u0283ot t\u0283t o") == [5, 3, 1, 4, 3, 1, 6]
    # The blank is not a label, even if it is a letter.
    assert vocabulary.encode("t-o") == [3, 2, 6]


@pytest.mark.parametrize(
    ("symbols", "text"),
    [
        ("e\u0302\u0301\u0323 tingv", "ti\u00ea\u0301ng vi\u1ec7t"),  # Vietnamese marks
        ("\u1112\u1161\u11ab\u1100\u116e\u11a8 ", "\ud55c\uad6d \ud55c"),  # Korean jamo
        ("\ud55c\uad6d ", "\u1112\u1161\u11ab \uad6d"),  # syllables, of a text in jamo
    ],
)
def test_marks_and_jamo_are_labels_where_letters_and_syllables_are_none(symbols, text):
    vocabulary = Vocabulary(("<pad>", "|", "<unk>", *dict.fromkeys(symbols.replace(" ", ""))))
    ids = vocabulary.encode(text)
    assert vocabulary.unknown_id not in ids
    # Correct labels give the text, in composed and in decomposed form.
    found = vocabulary.decode(ids)
    assert unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", text)
    assert score([text], [found]).cer == score([vocabulary.normalize(text)], [text]).wer == 0
    # A letter whose mark is not in the vocabulary is one unknown character.
    assert vocabulary.encode("\u00e7") == [2]


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
    """The tokenizer of Hugging Face would add names that are not in the vocabulary."""
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
