"""Published Conformers as SavedModels: the same tokens and texts as the model in Python."""

import numpy as np
import pytest

import conformer
from conformer.export import main
from conformer.published import read_published
from tests.support import parakeet
from tests.support.errors import refused
from tests.support.parakeet import Sizes
from tools.decoding.ctc import CtcGreedySearch
from tools.inference.runner import load
from tools.recognition.decoders import TransducerDecoder

SIZES = {
    "ctc": Sizes(kind="ctc", layers=1),
    "tdt": Sizes(kind="tdt", layers=1, bias=True),
}
LENGTHS = np.array([4000, 2890, 7117], np.int32)


@pytest.fixture(scope="module", params=SIZES)
def exported(request, tmp_path_factory):
    """Returns sizes, tensors, the source and the exported directory of a tiny model."""
    sizes, folder = SIZES[request.param], tmp_path_factory.mktemp(request.param)
    tensors = parakeet.make_tensors(sizes, np.random.default_rng(8))
    source = parakeet.write_folder(folder / "source", sizes, tensors)
    arguments = ["--pretrained", str(source), "--output_dir", str(folder / "export")]
    assert main(arguments) == 0
    return sizes, tensors, source, folder / "export"


def sounds():
    rng = np.random.default_rng(3)
    waveforms = rng.normal(size=(3, LENGTHS.max())).astype("float32")
    for row, length in zip(waveforms, LENGTHS, strict=True):
        row[length:] = np.nan
    return {"waveforms": waveforms, "lengths": LENGTHS}


def of_definition(sizes, tensors, waveform):
    """Returns the tokens of a waveform, in this project's order."""
    encoded = parakeet.encode(tensors, sizes, parakeet.features(waveform, sizes.mels))
    if sizes.kind != "ctc":
        return [1 + token for token, _, _ in parakeet.greedy(tensors, sizes, encoded, 3)]
    logits = parakeet.in_own_order(parakeet.ctc_logits(tensors, encoded), sizes)
    search = CtcGreedySearch(0)
    state = search.advance(search.start(1), logits[None], np.array([len(logits)]))
    return search.finish(state)[0].tokens.tolist()


def test_tokens_and_texts_in_the_graph_and_in_python(exported):
    sizes, tensors, source, directory = exported
    runner, inputs = load(directory), sounds()
    expected = [
        of_definition(sizes, tensors, waveform[:length])
        for waveform, length in zip(inputs["waveforms"], LENGTHS, strict=True)
    ]
    assert sum(map(len, expected)) > 3
    tokenizer = read_published(source).tokenizer
    outputs = [
        TransducerDecoder(runner.pipeline, in_graph).answer(runner.run, inputs)
        for in_graph in (True, False)
    ]
    for found in outputs:
        for row, tokens in enumerate(expected):
            assert found["token_ids"][row, : found["token_lengths"][row]].tolist() == tokens
            assert found["text"][row].decode() == tokenizer.decode(tokens)
    np.testing.assert_allclose(
        outputs[0]["log_probability"], outputs[1]["log_probability"], rtol=1e-4
    )
    assert ("predict" in runner.signatures) == (sizes.kind != "ctc")
    assert runner.pipeline["subsampling"] == 8


def test_a_beam_search_of_tokens_and_durations_is_refused(exported):
    sizes, _, _, directory = exported
    if sizes.kind == "tdt":
        with refused("greedy search without hot words"):
            conformer.load(directory, run_eagerly=True, beam_width=4)
