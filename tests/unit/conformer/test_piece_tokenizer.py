"""The tokenizer of published models: `tokenizer.json` as SentencePiece's pieces."""

import io
import itertools
import json

import pytest
import sentencepiece
import tensorflow as tf

from conformer.piece_tokenizer import Pieces, PieceTokenizer, read_pieces
from conformer.tokenizer import tokenizer_from_json
from tests.support import parakeet
from tests.support.errors import refused
from tests.support.parakeet import Sizes

SIZE = Sizes().vocabulary
TEXTS = ["the tin thorn", "in  it rather ", "x then", "thin", "t t t", "", "e\u0301 a", "\uff54in"]


def write(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def content():
    return parakeet.tokenizer_json(Sizes())


@pytest.fixture
def tokenizer(tmp_path, content):
    return read_pieces(write(tmp_path / "tokenizer.json", content), SIZE, SIZE - 1)


def test_the_blank_is_first_and_special_symbols_have_no_text(tokenizer):
    assert tokenizer.vocabulary_size == SIZE
    assert tokenizer.pieces[:3] == ("<blank>", "<unk>", "\u2581")
    assert tokenizer.surfaces[:4] == ("", "", " ", "e")
    ids = [0, 1, tokenizer.pieces.index("\u2581th"), 3, 0, 2, 2, tokenizer.pieces.index("in"), 2]
    assert tokenizer.decode(ids) == "the  in"


def spelled(tokenizer, text):
    return [tokenizer.pieces[number] for number in tokenizer.encode(text)]


def test_pairs_are_merged_in_the_order_of_their_ranks(tokenizer):
    assert spelled(tokenizer, "thin") == ["\u2581th", "in"]
    assert spelled(tokenizer, " in  th ") == ["\u2581in", "\u2581th"]
    # Both "er" are merged; "\u2581h" is no piece, so the space stays alone.
    assert spelled(tokenizer, "herer") == ["\u2581", "h", "er", "er"]
    # Unknown characters in a row are one symbol. Full-width letters become plain ones.
    assert spelled(tokenizer, "xyt") == ["\u2581", "<unk>", "t"]
    assert spelled(tokenizer, "\uff54in") == ["\u2581t", "in"]
    assert tokenizer.unknown_characters("xy t\u00e9z") == "xy\u00e9z"
    for text in ("the tin thorn", "in it rather", "thin"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_of_equal_pairs_the_left_one_is_merged_first():
    pieces = Pieces(["<unk>", "\u2581", "a", "aa"], special=[0], unknown=0, merges=[["a", "a"]])
    assert spelled(PieceTokenizer(pieces), "aaa") == ["\u2581", "aa", "a"]


def test_texts_are_encoded_in_a_graph_and_the_vocabulary_is_read_again(tokenizer):
    rows = tf.function(tokenizer.encode_in_graph)(tf.constant(TEXTS))
    assert rows.to_list() == [tokenizer.encode(text) for text in TEXTS]
    again = tokenizer_from_json(tokenizer.to_json())
    assert [again.encode(x) for x in TEXTS] == [tokenizer.encode(x) for x in TEXTS]
    assert (again.pieces, again.surfaces) == (tokenizer.pieces, tokenizer.surfaces)
    assert tokenizer.normalize("The  TIN") == "the tin"


def train(model_type, byte_fallback=False):
    """Returns a SentencePiece model with NFKC, as NeMo trains it."""
    model = io.BytesIO()
    sentences = ["the tin thorn in it", "rather the other then", "no one nears the inn"] * 5
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=300 if byte_fallback else 34,
        model_type=model_type,
        byte_fallback=byte_fallback,
        hard_vocab_limit=False,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(model.getvalue())
    return processor


def converted(processor, model_type):
    """Returns `tokenizer.json` as transformers writes it for BPE, and its kind for unigram."""
    pieces = [processor.IdToPiece(i) for i in range(len(processor))]
    scores = [processor.GetScore(i) for i in range(len(processor))]
    model = {"type": "Unigram", "unk_id": 0, "vocab": [*zip(pieces, scores, strict=True)]}
    if model_type == "bpe":
        ids = {piece: i for i, piece in enumerate(pieces)}
        merges = []
        for piece in pieces:
            cuts = [(piece[:n], piece[n:]) for n in range(1, len(piece))]
            known = [cut for cut in cuts if cut[0] in ids and cut[1] in ids]
            merges += [(ids[piece], sorted(known, key=lambda x: (ids[x[0]], ids[x[1]])))]
        pairs = itertools.chain.from_iterable(x for _, x in sorted(merges, key=lambda x: x[0]))
        vocabulary = {"vocab": ids, "merges": [[*pair] for pair in pairs]}
        model = {"type": "BPE", "unk_token": "<unk>", **vocabulary}
    blank = {"id": len(pieces), "content": "<blank>", "special": True}
    unknown = {"id": 0, "content": "<unk>", "special": True}
    return {"added_tokens": [unknown, blank], "model": model}


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("byte_fallback", [False, True])
def test_ids_and_texts_are_those_of_sentencepiece(tmp_path, model_type, byte_fallback):
    processor = train(model_type, byte_fallback)
    path = write(tmp_path / "tokenizer.json", converted(processor, model_type))
    tokenizer = read_pieces(path, len(processor) + 1, len(processor))
    texts = [x for x in TEXTS if x.strip()] + ["the hen in the rain", "no other tin \u00e9 rather"]
    for text in texts:
        expected = processor.Encode(text)
        assert tokenizer.encode(text) == [x + 1 for x in expected], text
        if 0 not in expected:
            assert tokenizer.decode([x + 1 for x in expected]) == processor.Decode(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x["model"].update(type="WordPiece"), "type WordPiece"),
        (lambda x: x.pop("model"), "JSON with other fields"),
        (lambda x: x["model"].update(vocab=3), "JSON with other fields"),
        (lambda x: x["model"].update(unk_token=None), "no unknown symbol"),
        (lambda x: x["model"].update(merges=[["a"]]), "a merge that is not a pair"),
        (lambda x: x["model"]["vocab"].pop("th"), "symbols besides the blank"),
        (lambda x: x["model"]["vocab"].update({"": 3}), "not a text"),
    ],
)
def test_other_files_are_refused(tmp_path, content, change, message):
    change(content)
    with refused(message):
        read_pieces(write(tmp_path / "tokenizer.json", content), SIZE, SIZE - 1)


def test_files_that_are_no_json_are_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    with refused("No such file"):
        read_pieces(path, SIZE, SIZE - 1)
    for text, message in ((b"{", "invalid JSON"), (b"\xff", "not JSON text"), (b"[]", "other")):
        path.write_bytes(text)
        with refused(message):
            read_pieces(path, SIZE, SIZE - 1)
