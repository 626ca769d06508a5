"""Tests decoding of logits: vocabulary, enumeration of paths, and times computed by hand."""

import itertools
from collections import defaultdict

import numpy as np
import pytest

from tests.support.errors import refused
from tools.decoding.ctc import CtcGreedySearch
from tools.decoding.options import BeamSearch
from tools.decoding.text import text_of
from tools.recognition.beams import ctc_beam_search
from tools.recognition.ctc_decoder import CtcDecoder
from tools.recognition.decoders import searched
from tools.recognition.recognizing import with_words
from tools.recognition.word_times import FrameTimes
from wav2vec2.vocabulary import Vocabulary


def pipeline_of(vocabulary):
    return {
        "blank": vocabulary.blank_id,
        "vocabulary": {"surfaces": list(vocabulary.surfaces)},
        "hop_samples": 320,
        "receptive_field_samples": 400,
        "sample_rate_hz": 16000,
    }


def greedy(path, vocabulary):
    """Returns the hypothesis of greedy search, given the best symbol of each frame."""
    logits = np.eye(len(vocabulary), dtype="float32")[list(path)][None]
    search = CtcGreedySearch(vocabulary.blank_id)
    (found,) = search.finish(search.advance(search.start(1), logits, np.array([len(path)])))
    return found


def greedy_text(logits, vocabulary):
    return text_of(greedy(logits.argmax(-1), vocabulary).tokens, vocabulary.surfaces)


def beam_search(vocabulary, beam):
    """Returns a function of logits that returns the text of the search."""
    search = ctc_beam_search(pipeline_of(vocabulary), beam)

    def text(logits):
        (found,) = searched(search, logits[None], np.array([len(logits)]))
        return " ".join(text_of(found.tokens, vocabulary.surfaces).split())

    return text


def test_greedy_text_is_that_of_the_vocabulary(vocabulary, rng):
    for length in (0, 1, 40):
        logits = rng.standard_normal((length, 12)).astype(np.float32)
        assert greedy_text(logits, vocabulary) == vocabulary.decode_path(logits.argmax(-1))


def test_another_blank():
    vocabulary = Vocabulary(("A", "B", "|", "<pad>"))
    found = greedy([0, 0, 3, 0, 1, 3, 3, 1, 2, 0, 2], vocabulary)
    assert text_of(found.tokens, vocabulary.surfaces) == "AABB A"


def test_words_have_the_times_of_their_frames(vocabulary):
    """CAB, a pause, A, in frames every 20 ms that are centered in windows of 25 ms."""
    path = [8, 2, 2, 8, 0, 1, 1, 8, 7, 7, 8, 8, 0, 8]
    outputs = {"logits": np.eye(12)[path][None], "logit_lengths": np.array([len(path)])}
    decoder = CtcDecoder(pipeline_of(vocabulary))
    times = FrameTimes(pipeline_of(vocabulary))
    (found,) = with_words(lambda *_: outputs, decoder, {}, times)
    assert [word.text for word in found.words] == ["CAB", "A"]
    times = [[word.start_seconds, word.end_seconds] for word in found.words]
    np.testing.assert_allclose(times, [[0.0225, 0.1425], [0.2425, 0.2625]])


def most_probable_text(logits, vocabulary):
    """Returns the best text by the sum over all paths."""
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    texts = defaultdict(float)
    frames, symbols = logits.shape
    for path in itertools.product(range(symbols), repeat=frames):
        product = np.prod(probabilities[np.arange(frames), path])
        texts[vocabulary.decode_path(path)] += product
    return max(texts, key=texts.__getitem__)


def test_beam_search_finds_the_most_probable_text(rng):
    vocabulary = Vocabulary(("A", "<s>", "|", "<pad>", "B"))
    beam = beam_search(vocabulary, BeamSearch(100))
    greedy, found = 0, 0
    for _ in range(12):
        logits = rng.standard_normal((5, 5)).astype(np.float32)
        # The search ignores repeated spaces and spaces at the ends.
        logits[:, 2] -= 20
        expected = most_probable_text(logits, vocabulary)
        found += beam(logits) == expected
        greedy += greedy_text(logits, vocabulary) == expected
    assert found == 12 > greedy
    assert beam(logits[:0]) == ""


def test_a_language_model_chooses_among_what_sounds_alike(tmp_path, vocabulary):
    path = tmp_path / "words.arpa"
    head = "\\data\\\nngram 1=5\nngram 2=1\n\n\\1-grams:\n-2\t<unk>\n-2\t<s>\t0\n-1\t</s>\n"
    tail = "\n\\2-grams:\n-0.3\t<s> {}\n\n\\end\\\n"
    path.write_text(head + "-0.3\tBED\t0\n-3\tBAD\t0\n" + tail.format("BED"))
    logits = np.full((3, 12), -9.0, np.float32)
    for frame, symbols in enumerate(("B", "AE", "D")):
        logits[frame, [vocabulary.encode(x)[0] for x in symbols]] = 2.0
    logits[1, vocabulary.encode("A")[0]] += 0.2
    plain = beam_search(vocabulary, BeamSearch(20))
    guided = beam_search(vocabulary, BeamSearch(20, str(path)))
    assert plain(logits) == greedy_text(logits, vocabulary) == "BAD"
    assert guided(logits) == "BED"
    path.write_text(head + "-0.3\tbed\t0\n-3\tbad\t0\n" + tail.format("bed"))
    with refused("like the vocabulary of the model"):
        beam_search(vocabulary, BeamSearch(20, str(path)))


def write_arpa(path, words):
    """Writes a unigram model with log10 probabilities; unknown words have -9."""
    unigrams = "".join(f"{value}\t{word}\t0\n" for word, value in words.items())
    counts = f"\\data\\\nngram 1={len(words) + 3}\nngram 2=1\n\n"
    frame = "\\1-grams:\n-9\t<unk>\n-9\t<s>\t0\n0\t</s>\t0\n"
    # KenLM requires bigrams, so add one that does not occur.
    path.write_text(f"{counts}{frame}{unigrams}\n\\2-grams:\n-1\t</s> </s>\n\n\\end\\\n")
    return str(path)


@pytest.fixture
def two_or_one():
    """Returns logits of A, a delimiter or blank, and B: two words or one word."""
    vocabulary = Vocabulary(("<pad>", "A", "B", "|"))
    probabilities = np.full((3, 4), 1e-9)
    probabilities[0, 1] = probabilities[2, 2] = 1.0
    probabilities[1, [0, 3]] = 0.75, 0.25
    return vocabulary, np.log(probabilities).astype(np.float32)


@pytest.mark.parametrize(
    ("bonus", "weight", "text"),
    [
        # In the logits, one word is log(3) = 1.1 better than two.
        (0.0, 0.0, "AB"),
        (1.0, 0.0, "AB"),
        (1.2, 0.0, "AB"),  # A language model of weight 0 has no bonus either.
        (1.2, 0.01, "A B"),
        # In the language model, two words are 0.1 * log(10) better, times the weight.
        (0.0, 1.0, "AB"),
        (1.0, 1.0, "A B"),
        (1.0, 0.2, "AB"),
        (-1.0, 8.0, "AB"),
        (-0.5, 8.0, "A B"),
    ],
)
def test_weight_and_word_bonus_count_once_for_each_word(two_or_one, tmp_path, bonus, weight, text):
    vocabulary, logits = two_or_one
    path = write_arpa(tmp_path / "words.arpa", {"A": -0.45, "B": -0.45, "AB": -1.0})
    search = BeamSearch(20, path, weight, bonus)
    assert beam_search(vocabulary, search)(logits) == text


def test_a_wider_beam_finds_what_a_narrow_one_loses():
    """A is more likely than B in the first frame, but the sum over all paths of B is larger."""
    vocabulary = Vocabulary(("<pad>", "A", "B", "|"))
    probabilities = np.full((2, 4), 1e-9)
    probabilities[0, [0, 1, 2]] = 0.3, 0.4, 0.3
    probabilities[1, [0, 1, 2]] = 0.4, 0.1, 0.5
    logits = np.log(probabilities).astype(np.float32)
    # P(AB) = 0.2; P(B) = 0.3 * 0.4 + 0.3 * 0.5 + 0.3 * 0.5 = 0.42.
    assert most_probable_text(logits, vocabulary) == "B"
    wide, narrow = (beam_search(vocabulary, BeamSearch(x)) for x in (20, 1))
    assert wide(logits) == "B"
    assert narrow(logits) == "AB"


def test_labels_have_their_first_frame_and_the_one_behind_the_last(vocabulary):
    found = greedy([5, 5, 8, 5, 6, 8, 8, 7], vocabulary)
    labels = list(zip(*(x.tolist() for x in found[:3]), strict=True))
    assert labels == [(5, 0, 2), (5, 3, 4), (6, 4, 5), (7, 7, 8)]
    assert len(greedy([8, 8], vocabulary).tokens) == 0
