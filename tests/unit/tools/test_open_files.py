"""No descriptor, process, handler or setting is left behind by what opens or changes one."""

import contextlib
import logging
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.support.errors import refused
from tests.support.open_files import nothing_stays_open, open_files
from tests.support.peers import start_process
from tests.support.speech import write_librispeech
from tools.cli.plot_training import read_records
from tools.decoding.arpa import read_arpa
from tools.decoding.fusion import words_of_kenlm
from tools.errors import UserError
from tools.files import new_folder, one_at_a_time, write_bytes
from tools.speech import audio
from tools.speech.containers import quiet_stderr, write_flac
from tools.speech.corpus import read_corpus
from tools.speech.reading import read_batches
from tools.training.checkpoint import CheckpointStore
from tools.training.program import log_to_file
from tools.training.run_log import RunLog
from tools.weights.files import read_weights, write_safetensors
from vision.config import PreprocessingConfig
from vision.images import ImageError, read_image
from vision.input_pipeline import Batches

FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A sound of 25 seconds in every format."""
    folder, time = tmp_path_factory.mktemp("sounds"), np.arange(25 * 16000)
    for suffix, encoding in FORMATS.items():
        path = folder / f"a.{suffix}"
        soundfile.write(path, 0.3 * np.sin(0.05 * time), 16000, encoding)
        audio.read(path)  # what is opened once and kept is open from here on
    return folder


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_sound_stays_open(sounds, suffix, tmp_path):
    good = sounds / f"a.{suffix}"
    damaged = tmp_path / good.name
    damaged.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    with nothing_stays_open():
        for source in (good, good.read_bytes()):
            audio.probe(source)
            assert len(audio.read(source)) > 24 * 16000
            audio.load(source)
        assert len(list(audio.stream(good))) >= 3
        next(pieces := audio.stream(good))
        pieces.close()
        for source in (damaged, damaged.read_bytes()):
            with pytest.raises(audio.AudioError):
                audio.read(source)
        with pytest.raises(audio.AudioError):
            list(audio.stream(damaged))


def test_stderr_is_the_same_as_before_it_was_quiet():
    before = os.readlink("/proc/self/fd/2")
    with nothing_stays_open():
        with quiet_stderr():
            assert os.readlink("/proc/self/fd/2") == os.devnull
        with pytest.raises(ValueError, match="inside"), quiet_stderr():
            raise ValueError("inside")
    assert os.readlink("/proc/self/fd/2") == before


def test_no_corpus_stays_open(tmp_path):
    sound = 0.1 * np.ones(16000)
    write_librispeech(tmp_path / "dev", [("A B", sound)] * 3)
    next(tmp_path.rglob("*0001.flac")).write_bytes(b"fLaC")
    with nothing_stays_open():
        utterances = read_corpus(tmp_path, progress=False).utterances
        assert len(list(read_batches(utterances, 1, audio.AudioLimits()))) == 2
        batches = read_batches(utterances, 1, audio.AudioLimits())
        next(batches)
        batches.close()
        write_flac(tmp_path / "b.flac", sound, 16000)
        with pytest.raises(OSError, match="No such file"):
            write_flac(tmp_path / "nowhere" / "b.flac", sound, 16000)
    assert not [x for x in threading.enumerate() if x.name.startswith("decode")]


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tiff", "bmp"])
def test_no_image_stays_open(tmp_path, rng, suffix):
    path, broken = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    Image.fromarray(rng.integers(0, 256, (40, 50, 3)).astype("uint8")).save(path)
    broken.write_bytes(path.read_bytes()[:200])
    config = PreprocessingConfig(image_size=16)
    with nothing_stays_open():
        for source in (path, path.read_bytes()):
            read_image(source, config)
        with path.open("rb") as file:
            read_image(file, config)
            assert not file.closed, "who opens a file closes it"
        for source in (broken, broken.read_bytes()):
            with pytest.raises(ImageError):
                read_image(source, config)
        batches = Batches([str(path), str(broken)] * 2, config, 1)
        assert len(list(batches)) == 2 and len(batches.reasons) == 2


def test_no_checkpoint_or_weight_file_stays_open(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path / "checkpoints", 1, 1, tmp_path / "best")
    groups = {"model": {"a/kernel": np.ones(3, np.float32)}}
    path = tmp_path / "a.safetensors"
    with nothing_stays_open():
        for step in range(3):
            saved = store.save({"step": step, "metric": 0.5}, groups, {"a.json": "{}"})
        saved.arrays("model")
        (saved.path / "arrays.npz").write_bytes(b"PK no archive")
        with refused("another checkpoint"):
            saved.arrays("model")
        write_safetensors(path, groups["model"])
        assert read_weights(path).keys() == groups["model"].keys()
        for name, content in (("a.pth", b"PK no archive"), ("b.safetensors", b"nothing")):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError):
                read_weights(tmp_path / name)


def test_the_records_of_a_run_are_closed_and_whole(tmp_path):
    RunLog(tmp_path, 0, 2).close()
    with nothing_stays_open():
        log = RunLog(tmp_path, 0, 2)
        inside = [x for x in open_files().values() if str(tmp_path) in x]
        assert any("metrics.jsonl" in x for x in inside)
        log.write(1, 0, {"train/loss": 1.0})
        log.close()
    assert read_records(tmp_path) == [{"step": 1, "epoch": 0, "train/loss": 1.0}]
    written = sum(path.stat().st_size for path in (tmp_path / "tensorboard").iterdir())
    assert written > 100


def test_the_log_file_of_a_run_is_closed_and_its_handler_goes(tmp_path):
    handlers = list(logging.getLogger().handlers)
    with nothing_stays_open():
        with log_to_file(tmp_path / "a.log", SimpleNamespace(rank=0)):
            logging.getLogger().warning("inside")
        with (
            pytest.raises(ValueError, match="it"),
            log_to_file(tmp_path / "b.log", SimpleNamespace(rank=0)),
        ):
            raise ValueError("it")
    assert logging.getLogger().handlers == handlers
    assert "inside" in (tmp_path / "a.log").read_text()


def test_no_lock_or_unfinished_file_stays_open(tmp_path):
    place = tmp_path / "a"
    with nothing_stays_open():
        for _ in range(2):
            with one_at_a_time(place):
                pass
        with pytest.raises(ValueError, match="it"), one_at_a_time(place):
            raise ValueError("it")
        write_bytes(place, b"content")
        with new_folder(tmp_path / "b") as folder:
            (folder / "c").write_bytes(b"content")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_who_waited_for_a_lock_leaves_none_of_the_files_that_it_tried(tmp_path):
    """The last holder has removed the file that was waited for, so another one is locked."""
    place, held, goes = tmp_path / "a", threading.Event(), threading.Event()

    def hold():
        with one_at_a_time(place):
            held.set()
            goes.wait(60)

    def wait():
        with one_at_a_time(place):
            pass

    with nothing_stays_open():
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(60)
        waiting = threading.Thread(target=wait)
        waiting.start()
        while sum(".a.lock" in x for x in open_files().values()) < 2:
            pass
        goes.set()
        holder.join()
        waiting.join()


def children() -> set[str]:
    """Processes of this one, those included that have ended and that nobody has waited for."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(path.parent.name)
    return found


def test_a_peer_ends_and_its_pipes_are_closed():
    before = children()
    with nothing_stays_open():
        for leaves in (False, True):
            peer = start_process()
            if leaves:
                with refused("code 2"):
                    peer.ask("leave")
            else:
                assert peer.ask("repeat", 1) == [1]
            peer.close()
    assert children() == before, "of an ended process nothing is left"


def test_no_language_model_stays_open(tmp_path):
    path = tmp_path / "a.arpa"
    path.write_text("\\data\\\nngram 1=1\n\n\\1-grams:\n-1.0\tONE\n\n\\end\\\n")
    with nothing_stays_open():
        assert read_arpa(path).vocabulary() == ["ONE", "<unk>"]
        path.write_bytes(b"mmap lm http://kheafield.com/code\0<unk>\0ONE\0")
        assert words_of_kenlm(path) == ["<unk>", "ONE"]
