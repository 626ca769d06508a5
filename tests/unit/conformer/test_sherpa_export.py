"""Exports for sherpa-onnx: its tokens are those of the definition, from its own features."""

import numpy as np
import onnxruntime
import pytest

from conformer.export import main
from conformer.session import BUNDLED_MODEL
from tests.support import parakeet, sherpa
from tests.support.errors import refused
from tests.support.parakeet import Sizes
from tools.decoding.ctc import CtcGreedySearch

SIZES = {
    "tdt": Sizes(mels=128, layers=1),  # the durations lack 3
    "rnnt": Sizes(kind="rnnt", mels=80, layers=1, lstms=1, bias=True, scale=True),
    "ctc": Sizes(kind="ctc", mels=80, layers=1, kernel=9),
}
SEEDS = {"tdt": 16, "rnnt": 8, "ctc": 9}  # of models that write several symbols
MOST_SYMBOLS = {"tdt": 5, "rnnt": 10}  # in a frame, in sherpa-onnx
TEXTS = [*parakeet.PIECES, "<blk>"]


@pytest.fixture(scope="module", params=SIZES)
def exported(request, tmp_path_factory):
    """Returns sizes, tensors and the folder of an export."""
    sizes, folder = SIZES[request.param], tmp_path_factory.mktemp(request.param)
    tensors = parakeet.make_tensors(sizes, np.random.default_rng(SEEDS[sizes.kind]))
    if sizes.kind == "rnnt":  # a random model would emit a symbol in every step
        tensors["joint.head.bias"][-1] += 2.0
    source = parakeet.write_folder(folder / "source", sizes, tensors)
    arguments = ["--pretrained", str(source), "--output_dir", str(folder / "export")]
    assert main([*arguments, "--format=sherpa_onnx"]) == 0
    return sizes, tensors, folder / "export"


def sounds():
    rng = np.random.default_rng(3)
    lengths = (16000, 9411)
    return [(0.1 * rng.normal(size=n) * np.geomspace(1, 0.01, n)).astype("f4") for n in lengths]


def of_definition(sizes, tensors, features):
    """Returns the pieces that greedy search writes, and the frame of each."""
    encoded = parakeet.encode(tensors, sizes, features)
    if sizes.kind != "ctc":
        found = parakeet.greedy(tensors, sizes, encoded, MOST_SYMBOLS[sizes.kind])
        return [TEXTS[token] for token, _, _ in found], [frame for _, frame, _ in found]
    encoded = encoded[: len(features) // sizes.factor]  # sherpa-onnx leaves out a part of a frame
    logits, search = parakeet.ctc_logits(tensors, encoded), CtcGreedySearch(sizes.vocabulary - 1)
    state = search.advance(search.start(1), logits[None], np.array([len(logits)]))
    (found,) = search.finish(state)
    return [TEXTS[token] for token in found.tokens], found.starts.tolist()


def test_sherpa_onnx_finds_the_tokens_of_the_definition(exported):
    sizes, tensors, folder = exported
    waveforms, written = sounds(), set()
    for found, waveform in zip(
        sherpa.recognized(folder, waveforms, sizes.mels), waveforms, strict=True
    ):
        features = sherpa.features(waveform, sizes.mels, sizes.kind == "ctc")
        pieces, frames = of_definition(sizes, tensors, features)
        written |= {*pieces}
        assert [x.replace(" ", "\u2581") for x in found["tokens"]] == pieces
        assert found["text"].strip() == "".join(pieces).replace("\u2581", " ").strip()
        np.testing.assert_allclose(found["seconds"], 0.08 * np.array(frames), atol=1e-5)
    assert len(written) > 3


def test_a_padded_batch_of_features_has_the_frames_of_the_definition(exported):
    sizes, tensors, folder = exported
    rows = [parakeet.features(x, sizes.mels) for x in sounds()]
    lengths = np.array([len(x) for x in rows])
    batch = np.full((2, sizes.mels, lengths.max() + 5), 1e3, "float32")
    for place, row in zip(batch, rows, strict=True):
        place[:, : len(row)] = row.T
    name = "model.onnx" if sizes.kind == "ctc" else "encoder.onnx"
    session = onnxruntime.InferenceSession(folder / name)
    found, counts = session.run(None, {"audio_signal": batch, "length": lengths})
    assert counts.tolist() == (-(-lengths // 8)).tolist()
    for row, count, features in zip(found, counts, rows, strict=True):
        expected = parakeet.encode(tensors, sizes, features)
        if sizes.kind == "ctc":
            logits = parakeet.ctc_logits(tensors, expected)
            expected = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        row = row[:count] if sizes.kind == "ctc" else row[:, :count].T
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=2e-5)


def test_metadata_and_tokens(exported):
    sizes, _, folder = exported
    name = "model.onnx" if sizes.kind == "ctc" else "encoder.onnx"
    found = onnxruntime.InferenceSession(folder / name).get_modelmeta().custom_metadata_map
    expected = {"vocab_size": len(parakeet.PIECES), "subsampling_factor": sizes.factor}
    expected |= {"feat_dim": sizes.mels, "normalize_type": "per_feature"}
    if sizes.kind != "ctc":
        expected |= {"pred_rnn_layers": sizes.lstms, "pred_hidden": sizes.lstm}
        assert ("tdt" in found["url"]) == (sizes.kind == "tdt")
    assert {key: found[key] for key in expected} == {k: str(x) for k, x in expected.items()}
    lines = (folder / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [f"{text} {index}" for index, text in enumerate(TEXTS)]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("digits", "a SavedModel with its own front end of 48 mel bins"),
        ("mels", "num_mel_bins: 24"),
    ],
)
def test_another_front_end_is_refused_with_the_reason(tmp_path, source, reason):
    folder = BUNDLED_MODEL
    if source == "mels":
        tensors = parakeet.make_tensors(Sizes(layers=1), np.random.default_rng(1))
        folder = parakeet.write_folder(tmp_path / "source", Sizes(layers=1), tensors)
    target = tmp_path / "export"
    with refused(reason):
        main(["--pretrained", str(folder), "--output_dir", str(target), "--format=sherpa_onnx"])
    assert not target.exists()


def test_a_folder_of_other_files_is_kept(exported, tmp_path):
    _, _, folder = exported
    (tmp_path / "other").write_text("mine")
    source = str(folder.parent / "source")
    arguments = ["--pretrained", source, "--output_dir", str(tmp_path), "--format=sherpa_onnx"]
    with refused("an earlier export for sherpa-onnx"):
        main(arguments)
    assert (tmp_path / "other").read_text() == "mine"
