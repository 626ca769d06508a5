"""Texts of logits against the vocabulary's own words, enumeration, and times by hand."""

import itertools
from collections import defaultdict

import numpy as np
import pytest

from tools.decoding.timestamps import words_of
from tools.errors import UserError
from tools.speech.language_model import BeamSearch
from wav2vec2.decoding import Decoder
from wav2vec2.vocabulary import Vocabulary


def pipeline_of(vocabulary):
    return {
        "blank": vocabulary.blank_id,
        "vocabulary": {"surfaces": list(vocabulary.surfaces)},
        "hop_samples": 320,
        "receptive_field_samples": 400,
        "sample_rate_hz": 16000,
    }


@pytest.fixture
def decoder(vocabulary):
    return Decoder(pipeline_of(vocabulary))


def test_greedy_text_is_that_of_the_vocabulary(decoder, vocabulary, rng):
    for length in (0, 1, 40):
        logits = rng.standard_normal((length, 12)).astype(np.float32)
        path = decoder.path(logits)
        assert decoder.text(path) == vocabulary.decode_path(logits.argmax(-1))
        assert decoder.text(path) == "".join(x.text for x in decoder.pieces(path)).strip()


def test_another_blank(rng):
    vocabulary = Vocabulary(("A", "B", "|", "<pad>"))
    decoder = Decoder(pipeline_of(vocabulary))
    assert decoder.text([0, 0, 3, 0, 1, 3, 3, 1, 2, 0, 2]) == "AABB A"


def test_words_have_the_times_of_their_frames(decoder):
    """CAB, a pause, A, by frames of 20 ms that stand in the middle of 25."""
    path = [0, 7, 7, 0, 5, 6, 6, 0, 4, 4, 0, 0, 5, 0]
    words = words_of(decoder.pieces(path))
    assert [word.text for word in words] == ["CAB", "A"]
    times = [[word.start_seconds, word.end_seconds] for word in words]
    np.testing.assert_allclose(times, [[0.0225, 0.1425], [0.2425, 0.2625]])


def most_probable_text(logits, vocabulary):
    """By the sum over all paths."""
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    texts = defaultdict(float)
    frames, symbols = logits.shape
    for path in itertools.product(range(symbols), repeat=frames):
        product = np.prod(probabilities[np.arange(frames), path])
        texts[vocabulary.decode_path(path)] += product
    return max(texts, key=texts.__getitem__)


def test_beam_search_finds_the_most_probable_text(rng):
    pytest.importorskip("pyctcdecode", reason="the extra [beam] is not installed")
    vocabulary = Vocabulary(("<pad>", "<s>", "|", "A", "B"))
    beam = Decoder(pipeline_of(vocabulary), BeamSearch(100))
    greedy, found = 0, 0
    for _ in range(12):
        logits = rng.standard_normal((5, 5)).astype(np.float32)
        # Inner spaces and outer ones are of no weight in the search.
        logits[:, 2] -= 20
        expected = most_probable_text(logits, vocabulary)
        found += beam.beam_text(logits) == expected
        greedy += beam.text(beam.path(logits)) == expected
    assert found == 12 > greedy
    assert beam.beam_text(logits[:0]) == ""


def test_a_language_model_chooses_among_what_sounds_alike(tmp_path, vocabulary):
    for package in ("pyctcdecode", "kenlm"):
        pytest.importorskip(package, reason="the extra [beam] is not installed")
    path = tmp_path / "words.arpa"
    head = "\\data\\\nngram 1=5\nngram 2=1\n\n\\1-grams:\n-2\t<unk>\n-2\t<s>\t0\n-1\t</s>\n"
    tail = "\n\\2-grams:\n-0.3\t<s> {}\n\n\\end\\\n"
    path.write_text(head + "-0.3\tBED\t0\n-3\tBAD\t0\n" + tail.format("BED"))
    logits = np.full((3, 12), -9.0, np.float32)
    for frame, symbols in enumerate(("B", "AE", "D")):
        logits[frame, [vocabulary.encode(x)[0] for x in symbols]] = 2.0
    logits[1, vocabulary.encode("A")[0]] += 0.2
    plain = Decoder(pipeline_of(vocabulary), BeamSearch(20))
    guided = Decoder(pipeline_of(vocabulary), BeamSearch(20, str(path)))
    assert plain.beam_text(logits) == plain.text(plain.path(logits)) == "BAD"
    assert guided.beam_text(logits) == "BED"
    path.write_text(head + "-0.3\tbed\t0\n-3\tbad\t0\n" + tail.format("bed"))
    with pytest.raises(UserError, match="case of the model"):
        Decoder(pipeline_of(vocabulary), BeamSearch(20, str(path)))
