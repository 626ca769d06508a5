"""Words and long recordings of every kind of decoder: in chunks as in one pass, with true times."""

import numpy as np
import pytest
import soundfile

from tests.support.errors import refused
from tests.support.odd_sounds import ogg_pages
from tests.support.spelling import HOP, PIPELINE, RATE_HZ, SURFACES, Spelling, sound_of
from tools.decoding.options import BeamSearch
from tools.recognition.beams import beam_search_of, ctc_beam_search
from tools.recognition.ctc_decoder import CtcDecoder
from tools.recognition.session import SpeechSession
from tools.recognition.transducer_decoder import TransducerDecoder
from tools.speech.audio import AudioError, AudioLimits
from tools.speech.long_audio import Window

LIMITS = AudioLimits(RATE_HZ, 0.02, 36_000.0)
TRANSDUCER = PIPELINE | {"state_shape": [2, 1], "max_symbols_per_frame": 1}


class Pieces(Spelling):
    """The signatures of a transducer, or with `logits` of a CTC head, that writes like Spelling.

    The transducer writes a blank where the frame has the symbol of its last token, as CTC does.
    """

    signatures = {"listen": ("specs",), "predict": (), "join": ()}  # noqa: RUF012 - a stand-in

    def __init__(self, head="transducer"):
        super().__init__()
        self.pipeline = TRANSDUCER | {"head": head}

    def run(self, inputs, signature="serving_default"):
        if signature == "predict":
            last = inputs["tokens"].astype("float32")
            return {"predicted": last[:, :, None], "next_states": np.zeros((len(last), 2, 1))}
        if signature == "join":
            logits = inputs["encoded"][:, :, None].copy()
            last = inputs["predicted"][:, 0, 0].astype(int)
            rows = np.arange(len(logits))
            logits[rows, :, 0, last] = np.where(last > 0, -30.0, logits[rows, :, 0, last].T).T
            logits[..., 0] = np.maximum(logits[..., 0], 5.0)
            return {"logits": logits}
        found = super().run(inputs)
        silent = ~inputs["waveforms"].any(axis=1)
        frames = {"logits": found["logits"], "encoded": found["logits"]}
        return {**frames, "encoded_lengths": np.where(silent, 0, found["logit_lengths"])}


def session_of(kind, beam=None, **options):
    """Returns a session of CTC, a transducer, or a Conformer's CTC head."""
    options = {"batch_size": 2, "window": Window.of_seconds(0.6, 0.2, HOP, RATE_HZ)} | options
    if kind == "ctc":
        search = beam and ctc_beam_search(PIPELINE, beam)
        return SpeechSession(Spelling(), CtcDecoder(PIPELINE, search), LIMITS, **options)
    runner = Pieces("ctc" if kind == "head" else "transducer")
    search = beam and beam_search_of(runner.pipeline, beam, 1)
    return SpeechSession(
        runner, TransducerDecoder(runner.pipeline, False, search), LIMITS, **options
    )


def textured(text, frames_each):
    """Returns the sound of a text whose level is not constant, which would be silence."""
    return sound_of(text, frames_each) + np.resize([0.05, -0.05], len(text) * frames_each * HOP)


KINDS = ["ctc", "head", "transducer"]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def texts_of(rng, num_letters=60):
    """Letters in words of one to four, without letters that follow themselves."""
    letters = []
    while len(letters) < num_letters:
        letter = SURFACES[rng.integers(1, len(SURFACES))]
        if not letters or letters[-1] != letter:
            letters.append(letter)
    return "".join(letters).strip()


@pytest.mark.parametrize("beam", [None, BeamSearch(4)])
def test_a_recording_in_chunks_is_that_of_one_pass(kind, beam, rng):
    for _ in range(3):
        text = texts_of(rng)
        sound = sound_of(text)
        whole = session_of(kind, beam, at_once_seconds=60.0)
        cut = session_of(kind, beam)
        expected, found = (
            x.transcribe(sound, rate_hz=RATE_HZ, timestamps=True) for x in (whole, cut)
        )
        assert whole.runner.batches == [[len(sound)]] and len(cut.runner.batches) > 2
        assert found == expected
        assert expected.text.split() == text.split()
        assert (expected.beam_text is None) == (beam is None)


def test_words_lie_in_the_sound_in_order_and_where_their_letters_are(kind, rng):
    text = texts_of(rng)
    found = session_of(kind).transcribe(sound_of(text), rate_hz=RATE_HZ, timestamps=True)
    assert [word.text for word in found.words] == text.split()
    seconds = 3 * HOP / RATE_HZ
    starts = [n for n, x in enumerate(text) if x != " " and (n == 0 or text[n - 1] == " ")]
    np.testing.assert_allclose([w.start_seconds for w in found.words], np.array(starts) * seconds)
    ends = [w.end_seconds for w in found.words]
    assert all(a < b for a, b in zip([w.start_seconds for w in found.words], ends, strict=True))
    assert all(a <= b.start_seconds for a, b in zip(ends, found.words[1:], strict=False))
    assert ends[-1] <= found.duration_seconds
    assert all(0.9 < word.confidence <= 1.0 for word in found.words)
    assert [len(word.tokens) for word in found.words] == [len(x) for x in text.split()]


def test_a_delay_of_the_model_is_taken_off_the_times(kind):
    session = session_of(kind)
    plain = session.transcribe(sound_of("AB CD"), rate_hz=RATE_HZ, timestamps=True).words
    session.pipeline = session.pipeline | {"word_delay_seconds": {"start": 0.05, "end": -0.04}}
    words = session.transcribe(sound_of("AB CD"), rate_hz=RATE_HZ, timestamps=True).words
    assert [w.start_seconds for w in words] == pytest.approx([0.0, plain[1].start_seconds - 0.05])
    assert words[0].end_seconds == pytest.approx(
        min(plain[0].end_seconds + 0.04, words[1].start_seconds)
    )
    assert words[1].end_seconds == pytest.approx(min(plain[1].end_seconds + 0.04, 0.3))


def test_silence_between_words_keeps_their_times(kind):
    """Longer than several chunks, and digital: the model is given none of it."""
    silence = np.zeros(round(3.0 * RATE_HZ), "float32")
    sound = np.concatenate([sound_of("AB"), silence, sound_of("CD"), silence])
    found = session_of(kind).transcribe(sound, rate_hz=RATE_HZ, timestamps=True)
    assert found.text == "AB CD" or found.text == "ABCD"  # a stand-in writes no space in silence
    last = found.words[-1]
    assert found.duration_seconds == len(sound) / RATE_HZ
    assert last.end_seconds == pytest.approx(3.0 + 4 * 3 * HOP / RATE_HZ, abs=0.05)
    nothing = session_of(kind).transcribe(silence, rate_hz=RATE_HZ, timestamps=True)
    assert (nothing.text, nothing.words) == ("", ())


def test_silences_that_are_left_out_are_told_and_keep_the_times(kind, rng):
    quiet = 1e-4 * rng.normal(size=10 * RATE_HZ).astype("float32")
    sound = np.concatenate([textured("ABAB ", 40), quiet, textured(" CD", 40)])
    session = session_of(kind, skip_silence_seconds=2.0)
    found = session.transcribe(sound, rate_hz=RATE_HZ, timestamps=True)
    plain = session_of(kind).transcribe(sound, rate_hz=RATE_HZ, timestamps=True)
    ((start, end),) = found.skipped
    assert (start, end) == pytest.approx((5 * 0.8 + 0.24, 5 * 0.8 + 10 - 0.24), abs=0.03)
    assert plain.skipped == ()
    assert [word.text for word in found.words] == ["ABAB", "CD"]
    for one, other in zip(found.words, plain.words, strict=True):
        assert one[1:3] == pytest.approx(other[1:3], abs=0.05)
    short = session.transcribe(sound_of("AB"), rate_hz=RATE_HZ)
    assert (short.text, short.skipped) == ("AB", ())


def test_what_is_heard_before_damage_is_kept(kind):
    sound = sound_of("ABCDEFGH" * 4)

    def broken(stop):
        for start in range(0, stop, 500):
            yield sound[start : start + 500]
        raise AudioError("broken", reason="truncated")

    found = session_of(kind).recognize_long(broken(len(sound) // 2), timestamps=True)
    assert "ABCDEFGH" * 4 != found.text == ("ABCDEFGH" * 4)[: len(found.text)]
    assert len(found.text) >= 15
    assert found.damage == "truncated"
    assert found.duration_seconds == pytest.approx(len(sound) / 2 / RATE_HZ, abs=0.04)
    assert found.words[-1].end_seconds <= found.duration_seconds
    with refused("broken"):
        session_of(kind).recognize_long(broken(0))


def test_a_file_that_breaks_off_is_recognized_up_to_there(kind, tmp_path, caplog):
    sound = np.repeat(sound_of("ABCDEFGH" * 4), 5)
    path = tmp_path / "long.flac"
    soundfile.write(path, sound, RATE_HZ)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    found = session_of(kind).transcribe(path)
    assert found.damage in ("unreadable", "truncated")
    assert 0 < found.duration_seconds < len(sound) / RATE_HZ
    assert found.text and ("ABCDEFGH" * 4).startswith(found.text)
    assert f"{path}: recognized up to {found.duration_seconds:.2f} s" in caplog.text


def test_an_ogg_with_a_damaged_page_is_recognized_up_to_there(kind, tmp_path, caplog):
    sound = np.repeat(sound_of("ABCDEFGH" * 4), 5) + np.resize([0.01, -0.01], 480 * HOP)
    path = tmp_path / "long.ogg"
    soundfile.write(path, sound, RATE_HZ, format="OGG", subtype="VORBIS")
    pages = ogg_pages(path.read_bytes())
    middle = len(pages) // 2
    pages[middle] = pages[middle][:-9] + bytes(9)
    path.write_bytes(b"".join(pages))
    found = session_of(kind).transcribe(path)
    assert found.damage == "unreadable"
    assert 0.2 < found.duration_seconds / (len(sound) / RATE_HZ) < 0.8
    assert found.text
    assert f"{path}: recognized up to {found.duration_seconds:.2f} s" in caplog.text


def test_an_hour_is_never_held(kind):
    """An hour of silence with two words: the samples come in pieces and leave the memory."""
    drawn = [0]

    def pieces():
        for number in range(360):
            drawn[0] += 1
            piece = np.zeros(10 * RATE_HZ, "float32")
            if number in (0, 359):
                piece[: 120 * HOP] = textured("AB ", 40)
            yield piece

    window = Window.of_seconds(60.0, 12.0, HOP, RATE_HZ)
    session = session_of(kind, window=window, skip_silence_seconds=1.0, batch_size=4)
    largest = []
    run = session.runner.run
    session.runner.run = lambda inputs, name="serving_default": (
        largest.append(next(iter(inputs.values())).nbytes) or run(inputs, name)
    )
    found = session.recognize_long(pieces(), timestamps=True)
    assert drawn[0] == 360
    assert [word.text for word in found.words] == ["AB", "AB"]
    assert found.words[-1].start_seconds == pytest.approx(3590.0, abs=0.3)
    assert max(largest) < 4 * 4 * 60 * RATE_HZ + 1
    assert found.duration_seconds == 3600.0
