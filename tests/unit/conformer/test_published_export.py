"""Published Conformers as SavedModels: texts in the graph and in Python, options of sessions."""

import json

import numpy as np
import pytest

import conformer
import conformer.session
from conformer.export import main
from conformer.infer import main as infer
from conformer.published import read_published
from tests.support import parakeet
from tests.support.fake_hub import fake_hub
from tests.support.parakeet import Sizes
from tests.support.speech import wav_bytes
from tools.conversion.converter import convert
from tools.conversion.request import ConversionRequest
from tools.decoding.ctc import CtcGreedySearch
from tools.decoding.options import BeamSearch
from tools.inference.runner import load
from tools.recognition.beams import beam_search_of
from tools.recognition.transducer_decoder import TransducerDecoder

SIZES = {
    "ctc": Sizes(kind="ctc", layers=1),
    "tdt": Sizes(kind="tdt", layers=1, bias=True),
}
RATE_HZ = 16000
ARPA = "\\data\\\nngram 1=4\n\n\\1-grams:\n-2\t<unk>\n-1\t<s>\n-1\t</s>\n-0.5\tin\n\n\\end\\\n"
LENGTHS = np.array([4000, 2890, 7117], np.int32)


@pytest.fixture(scope="module", params=SIZES)
def exported(request, tmp_path_factory):
    """Returns sizes, tensors, the source and the exported directory of a tiny model."""
    sizes, folder = SIZES[request.param], tmp_path_factory.mktemp(request.param)
    tensors = parakeet.make_tensors(sizes, np.random.default_rng(8))
    source = parakeet.write_folder(folder / "source", sizes, tensors)
    named = str(source) if sizes.kind != "ctc" else "hf:owner/tiny@main"
    with fake_hub(folder / "hub") as hub:
        hub.repositories["owner/tiny"] = {x.name: x.read_bytes() for x in source.iterdir()}
        assert main(["--pretrained", named, "--output_dir", str(folder / "export")]) == 0
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


def test_the_beam_in_the_graph_is_that_of_the_host(exported):
    sizes, *_, directory = exported
    runner, inputs = load(directory), sounds()
    inputs["waveforms"][1, : LENGTHS[1]] = 0.0
    assert ("serve_beam" in runner.signatures) == (sizes.kind != "ctc")
    if sizes.kind == "ctc":
        return
    width = runner.pipeline["searches"]["serve_beam"]["beam_width"]
    search = beam_search_of(runner.pipeline, BeamSearch(width), width)
    expected = TransducerDecoder(runner.pipeline, False, search, width).answer(runner.run, inputs)
    found = runner.run(inputs, "serve_beam")
    assert found["beam_texts"].tolist() == expected["beam_texts"].tolist()
    np.testing.assert_allclose(found["beam_scores"], expected["beam_scores"], rtol=1e-4, atol=1e-4)
    assert found["beam_texts"][1].tolist() == [b""] * width
    assert len({*found["beam_texts"][0].tolist()}) == width
    silent = {"waveforms": np.zeros((1, 4000), "float32"), "lengths": LENGTHS[:1]}
    assert runner.run(silent, "serve_beam")["beam_texts"].tolist() == [[b""] * width]


def test_an_rnnt_with_two_lstms_in_the_graph_and_converted(tmp_path, monkeypatch):
    sizes = Sizes(kind="rnnt", layers=1, lstms=2)
    tensors = parakeet.make_tensors(sizes, np.random.default_rng(2))
    tensors["joint.head.bias"][-1] += 1.0  # a random model would emit a symbol in every step
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = conformer.session.exported(
        parakeet.write_folder(tmp_path / "source", sizes, tensors)
    )
    request, place = ConversionRequest(backend="openvino", batch=(1, 64)), tmp_path / "converted"
    convert(directory, place, request)
    native, converted, inputs = load(directory), load(place), sounds()
    inputs = {**inputs, "waveforms": np.nan_to_num(inputs["waveforms"])}
    width = native.pipeline["searches"]["serve_beam"]["beam_width"]
    search = beam_search_of(native.pipeline, BeamSearch(width), width)
    decoder = TransducerDecoder(native.pipeline, False, search, width)
    found, in_graph = decoder.answer(converted.run, inputs), native.run(inputs)
    total = 0
    for row, length in enumerate(LENGTHS):
        tokens = of_definition(sizes, tensors, inputs["waveforms"][row, :length])
        total += len(tokens)
        for one in (found, in_graph):
            assert one["token_ids"][row, : one["token_lengths"][row]].tolist() == tokens
    assert total > 3
    beams = native.run(inputs, "serve_beam")
    assert beams["beam_texts"].tolist() == found["beam_texts"].tolist()
    np.testing.assert_allclose(beams["beam_scores"], found["beam_scores"], rtol=1e-3, atol=1e-3)


def sound(seconds=1.5):
    rng = np.random.default_rng(3)
    return (0.3 * rng.normal(size=round(seconds * RATE_HZ))).astype("float32")


def check_words(found, seconds):
    """Checks that the words are those of the text, in order and within the sound."""
    text = found.text if found.beam_text is None else found.beam_text
    assert [word.text for word in found.words] == text.split()
    edges = [(word.start_seconds, word.end_seconds) for word in found.words]
    assert all(0 <= start <= end <= seconds + 1e-6 for start, end in edges)
    assert [start for start, _ in edges] == sorted(start for start, _ in edges)
    assert all(0 <= word.confidence <= 1 for word in found.words)


def test_a_beam_with_a_language_model_and_hot_words_gives_a_list_of_texts(exported, tmp_path):
    *_, directory = exported
    path = tmp_path / "words.arpa"
    path.write_text(ARPA)
    plain = {"run_eagerly": True, "beam_width": 4, "n_best": 3}
    found = {}
    for name, options in {
        "plain": {},
        "zero": {"hotwords": ["in\t0"]},
        "hot": {"hotwords": ["in\t20"]},
        "model": {"lm_path": str(path), "lm_weight": 2.0, "word_bonus": 3.0},
    }.items():
        with conformer.load(directory, **plain, **options) as session:
            found[name] = session.transcribe(sound(), rate_hz=RATE_HZ, timestamps=True)
    for one in found.values():
        check_words(one, 1.5)
        scores = [x.score for x in one.n_best]
        assert scores == sorted(scores, reverse=True)
        assert 1 < len({x.text for x in one.n_best}) == len(scores)
        assert one.n_best[0].text == one.beam_text
    assert found["zero"] == found["plain"]
    assert "in" not in found["plain"].beam_text.split()
    assert "in" in found["hot"].beam_text.split()
    assert found["model"].n_best != found["plain"].n_best


def test_hot_words_in_the_greedy_search(exported):
    *_, directory = exported
    texts = {}
    for weight in (0, 20):
        with conformer.load(directory, run_eagerly=True, hotwords=[f"in\t{weight}"]) as session:
            texts[weight] = session.transcribe(sound(), rate_hz=RATE_HZ).text
    with conformer.load(directory, run_eagerly=True) as session:
        assert session.transcribe(sound(), rate_hz=RATE_HZ).text == texts[0]
    assert texts[0].split().count("in") < texts[20].split().count("in")


def test_a_long_recording_does_not_depend_on_its_slices(exported):
    *_, directory = exported
    waveform = np.concatenate([sound(2.0), np.zeros(8000, "float32"), sound(1.7)])
    slices = [[waveform], np.split(waveform, [100, 20000, 40001])]
    with conformer.load(
        directory, run_eagerly=True, chunk_seconds=2, overlap_seconds=0.5, beam_width=3
    ) as session:
        found = [session.recognize_long(iter(x), timestamps=True) for x in slices]
    assert found[0].beam_text and found[0] == found[1]
    check_words(found[0], len(waveform) / RATE_HZ)
    assert found[0].words[-1].end_seconds > 2.0, "the last chunk is recognized"


def test_formats_and_times_on_the_command_line(exported, tmp_path, capsys):
    path = tmp_path / "sound.wav"
    path.write_bytes(wav_bytes(sound()))
    *_, directory = exported
    common = [str(path), "--native_savedmodel_dir", str(directory), "--run_eagerly"]
    shown = {}
    for kind in ("json", "srt", "vtt"):
        assert infer([*common, f"--format={kind}", "--beam_width=3"]) == 0
        shown[kind] = capsys.readouterr().out
    told = json.loads(shown["json"])
    assert shown["vtt"].startswith("WEBVTT") and " --> " in shown["srt"]
    words = shown["srt"].split("\n", 2)[2].split()
    assert words[0] in json.dumps(told)
    assert infer([*common, "--timestamps"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert all(float(start) <= float(end) for start, end, _ in lines)
