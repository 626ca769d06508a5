"""The warm-up: what it runs, and that later batches need no other shapes."""

import numpy as np
import pytest

from tests.support.errors import refused
from tests.support.served import FakeRunner
from tests.support.spelling import PIPELINE, RATE_HZ, Spelling
from tools.conversion.dim_range import pad_to
from tools.conversion.protocol import TensorSpec
from tools.conversion.sizes import Padding
from tools.inference.session import Session
from tools.recognition.ctc_decoder import CtcDecoder
from tools.recognition.session import SpeechSession
from tools.serving.warm_up import parse_seconds, warm_up
from tools.speech.audio import AudioLimits
from tools.speech.long_audio import Window

MOST_ROWS = 12


class Padded(Spelling):
    """A recognizer that notes the shapes to which a converted model pads."""

    def __init__(self, rows=(1, 64)):
        super().__init__()
        sizes = (400, 60 * RATE_HZ)
        waveforms = TensorSpec("waveforms", "float32", (rows, sizes))
        specs = (waveforms, TensorSpec("lengths", "int32", (rows,)))
        self.signatures = {"serving_default": specs}
        self.padding = Padding(specs, ranges=True, lengths=True)
        self.shapes = set()

    def run(self, inputs, signature="serving_default"):
        shapes = self.padding.shapes(inputs)
        self.shapes.add(shapes["waveforms"])
        return super().run(pad_to(inputs, shapes), signature)

    def expect(self, name, lengths):
        return self.padding.expect(name, lengths)


def session_of(runner, **options):
    limits = AudioLimits(max_seconds=options.pop("max_seconds", 60.0))
    return SpeechSession(runner, CtcDecoder(PIPELINE), limits, **options)


def shapes_of_traffic(runner, rng):
    """Returns the shapes to which a thousand batches of 2 to 3 s are padded."""
    found = set()
    for rows in rng.integers(1, MOST_ROWS + 1, 1000):
        samples = int(rng.uniform(2, 3, rows).max() * RATE_HZ)
        silence = np.broadcast_to(np.float32(0), (rows, samples))
        inputs = {"waveforms": silence, "lengths": np.full(rows, samples, np.int32)}
        found.add(runner.padding.shapes(inputs)["waveforms"])
    return found


def test_later_batches_need_no_other_shapes(rng):
    runner = Padded()
    assert len(shapes_of_traffic(runner, rng)) > 5
    runner = Padded()
    warm_up(session_of(runner), (2.0, 3.0), MOST_ROWS)
    assert shapes_of_traffic(runner, rng) <= runner.shapes
    assert {rows for rows, _ in runner.shapes} == {1, 2, 4, 8, MOST_ROWS}
    sizes = sorted({samples / RATE_HZ for _, samples in runner.shapes})
    assert np.diff([2.0, *sizes]).max() < 0.3  # so that little is padded


@pytest.mark.parametrize(
    ("options", "longest"),
    [({"max_seconds": 0.5}, 0.5), ({"window": Window.of_seconds(0.6, 0.2, 320, RATE_HZ)}, 1.0)],
)
def test_lengths_that_the_model_does_not_take_at_once_are_left_out(options, longest):
    runner = Padded()
    warm_up(session_of(runner, **options), (0.1, 20.0), 1)
    assert 0 < max(samples for _, samples in runner.shapes) <= longest * RATE_HZ
    alone = len(runner.batches)
    warm_up(session_of(runner, **options), (2.0, 20.0), 1)
    assert len(runner.batches) == alone


def test_batches_are_at_most_those_of_the_converted_model():
    runner = Padded(rows=(1, 3))
    warm_up(session_of(runner), (0.1, 0.2), MOST_ROWS)
    assert {rows for rows, _ in runner.shapes} == {1, 2, 3}


def test_other_models_are_left_alone():
    runner = FakeRunner()
    warm_up(Session(runner), (1.0, 2.0), MOST_ROWS)
    assert not runner.begun.is_set()


def test_the_form_of_the_flag():
    assert parse_seconds("1:8.5") == (1.0, 8.5)
    assert parse_seconds("0.5:0.5") == (0.5, 0.5)
    assert parse_seconds("") is None
    for text in ("2", "8:1", "0:1", "-1:2", "nan:2", "1:inf", "1:2:3", "a:b"):
        with refused(f"--warm_up_seconds SHORTEST:LONGEST, such as 1:8. Received: {text}"):
            parse_seconds(text)
