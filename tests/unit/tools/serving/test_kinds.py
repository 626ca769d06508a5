"""Sound files that a server gets: short, long, and damaged ones."""

import io
import json
import tracemalloc

import numpy as np
import pytest
import soundfile
from starlette.testclient import TestClient

from tests.fuzz.api import GOOD_FILE, app_of, speech_model
from tests.support.errors import refused
from tests.support.speech import wav_bytes
from tests.support.spelling import RATE_HZ, sound_of

TEXT = 5 * "ABCDEFGH"
LONG = wav_bytes(sound_of(TEXT), RATE_HZ)  # 2.4 s; the model takes 1 s at once
CUT = LONG[: 44 + 2 * round(1.5 * RATE_HZ)]  # the header announces 2.4 s
HEARD = TEXT[:25]
SHORT_CUT = LONG[: 44 + RATE_HZ]


@pytest.fixture
def model():
    found = speech_model()
    yield found
    found.close()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with TestClient(app_of(tmp_path_factory.mktemp("models"))) as found:
        yield found


def given(content, tmp_path, as_path):
    path = tmp_path / "sound.wav"
    path.write_bytes(content)
    return path if as_path else content


@pytest.mark.parametrize("as_path", [False, True])
@pytest.mark.parametrize("content", [LONG, CUT])
def test_long_recordings_are_recognized_as_by_the_session(model, tmp_path, content, as_path):
    expected = model.session.transcribe(given(content, tmp_path, True))
    assert expected.text == (TEXT if content is LONG else HEARD)
    file = given(content, tmp_path, as_path)
    assert model.kind.sound(file) == file
    assert model.kind.transcribe_long(file, False) == expected


@pytest.mark.parametrize("as_path", [False, True])
def test_a_short_sound_that_breaks_off_is_refused_as_by_the_session(model, tmp_path, as_path):
    with refused("complete sound file"):
        model.session.transcribe(given(SHORT_CUT, tmp_path, True))
    with refused("complete sound file"):
        model.kind.sound(given(SHORT_CUT, tmp_path, as_path))


def test_errors_do_not_tell_where_the_server_keeps_a_file(model, tmp_path):
    path = given(b"no sound", tmp_path, True)
    for use in (model.kind.sound, lambda file: model.kind.transcribe_long(file, False)):
        with refused("the file") as caught:
            use(path)
        assert str(tmp_path) not in str(caught.value)


def test_long_sounds_in_small_files_are_not_decoded():
    model, file = speech_model(max_seconds=1000.0), io.BytesIO()
    soundfile.write(file, np.zeros(200 * RATE_HZ, np.int16), RATE_HZ, format="FLAC")
    content = file.getvalue()
    tracemalloc.start()
    try:
        assert model.kind.sound(content) is content
        with refused("at most 1 s"):
            model.kind.read(content)
        assert tracemalloc.get_traced_memory()[1] < 2e6  # 12.8 MB as float32
    finally:
        tracemalloc.stop()
        model.close()


def transcribe(client, content, **fields):
    found = client.post("/v1/audio/transcriptions", files={"file": ("a.wav", content)}, data=fields)
    assert found.status_code == 200
    return found


@pytest.mark.parametrize(
    ("content", "text", "damage"),
    [(CUT, HEARD, "truncated"), (LONG, TEXT, None), (GOOD_FILE, "ABC", None)],
)
def test_answers_tell_that_the_rest_could_not_be_read(client, content, text, damage):
    for name in ("json", "verbose_json"):
        found = transcribe(client, content, response_format=name).json()
        assert (found["text"], found.get("damage")) == (text, damage)
    for name in ("text", "srt", "vtt"):
        found = transcribe(client, content, response_format=name)
        assert text in found.text
        assert found.headers.get("x-damage") == damage
    events = transcribe(client, content, stream="true").text.strip().split("\n\n")
    last = json.loads(events[-1].removeprefix("data: "))
    assert (last["text"], last.get("damage")) == (text, damage)
