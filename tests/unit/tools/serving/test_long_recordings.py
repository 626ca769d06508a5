"""Long recordings: partial texts, one at a time, and an end when the client hangs up."""

import asyncio
import contextlib
import threading

import pytest

from tools.errors import UserError
from tools.recognition.decoders import Transcription
from tools.serving.long_recordings import LongRecordings, Recording
from tools.serving.requests import Refusal

WORDS = "ONE TWO SIX".split()


class FakeSpeech:
    """Recognizes a list of words, one in each step; a step waits for `gate`."""

    def __init__(self):
        self.gate, self.begun = threading.Semaphore(1000), threading.Semaphore(0)
        self.running, self.most, self.steps, self.ended = 0, 0, 0, threading.Event()

    def transcribe_long(self, sound, with_words, hot_words, *, partial):
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.release()
        try:
            for number in range(len(sound)):
                assert self.gate.acquire(timeout=20)
                self.steps += 1
                if sound[number] == "BAD":
                    raise UserError.expected("a sound", "none", "Give one")
                partial(" ".join(sound[: number + 1]))
            return Transcription(" ".join(sound))
        finally:
            self.running -= 1
            self.ended.set()


class FakeRequest:
    def __init__(self, gone=lambda: False):
        self.gone = gone

    async def is_disconnected(self):
        return self.gone()


@pytest.fixture
def speech():
    return FakeSpeech()


def test_texts_grow_until_the_transcription(speech):
    async def work():
        return [x async for x in LongRecordings().texts(Recording(speech, WORDS))]

    *texts, last = asyncio.run(work())
    assert texts == ["ONE", "ONE TWO", "ONE TWO SIX"]
    assert last == Transcription("ONE TWO SIX")


def test_a_transcription_is_returned_as_a_whole(speech):
    async def work():
        return await LongRecordings().transcription(Recording(speech, WORDS), FakeRequest())

    assert asyncio.run(work()).text == "ONE TWO SIX"


def test_errors_reach_the_caller(speech):
    async def work(method, *more):
        recordings = LongRecordings()
        with pytest.raises(UserError, match="a sound"):
            await method(recordings, Recording(speech, ["ONE", "BAD"]), *more)

    async def listed(recordings, recording):
        return [x async for x in recordings.texts(recording)]

    asyncio.run(work(LongRecordings.transcription, FakeRequest()))
    asyncio.run(work(listed))


def test_recordings_run_one_after_the_other(speech):
    speech.gate = threading.Semaphore(0)

    async def work():
        recordings = LongRecordings()
        requests = [
            asyncio.create_task(
                recordings.transcription(Recording(speech, WORDS[:n]), FakeRequest())
            )
            for n in (1, 2, 3)
        ]
        assert await asyncio.to_thread(speech.begun.acquire, timeout=20)
        # The others could begin now: nothing but their turn keeps them waiting.
        assert not await asyncio.to_thread(speech.begun.acquire, timeout=0.2)
        speech.gate.release(6)
        return await asyncio.gather(*requests)

    assert [x.text for x in asyncio.run(work())] == ["ONE", "ONE TWO", "ONE TWO SIX"]
    assert speech.most == 1


def test_the_recognition_stops_when_the_client_hangs_up(speech):
    speech.gate = threading.Semaphore(0)

    async def work():
        def gone():
            asyncio.get_running_loop().call_later(0.05, speech.gate.release)
            return True

        task = LongRecordings().transcription(Recording(speech, WORDS), FakeRequest(gone))
        with pytest.raises(Refusal, match="hung up") as caught:
            await task
        return caught.value

    assert asyncio.run(work()).status == 499
    assert speech.ended.is_set()
    assert speech.steps == 1  # of three


def test_the_recognition_stops_when_nobody_reads_its_texts(speech):
    async def work():
        recordings = LongRecordings()
        async with contextlib.aclosing(recordings.texts(Recording(speech, WORDS))) as texts:
            speech.gate = threading.Semaphore(1)
            assert await anext(texts) == "ONE"
            asyncio.get_running_loop().call_later(0.05, speech.gate.release)
        assert speech.ended.is_set()  # before the next recording begins
        # The next recording has its turn.
        return await recordings.transcription(Recording(FakeSpeech(), WORDS), FakeRequest())

    assert asyncio.run(work()).text == "ONE TWO SIX"
    assert speech.ended.wait(20)
    assert speech.steps == 2


def test_waiting_recordings_have_the_limits_of_the_queue(speech):
    speech.gate = threading.Semaphore(0)

    async def work():
        recordings = LongRecordings(most_waiting=1, seconds=0.05)

        def start():
            return asyncio.create_task(
                recordings.transcription(Recording(speech, WORDS), FakeRequest())
            )

        first = start()
        while not speech.running:
            await asyncio.sleep(0.001)
        found = await asyncio.gather(start(), start(), return_exceptions=True)
        speech.gate.release(3)
        return (await first).text, [refusal.status for refusal in found]

    assert asyncio.run(work()) == ("ONE TWO SIX", [504, 503])
