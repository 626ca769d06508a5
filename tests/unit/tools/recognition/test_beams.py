"""Beam searches of recognizers: both heads of a Conformer, lists of texts, and refused options."""

import numpy as np
import pytest

from tests.support.errors import refused
from tools.decoding.options import BeamSearch
from tools.decoding.protocol import Hypothesis, Ranked
from tools.recognition.beams import beam_search_of, network_options
from tools.recognition.decoders import different_texts
from tools.recognition.options import SearchOptions
from tools.recognition.transducer_decoder import TransducerDecoder

SURFACES = ["", " A", " B", "C"]
PIPELINE = {
    "blank": 0,
    "vocabulary": {"surfaces": SURFACES},
    "state_shape": (1,),
    "max_symbols_per_frame": 2,
}


class Toy:
    """A model whose frames are logits. The transducer's depend on the last token a little."""

    def __init__(self, logits, lengths):
        self.heard = {"encoded": logits, "logits": logits, "encoded_lengths": lengths}

    def __call__(self, inputs, signature):
        if signature == "listen":
            return self.heard
        if signature == "predict":
            tokens = inputs["tokens"].astype("float32")
            return {"predicted": tokens[:, :, None], "next_states": inputs["states"]}
        # A token is not emitted twice in a row.
        logits = inputs["encoded"][:, :, None].copy()
        last = inputs["predicted"][:, 0, 0].astype(int)
        logits[np.arange(len(last)), 0, 0, last] -= np.where(last > 0, 30.0, 0.0)
        return {"logits": logits}


@pytest.mark.parametrize("head", ["ctc", "transducer"])
def test_both_heads_have_beams_beside_greedy_search(head):
    path = np.array([[1, 0, 3, 2], [2, 0, 0, 0]])
    logits = (8.0 * np.eye(4)[path]).astype("float32")
    logits[:, :, 0] += 3.0
    logits[0, 2, 0] += 4.5  # C or nothing
    logits[1, 1:] = 50.0  # padding
    toy, pipeline = Toy(logits, np.array([4, 1])), PIPELINE | {"head": head}
    search = beam_search_of(pipeline, BeamSearch(8), 3)
    decoder = TransducerDecoder(pipeline, True, search, 3)
    outputs = decoder.answer(toy, {})
    found = decoder.transcriptions(outputs)
    assert [x.text for x in found] == [x.beam_text for x in found] == ["AC B", "B"]
    assert [x.text for x in found[0].n_best][:2] == ["AC B", "A B"]
    scores = [x.score for x in found[0].n_best]
    assert len(scores) >= 2 and scores == sorted(scores, reverse=True)
    greedy = TransducerDecoder(pipeline, False)
    plain = greedy.transcriptions(greedy.answer(toy, {}))
    assert [x.text for x in plain] == ["AC B", "B"]
    assert [(x.beam_text, x.n_best) for x in plain] == [(None, ()), (None, ())]
    single = TransducerDecoder(pipeline, False, beam_search_of(pipeline, BeamSearch(8), 1))
    assert [(x.beam_text, x.n_best) for x in single.transcriptions(single.answer(toy, {}))] == [
        ("AC B", ()),
        ("B", ()),
    ]


def test_exports_of_earlier_versions_have_one_signature_of_the_joint_network():
    """And the first ones took one frame in a call."""
    frames = {"dim_range": {"encoded": [[1, 16]]}}
    for converted, expected in (
        ({"project": frames, "join_projected": {}}, {"projects": True, "max_window": 16}),
        ({"join": frames}, {"projects": False, "max_window": 16}),
        ({"join": {"dim_range": {}}}, {"projects": False, "max_window": 1}),
        ({}, {"projects": False, "max_window": 1}),
    ):
        assert network_options({"convert": converted}) == expected
    assert network_options({}) == {"projects": False, "max_window": 1}


def test_texts_of_a_list_are_different():
    def ranked(score, *tokens):
        tokens = np.array(tokens, np.int32)
        return Ranked(Hypothesis(tokens, tokens, tokens, tokens, score), score)

    surfaces = ["", "AB", "A", "B", " "]
    given = [ranked(-1.0, 1), ranked(-2.0, 2, 3), ranked(-3.0, 2), ranked(-4.0, 2, 4)]
    assert different_texts(given, surfaces) == [("AB", -1.0), ("A", -3.0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lm_path": "x.arpa"}, "--beam_width with --lm_path"),
        ({"n_best": 2}, "--beam_width with --n_best"),
        ({"beam_width": -1}, "--beam_width"),
        ({"beam_width": 4, "n_best": 5}, "--n_best from 1 to 4"),
        ({"beam_width": 4, "n_best": 0}, "--n_best from 1 to 4"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with refused(message):
        SearchOptions(**options).beam_search()


@pytest.mark.parametrize("head", ["ctc", "transducer"])
def test_a_language_model_chooses_for_both_heads(head, tmp_path):
    path = tmp_path / "words.arpa"
    path.write_text(
        "\\data\\\nngram 1=5\n\n\\1-grams:\n-9\t<unk>\n-9\t<s>\n-1\t</s>\n-1\tA\n-4\tAC\n\n"
        "\\end\\\n"
    )
    logits = (8.0 * np.eye(4)[[[1, 0, 3, 0]]]).astype("float32")
    logits[:, :, 0] += 3.0
    logits[0, 2, 0] += 4.5  # C or nothing
    toy, pipeline = Toy(logits, np.array([4])), PIPELINE | {"head": head}
    texts = {}
    for weight in (0.0, 0.5):
        search = beam_search_of(pipeline, BeamSearch(8, str(path), weight), 1)
        decoder = TransducerDecoder(pipeline, False, search)
        (found,) = decoder.transcriptions(decoder.answer(toy, {}))
        texts[weight] = found.text, found.beam_text
    assert texts == {0.0: ("AC", "AC"), 0.5: ("AC", "A")}
    path.write_text(path.read_text().replace("A", "x"))
    with refused("words of the letters ABC"):
        beam_search_of(pipeline, BeamSearch(4, str(path)), 1)
