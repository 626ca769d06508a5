"""Sessions of recognizers on a stand-in for a model: sounds of any origin, batches, threads."""

import io
import itertools
import json
import os
import threading
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.errors import refused
from tests.support.speech import wav_bytes
from tests.support.spelling import HOP, PIPELINE, RATE_HZ, SURFACES, Spelling, sound_of
from tools.errors import UserError
from tools.recognition import session as session_module
from tools.recognition.ctc_decoder import CtcDecoder
from tools.recognition.decoders import Alternative
from tools.recognition.session import SpeechSession
from tools.recognition.transducer_decoder import TransducerDecoder
from tools.speech.audio import AudioLimits
from tools.speech.long_audio import Window


def closed():
    file = io.BytesIO(b"RIFF")
    file.close()
    return file


@pytest.fixture
def runner():
    return Spelling()


LIMITS = AudioLimits(rate_hz=RATE_HZ, min_seconds=0.02, max_seconds=30.0)


@pytest.fixture
def session(runner):
    window = Window.of_seconds(0.6, 0.2, HOP, RATE_HZ)
    return SpeechSession(runner, CtcDecoder(PIPELINE), LIMITS, batch_size=2, window=window)


@pytest.fixture(params=["ctc", "transducer"])
def either(request, session):
    """A session of each kind of recognizer."""
    if request.param == "ctc":
        return session
    runner = Pieces()
    decoder = TransducerDecoder(runner.pipeline, in_graph=False)
    return SpeechSession(runner, decoder, LIMITS, batch_size=2)


def test_a_sound_is_the_same_whatever_it_comes_in(session, tmp_path):
    sound = sound_of("AB CD")
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(sound))
    said = [session.transcribe(x) for x in (path, str(path), path.read_bytes())]
    said.append(session.transcribe(io.BytesIO(path.read_bytes())))
    with path.open("rb") as file:
        said.append(session.transcribe(file))
    said.append(session.transcribe(sound, rate_hz=RATE_HZ))
    said.append(session.transcribe(sound.astype("float64"), rate_hz=RATE_HZ))
    assert {one.text for one in said} == {"AB CD"}
    assert {one.duration_seconds for one in said} == {15 * HOP / RATE_HZ}
    assert {one.words for one in said} == {()}


def test_waveforms_of_another_rate_are_resampled(session):
    slow = np.repeat(sound_of("ADA", 10)[::2], 1)
    found = session.transcribe(slow, rate_hz=RATE_HZ // 2)
    assert set(found.text) <= set("ABCD") and "D" in found.text
    assert found.duration_seconds == 30 * HOP / RATE_HZ


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("form", [str, Path.read_bytes, lambda path: io.BytesIO(path.read_bytes())])
def test_channels_are_chosen_as_on_the_command_line(session, tmp_path, form, is_long):
    texts = [text * (16 if is_long else 1) for text in ("ABC", "FED")]
    path, mono = tmp_path / "call.wav", sound_of("GH")
    soundfile.write(path, np.stack([*map(sound_of, texts)], axis=1), RATE_HZ, subtype="FLOAT")

    def heard(sound, **options):
        found = session.transcribe(sound, rate_hz=RATE_HZ, **options)
        return [[y.text for y in x] if isinstance(x, list) else x.text for x in found]

    assert session.transcribe(form(path), channels=2).text == texts[1]
    assert session.transcribe(form(path), channels="1").text == texts[0]
    assert heard(form(path), channels="each", timestamps=True) == texts
    assert heard([form(path), mono], channels="each") == [texts, ["GH"]]
    assert heard([mono, form(path)], channels=1) == ["GH", texts[0]]
    mixed = session.transcribe(form(path)).text
    assert mixed not in texts and mixed == session.transcribe(form(path), channels="mix").text
    for sound, place in ((form(path), "2 channels"), (mono, "1 channel")):
        with refused(match=f"a sound with channel 3. Received: .*: {place}"):
            session.transcribe(sound, rate_hz=RATE_HZ, channels=3)


@pytest.mark.parametrize("channels", ["left", 0, "0", -1, True, None, 1.5, ["each"]])
def test_other_channels_are_refused(session, channels):
    with refused("channels: mix, each, or a number from 1"):
        session.transcribe(sound_of("A"), rate_hz=RATE_HZ, channels=channels)


def test_words_have_times_where_they_are_asked_for(session):
    found = session.transcribe(sound_of("AB CD"), rate_hz=RATE_HZ, timestamps=True)
    seconds = 3 * HOP / RATE_HZ
    assert [word.text for word in found.words] == ["AB", "CD"]
    np.testing.assert_allclose(
        [word[1:3] for word in found.words], [(0, 2 * seconds), (3 * seconds, 5 * seconds)]
    )


def test_a_transcription_is_a_dictionary_for_json(session):
    found = session.transcribe(sound_of("AB CD"), rate_hz=RATE_HZ, timestamps=True)
    found = replace(found, n_best=(Alternative("AB", -1.5),))
    read = json.loads(json.dumps(found.as_dict()))
    assert read.keys() == {field.name for field in fields(found)}
    assert read["text"] == "AB CD" and read["duration_seconds"] == found.duration_seconds
    assert [word["text"] for word in read["words"]] == ["AB", "CD"]
    for word, heard in zip(read["words"], found.words, strict=True):
        assert word == {**heard._asdict(), "tokens": list(heard.tokens)}
    assert read["n_best"] == [{"text": "AB", "score": -1.5}]


def test_a_list_is_run_in_batches_by_length_and_keeps_its_order(session, runner, tmp_path):
    texts = ["A", "BCDE", "FG", "HA", "C", "DEFGH"]
    sounds = [sound_of(text) for text in texts]
    (tmp_path / "b.wav").write_bytes(wav_bytes(sounds[1]))
    sounds[1] = tmp_path / "b.wav"
    found = session.transcribe(sounds, rate_hz=RATE_HZ)
    assert [one.text for one in found] == texts
    samples = [[3 * HOP * n for n in lengths] for lengths in ([5, 4], [2, 2], [1, 1])]
    assert runner.batches == samples


def test_a_list_is_decoded_by_threads_and_open_files_are_read_by_the_caller(session, monkeypatch):
    """Files may share a handle, as those of an archive do."""
    both, places, real = threading.Barrier(2, timeout=60), {}, session_module.load_channels

    def load(sound, limits, rate_hz, channels):
        is_open = hasattr(sound, "read")
        places.setdefault(is_open, set()).add(threading.current_thread())
        if not is_open:
            both.wait()  # goes on only where two are at work
        return real(sound, limits, rate_hz, channels)

    monkeypatch.setattr(session_module, "load_channels", load)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    texts = "ABCDEFGHABCD"
    forms = itertools.cycle([io.BytesIO, bytes, lambda data: data])
    sounds = [form(wav_bytes(sound_of(text))) for form, text in zip(forms, texts, strict=False)]
    assert [one.text for one in session.transcribe(sounds)] == list(texts)
    assert places[True] == {threading.main_thread()}
    assert len(places[False]) == 2 and threading.main_thread() not in places[False]


def test_long_recordings_are_taken_in_chunks(session, runner, tmp_path):
    text = "ABCDEFGH" * 6
    sound = sound_of(text)  # 2.9 s, the model takes one
    (tmp_path / "long.wav").write_bytes(wav_bytes(sound))
    for given in (tmp_path / "long.wav", sound, wav_bytes(sound)):
        runner.batches.clear()
        found = session.transcribe([given, sound_of("A")], rate_hz=RATE_HZ)
        assert [one.text for one in found] == [text, "A"]
        assert found[0].duration_seconds == len(sound) / RATE_HZ
        assert max(max(lengths) for lengths in runner.batches) == round(0.6 * RATE_HZ)
        assert max(map(len, runner.batches)) == 2
    words = session.transcribe(sound, rate_hz=RATE_HZ, timestamps=True).words
    assert [word.text for word in words] == [text]
    np.testing.assert_allclose(words[0][1:3], (0, len(sound) / RATE_HZ))


def test_what_the_model_takes_at_once_is_not_cut(session, runner):
    session.transcribe(np.zeros(RATE_HZ), rate_hz=RATE_HZ)
    assert runner.batches == [[RATE_HZ]]


def test_without_a_window_long_recordings_are_refused(runner):
    limits = AudioLimits(rate_hz=RATE_HZ, max_seconds=1.0)
    session = SpeechSession(runner, CtcDecoder(PIPELINE), limits)
    with refused("at most 1 s"):
        session.transcribe(np.zeros(RATE_HZ + 1), rate_hz=RATE_HZ)


@pytest.mark.parametrize(
    ("sound", "rate_hz", "message"),
    [
        ([], RATE_HZ, "Received: an empty list"),
        (
            np.zeros((2, 8000)),
            RATE_HZ,
            "[2, 8000]. Take the mean over the channels, or pass a list",
        ),
        (np.zeros(8000, "complex64"), RATE_HZ, "complex64. Give the samples as float32"),
        (np.zeros(8000, "bool"), RATE_HZ, "bool. Give the samples as float32"),
        (np.full(8000, "a"), RATE_HZ, "<U1. Give the samples as float32"),
        (np.zeros(8000, "uint8"), RATE_HZ, "Divide 16-bit integers by 32768"),
        ([sound_of("A"), np.full(8000, np.nan)], RATE_HZ, "Sound 2 of the list: Expected finite"),
        ([*[sound_of("A")] * 20, b""], RATE_HZ, "Sound 21 of the list: Expected a sound"),
        (io.BytesIO(), None, "Rewind it with seek(0)"),
        (np.zeros(8000, "int16"), RATE_HZ, "Divide 16-bit integers by 32768"),
        (np.full(8000, np.nan), RATE_HZ, "finite samples"),
        (np.zeros(8000), None, "rate_hz for an array"),
        (np.zeros(8000), 0, "rate_hz"),
        (np.zeros(8000), 16000.5, "rate_hz"),
        (np.zeros(8000), float("nan"), "rate_hz: an integer from 4000 to 384000"),
        (np.zeros(8000), float("inf"), "rate_hz: an integer"),
        (np.zeros(10), RATE_HZ, "at least 0.02 s"),
        (np.zeros(0), RATE_HZ, "at least 0.02 s"),
        ("nowhere.wav", None, "no such file"),
        ([sound_of("A"), "nowhere.wav"], RATE_HZ, "nowhere.wav: no such file"),
        (["nowhere.wav", closed(), np.zeros(10)], None, "nowhere.wav: no such file"),
        ([closed(), "nowhere.wav", np.zeros(10)], None, "Open it as rb"),
        (b"", None, "0 bytes"),
        (b"no sound at all", None, "the bytes: not FLAC"),
        (np.full(8000, 1e300), RATE_HZ, "finite samples"),
        (np.zeros(8000), "16000", "rate_hz: an integer"),
        (io.TextIOWrapper(io.BytesIO(b"\xff\xfe")), None, "Open it as rb"),
        (closed(), None, "Open it as rb"),
        (io.StringIO("text"), None, "Open it as rb"),
        (3, None, "a path, bytes, a binary file or an array"),
        ([[0.1, 0.2]], RATE_HZ, "a path, bytes, a binary file or an array"),
    ],
)
def test_bad_sounds_are_refused_and_the_session_still_works(either, sound, rate_hz, message):
    with refused(message):
        either.transcribe(sound, rate_hz=rate_hz)
    assert either.transcribe(sound_of("BA", 1), rate_hz=RATE_HZ).text == "BA"


def test_a_closed_session_says_so(either):
    with either as opened:
        assert opened.transcribe(sound_of("AB", 1), rate_hz=RATE_HZ).text == "AB"
    for call in (
        lambda: either.transcribe("nowhere.wav"),
        lambda: either.transcribe([]),
        lambda: either.run({}),
        lambda: either.runner,
    ):
        with refused("Received: a closed one"):
            call()
    either.close()  # once more


def test_threads_share_a_session(session, runner):
    texts = ["AB", "CD", "EF", "GH"]
    found, errors = {}, []

    def work(number):
        try:
            for repetition in range(10):
                sound = sound_of(texts[number])
                found[number, repetition] = session.transcribe(sound, rate_hz=RATE_HZ).text
        except UserError as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert found == {(n, k): text for n, text in enumerate(texts) for k in range(10)}
    assert runner.inside == 1


class Pieces:
    """The converted signatures of a transducer that writes each frame's largest bin once."""

    mode, backend, precision, files = "jit", "none", "fp32", ()
    signatures = {"listen": ("specs",), "predict": (), "join": ()}  # noqa: RUF012 - a stand-in
    pipeline = {  # noqa: RUF012 - a stand-in
        "blank": 0,
        "state_shape": [2, 1],
        "max_symbols_per_frame": 1,
        "vocabulary": {"surfaces": SURFACES},
        "max_seconds": 30.0,
    }

    def run(self, inputs, signature="serving_default"):
        if signature == "predict":
            rows = len(inputs["tokens"])
            return {"predicted": np.zeros((rows, 1, 1)), "next_states": np.zeros((rows, 2, 1))}
        if signature == "join":
            return {"logits": 9 * inputs["encoded"][:, :, None]}
        found = Spelling().run(inputs)
        return {"encoded": found["logits"], "encoded_lengths": found["logit_lengths"]}


@pytest.mark.parametrize("in_graph", [False, True])
def test_a_transducer_answers_alike_by_the_host_and_by_its_graph(in_graph):
    runner = Pieces()
    host = TransducerDecoder(runner.pipeline, in_graph=False)
    if in_graph:
        runner.signatures = {**runner.signatures, "serving_default": ("specs",)}
        pieces = Pieces().run
        runner.run = lambda inputs, signature: host.answer(pieces, inputs)
    decoder = TransducerDecoder(runner.pipeline, in_graph)
    session = SpeechSession(runner, decoder, AudioLimits(), batch_size=3)
    assert session.signatures["serving_default"] == ("specs",)
    sounds = [sound_of("AB", 1), sound_of("C", 1).repeat(2), np.zeros(2 * HOP, "float32")]
    found = session.transcribe(sounds, rate_hz=RATE_HZ)
    assert [one.text for one in found] == ["AB", "CC", ""]
    assert all(one.log_probability <= 0 for one in found)
    outputs = session.run({
        "waveforms": np.stack([sound_of("AB", 1), sound_of("D ", 1)]),
        "lengths": np.array([2 * HOP, HOP], "int32"),
    })  # fmt: skip
    assert outputs["text"].tolist() == [b"AB", b"D"]
    assert outputs["token_ids"].tolist() == [[2, 3], [5, 0]]
    assert outputs["token_lengths"].tolist() == [2, 1]


def test_what_a_transducer_cannot_do_is_refused():
    runner = Pieces()
    decoder = TransducerDecoder(runner.pipeline, in_graph=False)
    session = SpeechSession(runner, decoder, AudioLimits(max_seconds=30.0))
    with refused("a recording of up to 30 s"):
        session.recognize_long([np.zeros(RATE_HZ * 31, "float32")])


def test_a_long_list_is_answered_whole(session, runner):
    """More sounds than are held at once, and a rest that is no whole batch."""
    texts = [SURFACES[2 + number % 8] * (number % 2) or "A" for number in range(41)]
    found = session.transcribe([sound_of(text) for text in texts], rate_hz=RATE_HZ)
    assert [one.text for one in found] == texts
    assert [one.duration_seconds for one in found] == [3 * HOP / RATE_HZ] * 41
    assert sorted(map(len, runner.batches)) == [1] + [2] * 20


def test_a_long_recording_of_another_rate_lasts_as_long_as_it_did(session, tmp_path):
    text = "ABCDEFGH" * 6
    sound = np.repeat(sound_of(text), 2)
    (tmp_path / "long.wav").write_bytes(wav_bytes(sound, 2 * RATE_HZ))
    for given in (tmp_path / "long.wav", wav_bytes(sound, 2 * RATE_HZ)):
        found = session.transcribe(given)
        assert found.duration_seconds == pytest.approx(len(sound) / 2 / RATE_HZ, abs=1e-3)
        assert len(found.text) > 30


def test_a_switch_that_is_none_is_refused(session):
    with refused("true or false for timestamps. Received: 'no'"):
        session.transcribe(sound_of("A"), rate_hz=RATE_HZ, timestamps="no")


def test_lengths_that_will_come_are_prepared_on_silence_in_few_shapes(runner):
    expected, seen = [], []

    def expect(name, lengths):
        expected.append((name, list(lengths)))
        return [6 * HOP, 2 * HOP]

    def run(inputs, signature="serving_default", plain=runner.run):
        seen.append((inputs["waveforms"].shape, inputs["lengths"].tolist()))
        return plain(inputs, signature)

    runner.expect, runner.run = expect, run
    session = SpeechSession(runner, CtcDecoder(runner.pipeline), AudioLimits())
    session.prepare([6 * HOP, 5 * HOP, 2 * HOP], batch_size=2)
    assert expected == [("waveforms", [6 * HOP, 5 * HOP, 2 * HOP])]
    assert seen == [((2, 6 * HOP), [6 * HOP] * 2), ((2, 2 * HOP), [2 * HOP] * 2)]


def test_a_session_that_prefers_phrases_shares_the_model():
    session = SpeechSession(Spelling(), CtcDecoder(PIPELINE), LIMITS, normalize=str.upper)
    for phrases in ([], ["xyz"], [" "]):  # none, or none that the vocabulary can write
        assert session.preferring(phrases) is session
    other = session.preferring(["ab", "xyz"])
    sound = sound_of("ABC")
    assert other.transcribe(sound, rate_hz=RATE_HZ).text == "ABC"
    assert other.runner is session.runner and other.decoder is not session.decoder
