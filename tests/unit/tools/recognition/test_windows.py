"""Chunks of long recordings and limits of sounds, from descriptions of exports and options."""

import json

import pytest

from tests.support.errors import refused
from tools.recognition.options import RecognitionOptions
from tools.recognition.windows import calibration_limits, limits_of, session_lengths, window_of
from tools.speech.long_audio import Window

RATE_HZ = 16000
PIPELINE = {
    "sample_rate_hz": RATE_HZ,
    "hop_samples": 320,
    "min_seconds": 0.2,
    "max_seconds": 35.0,
    "mask_padding": True,
}
LONG = {"long_audio": {"chunk_seconds": 20.0, "context_seconds": 1.0}}


def seconds(window):
    return window.chunk_samples / RATE_HZ, window.overlap_samples / RATE_HZ


@pytest.mark.parametrize(
    ("described", "options", "expected"),
    [
        ({}, {}, (35.0, 7.0)),  # a tenth on each side
        ({"max_seconds": 8.0}, {}, (8.0, 1.6)),
        ({"max_seconds": 300.0}, {}, (60.0, 12.0)),
        (LONG, {}, (20.0, 2.0)),
        (LONG | {"max_seconds": 10.0}, {}, (10.0, 2.0)),
        (LONG, {"chunk_seconds": 5.0}, (5.0, 1.0)),  # never more than a tenth
        (LONG, {"chunk_seconds": 35.0, "overlap_seconds": 17.0}, (35.0, 17.0)),
        (LONG, {"overlap_seconds": 4.0}, (20.0, 4.0)),
    ],
)
def test_windows_are_those_of_the_export_or_of_the_flags(described, options, expected):
    window = window_of(PIPELINE | described, RecognitionOptions(**options))
    assert seconds(window) == pytest.approx(expected, abs=0.04)


def test_a_conformer_has_frames_of_several_steps_and_pauses_need_a_mask():
    conformer = {key: PIPELINE[key] for key in ("sample_rate_hz", "max_seconds")}
    conformer |= {"frame_step_ms": 10.0, "subsampling": 4, "kind": "transducer"}
    expected = Window.of_seconds(35.0, 7.0, 640, RATE_HZ)
    assert window_of(conformer, RecognitionOptions()) == expected
    assert expected.pause_frames == 6
    unmasked = window_of(PIPELINE | {"mask_padding": False}, RecognitionOptions())
    assert unmasked.pause_frames is None, "padding behind a shorter chunk would change its result"


def test_windows_beyond_the_model_are_refused():
    with refused("--chunk_seconds of at most 35, the limit of the model"):
        window_of(PIPELINE, RecognitionOptions(chunk_seconds=36.0))
    with refused("--chunk_seconds of at most 4, the limit of the model"):
        window_of(PIPELINE, RecognitionOptions(chunk_seconds=5.0), 4.0)
    with refused("half of --chunk_seconds"):
        window_of(PIPELINE, RecognitionOptions(chunk_seconds=4.0, overlap_seconds=3.0))


@pytest.fixture
def model(tmp_path):
    """Returns the description of a model for at most 33 s at 8 kHz."""
    convert = {"listen": {"dim_range": {"waveforms": [[200, 33 * 8000]]}}}
    described = PIPELINE | {"sample_rate_hz": 8000, "max_seconds": 33.0, "convert": convert}
    (tmp_path / "assets").mkdir()
    (tmp_path / "saved_model.pb").touch()
    (tmp_path / "assets" / "pipeline.json").write_text(json.dumps(described))
    return tmp_path, described


@pytest.mark.parametrize(
    ("options", "longest"),
    [
        ({}, 33),
        ({"enable_dim_range": False}, 33),
        ({"enable_dim_range": False, "max_seconds": 5.0}, 5),
        ({"max_seconds": 5.0}, 33),  # a limit for recordings, not for chunks
        ({"dim_range": "encoded=1:4,1"}, 33),
        ({"dim_range": "waveforms=1:4,200:400000"}, 33),
        ({"dim_range": "waveforms=2,16000"}, 2),
        ({"run_eagerly": True}, 33),
    ],
)
def test_chunks_are_no_longer_than_one_run_takes(model, options, longest):
    place, described = model
    found = session_lengths(place, described, RecognitionOptions(**options))
    assert found["at_once_seconds"] == longest
    assert found["window"].chunk_samples == longest * 8000
    assert found["limits"].max_seconds == options.get("max_seconds", 360_000)


@pytest.mark.parametrize(("size", "longest"), [([200, 80000], 10), (24000, 3)])
def test_a_converted_model_takes_what_it_was_converted_for(model, size, longest):
    place, described = model
    inputs = [["lengths", "int32", [[1, 2]]], ["waveforms", "float32", [[1, 2], size]]]
    signatures = {"join": {"inputs": []}, "listen": {"inputs": inputs}}
    (place / "manifest.json").write_text(json.dumps({"signatures": signatures}))
    found = session_lengths(place, described, RecognitionOptions(max_seconds=500.0))
    assert (found["at_once_seconds"], found["limits"].max_seconds) == (longest, 500)


def test_limits_and_the_shortest_silence(model):
    limits = limits_of(PIPELINE, RecognitionOptions(max_seconds=5.0))
    assert (limits.rate_hz, limits.min_seconds, limits.max_seconds) == (RATE_HZ, 0.2, 5.0)
    assert calibration_limits(PIPELINE).max_seconds == 35.0
    place, described = model
    options = RecognitionOptions(skip_silence_seconds=3.0)
    assert session_lengths(place, described, options)["skip_silence_seconds"] == 3.0
    with refused("--skip_silence_seconds >= 0.5"):
        session_lengths(place, described, RecognitionOptions(skip_silence_seconds=0.1))
