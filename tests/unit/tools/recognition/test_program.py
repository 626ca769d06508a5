"""The run of a recognizer: the order of its batches, its texts, its clock and its report."""

import io
import json
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.decoding.timestamps import Word
from tools.inference.options import DataOptions
from tools.recognition import program
from tools.recognition.decoders import Alternative, Transcription
from tools.recognition.examples import read_examples
from tools.recognition.program import run_program
from tools.speech.audio import AudioError, AudioLimits
from tools.speech.corpus import read_corpus

SAMPLES = [8000, 3200, 16000, 4800, 12000]
TEXTS = ["8000", "3200", "16000 MORE", "4801", "12000"]  # the toy writes numbers of samples
LIMITS = AudioLimits()
RUNNER = SimpleNamespace(mode="eager", backend="tensorflow", precision="fp32", files=[])


class Toy:
    """A session that writes the number of samples of each sound; a batch takes two seconds."""

    limits, runner = LIMITS, RUNNER
    is_closed = False

    def __init__(self, clock=None, transcript=Transcription, of_long=None, at_once=None):
        self.clock, self.transcript, self.batches = clock, transcript, []
        self.of_long, self.at_once, self.prepared = of_long, at_once, []
        self.pipeline = {"vocabulary": {"surfaces": ["", *"0123456789 MORE"]}}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.is_closed = True

    def prepare(self, num_samples, batch_size):
        self.prepared.append((num_samples, batch_size))

    def is_long(self, num_samples):
        return self.at_once is not None and num_samples > self.at_once

    def recognize_long(self, pieces, timestamps=False):
        return self.of_long(sum(map(len, pieces)))

    def recognize(self, inputs, with_words=False):
        self.batches.append(inputs["lengths"].tolist())
        assert inputs["waveforms"].shape == (len(inputs["lengths"]), inputs["lengths"].max())
        if self.clock:
            self.clock[0] += 2.0
        return [self.transcript(str(n) if n else "nothing") for n in inputs["lengths"]]


@pytest.fixture
def corpus(tmp_path, rng):
    """Five utterances."""
    sounds = [0.1 * rng.normal(size=size) for size in SAMPLES]
    write_librispeech(tmp_path / "corpus" / "dev", zip(TEXTS, sounds, strict=True))
    return tmp_path / "corpus"


@pytest.fixture
def utterances(corpus):
    return read_corpus(corpus, progress=False).utterances


def recognize(toy, utterances, batch_size, warmup_count):
    return program.recognize(toy, utterances, batch_size=batch_size, warmup_count=warmup_count)


@pytest.fixture
def clock(monkeypatch):
    now = [50.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_the_longest_come_first_and_answers_belong_to_their_sounds(utterances):
    toy = Toy()
    found, reasons, watch = recognize(toy, utterances, 2, 0)
    assert toy.batches == [[16000, 12000], [8000, 4800], [3200]]
    assert {index: transcript.text for index, transcript in found.items()} == {
        index: str(samples) for index, samples in enumerate(SAMPLES)
    }
    assert reasons == {}
    assert len(watch.laps) == 3


def test_only_the_first_batch_warms_up_outside_of_the_clock(utterances, clock):
    toy = Toy(clock)
    _, _, watch = recognize(toy, utterances, 3, 4)
    assert toy.batches == 5 * [[16000, 12000, 8000]] + [[4800, 3200]]
    assert toy.prepared == [([16000, 4800], 3)], "the longest sound of each batch"
    assert watch.laps == [2.0, 2.0]
    assert watch.speed(5)["end_to_end_seconds"] == 4.0


def test_sounds_beyond_what_is_taken_at_once_go_their_own_way(utterances, clock):
    def of_long(num_samples):
        clock[0] += 5.0
        if num_samples == 12000:
            raise AudioError("cut off", reason="truncated")
        return Transcription(f"long {num_samples}")

    toy = Toy(clock, of_long=of_long, at_once=8000)
    found, reasons, watch = recognize(toy, utterances, 8, 1)
    assert toy.batches == 2 * [[8000, 4800, 3200]]
    texts = {index: transcript.text for index, transcript in found.items()}
    assert texts == {0: "8000", 1: "3200", 2: "long 16000", 3: "4800"}
    assert reasons == {4: "truncated"}
    assert watch.laps == [5.0, 5.0, 2.0]


def test_nothing_but_long_sounds_needs_no_batch(utterances):
    toy = Toy(of_long=lambda _: Transcription("L"), at_once=1600)
    found, _, _ = recognize(toy, utterances, 8, 1)
    assert (len(found), toy.batches) == (5, [])


def test_what_cannot_be_decoded_is_dropped_by_its_reason(utterances, corpus):
    for number in (2, 1):  # a batch of nothing but damage is not run
        next(corpus.rglob(f"*{number:04d}.flac")).write_bytes(b"fLaC")
    toy = Toy()
    found, reasons, watch = recognize(toy, utterances, 1, 0)
    assert toy.batches == [[12000], [8000], [4800]]
    assert not toy.prepared, "without a warm-up all is on the clock"
    assert sorted(found) == [0, 3, 4]
    assert reasons == {1: "unreadable", 2: "unreadable"}
    assert len(watch.laps) == 3
    toy.batches.clear()
    found, reasons, _ = recognize(toy, utterances, 5, 0)
    assert {transcript.text for transcript in found.values()} == {"12000", "8000", "4800"}
    assert reasons == {1: "unreadable", 2: "unreadable"}


def run(toy, *paths, skipped=(), data_dir=None, batch_size=2, **given):
    data = DataOptions(
        tuple(map(str, paths)), data_dir and str(data_dir), batch_size=batch_size, **given
    )
    with pytest.MonkeyPatch.context() as patch:
        choose = program.chosen_utterances

        def chosen(*arguments):
            utterances, left_out = choose(*arguments)
            return utterances, [*left_out, *skipped]

        patch.setattr(program, "chosen_utterances", chosen)
        return run_program(lambda: toy, LIMITS, data)


def test_a_report_holds_what_was_measured(corpus, tmp_path, clock, capsys):
    next(corpus.rglob("*0001.flac")).write_bytes(b"fLaC")
    report = tmp_path / "report.json"
    assert run(Toy(clock), data_dir=corpus, batch_size=3, result_path=report) == 0
    summary = json.loads(report.read_text())
    # Two batches of two seconds each, for 40,800 samples of four utterances.
    audio_seconds, seconds = 2.55, 4.0
    expected = {
        "wer": 2 / 5,  # "MORE" is missing and 4801 is 4800
        "cer": 6 / 23,
        "substitutions": 1,
        "deletions": 1,
        "insertions": 0,
        "rtf": seconds / audio_seconds,
        "rtfx": audio_seconds / seconds,
        "audio_seconds": audio_seconds,
        "recognition_seconds": seconds,
        "samples_per_second": 4 / seconds,
        "end_to_end_samples_per_second": 4 / seconds,
        "end_to_end_seconds": seconds,
        "latency_ms_p50": 2000.0,
        "latency_ms_p95": 2000.0,
        "num_utterances": 4,
        "num_skipped": 1,
        "batch_size": 3,
    }
    assert {key: summary[key] for key in expected} == pytest.approx(expected)
    assert (summary["mode"], summary["backend"], summary["precision"]) == (
        "eager", "tensorflow", "fp32",
    )  # fmt: skip
    assert "beam_wer" not in summary
    captured = capsys.readouterr()
    assert captured.out == ""
    told = (
        "WER 40.00%, CER 26.09% (1 substitution, 1 deletion, 0 insertions)",
        "4 utterances, 2.55 s of sound in 4.000 s at batch size 3 (eager, tensorflow, fp32)",
        "real-time factor 1.5686, 0.6 x real time, 1.00 utterances/s (1.00 with reading)",
        "0001.flac",
    )
    for text in told:
        assert text in captured.err
    rows = [line.split("\t") for line in report.with_suffix(".tsv").read_text().splitlines()[1:]]
    assert [row[1:4] for row in rows] == [
        ["0.500", "8000", "8000"],
        ["1.000", "16000 MORE", "16000"],
        ["0.300", "4801", "4800"],
        ["0.750", "12000", "12000"],
    ]


def test_characters_that_no_symbol_writes_are_named_where_texts_are_scored(corpus, capsys):
    """Of 8000, 3200, 16000 MORE, 4801 and 12000 three have a 2 or an M."""
    toy = Toy()
    toy.pipeline = {"vocabulary": {"surfaces": ["", *"013456789", " ORE"]}}
    lacks = "3 of 5 transcripts (60.0%) with characters that the vocabulary lacks: "
    run(toy, data_dir=corpus)
    assert f"{lacks}2 (2), M (1); they count as errors\n" in capsys.readouterr().err
    run(toy, *corpus.rglob("*.flac"))
    assert "lacks" not in capsys.readouterr().err
    run(Toy(), data_dir=corpus)
    assert "lacks" not in capsys.readouterr().err


def test_what_is_left_out_is_listed_and_the_first_twenty_are_named(corpus, tmp_path, capsys):
    report, left_out = tmp_path / "report.json", [(f"x\n{n}.txt", "not_sound") for n in range(23)]
    run(Toy(), next(corpus.rglob("*.flac")), skipped=left_out, result_path=report)
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("skipped ")]
    assert lines[:20] == [rf"skipped x\n{n}.txt: not_sound" for n in range(20)]
    assert lines[20:] == ["skipped 3 more; --result_path lists them all"]
    assert json.loads(report.read_text())["skipped"] == [list(x) for x in left_out]


def test_a_beam_search_is_scored_beside_the_usual_text(corpus, tmp_path, capsys):
    report = tmp_path / "report.json"

    def transcript(text):
        return Transcription(text, beam_text=f"{text} MORE" if text == "16000" else text)

    run(Toy(transcript=transcript), data_dir=corpus, result_path=report)
    summary = json.loads(report.read_text())
    assert (summary["wer"], summary["beam_wer"]) == (2 / 6, 1 / 6)
    assert (summary["cer"], summary["beam_cer"]) == (6 / 27, 1 / 27)
    assert "beam search: WER 16.67%, CER 3.70%" in capsys.readouterr().err
    rows = [line.split("\t") for line in report.with_suffix(".tsv").read_text().splitlines()[1:]]
    assert rows[2][3:] == ["16000", "16000 MORE"]


def test_several_texts_of_a_beam_are_printed_and_written(corpus, tmp_path, capsys):
    def transcript(text):
        several = (Alternative(text, -0.5), Alternative(f"{text}\tMORE", -1.25))
        return Transcription(text, beam_text=text, n_best=several)

    files, report = sorted(corpus.rglob("*.flac")), tmp_path / "report.json"
    run(Toy(transcript=transcript), files[1])
    assert capsys.readouterr().out == "-0.500\t3200\n-1.250\t3200\\tMORE\n"
    run(Toy(transcript=transcript), *files[:2], result_path=report)
    rows = [f"{path}\t-0.500\t{x}\n{path}\t-1.250\t{x}\\tMORE\n"
            for path, x in zip(files, ("8000", "3200"), strict=False)]  # fmt: skip
    assert capsys.readouterr().out == "".join(rows)
    lists = report.with_suffix(".nbest.tsv")
    assert lists.read_text() == "PATH\tSCORE\tTEXT\n" + "".join(rows)
    lists.unlink()
    run(Toy(), *files[:2], result_path=report)
    assert not lists.exists()


def test_one_file_gives_its_text_alone_and_several_give_their_names(corpus, capsys):
    files = sorted(corpus.rglob("*.flac"))
    run(Toy(), files[1])
    captured = capsys.readouterr()
    assert captured.out == "3200\n"
    assert "WER" not in captured.err
    run(Toy(), files[1], files[0])
    assert capsys.readouterr().out == f"{files[1]}\t3200\n{files[0]}\t8000\n"
    run(Toy(), files[1], skipped=[("other.wav", "missing")])
    captured = capsys.readouterr()
    assert captured.out == f"{files[1]}\t3200\n"
    assert "skipped other.wav: missing" in captured.err
    run(Toy(), files[1], skipped=[("notes.txt", "not_sound")])
    captured = capsys.readouterr()
    assert captured.out == "3200\n"
    assert "skipped notes.txt: not_sound" in captured.err
    run(Toy(transcript=lambda text: Transcription(text, beam_text="BEAM")), files[1])
    assert capsys.readouterr().out == "BEAM\n"


def test_a_folder_gives_the_name_also_of_its_only_sound(corpus, capsys):
    only, *others = sorted(corpus.rglob("*.flac"))
    for path in others:
        path.unlink()
    run(Toy(), corpus)
    captured = capsys.readouterr()
    assert captured.out == f"{only}\t8000\n"
    assert "skipped" not in captured.err, "transcripts are a part of the corpus"
    assert captured.err.startswith("1 utterance, 0.50 s of sound")


def test_a_sound_stays_one_line_whatever_its_name_is(corpus, tmp_path, capsys):
    odd, plain = tmp_path / "a\nb\tc.flac", next(corpus.rglob("*0001.flac"))
    odd.write_bytes(plain.read_bytes())
    report = tmp_path / "report.json"
    run(Toy(), odd, plain, result_path=report, skipped=[("x\ny", "missing")])
    captured = capsys.readouterr()
    name = rf"{tmp_path}/a\nb\tc.flac"
    assert captured.out == f"{name}\t3200\n{plain}\t3200\n"
    assert r"skipped x\ny: missing" in captured.err.splitlines()
    assert report.with_suffix(".tsv").read_text().splitlines()[1].startswith(f"{name}\t0.200\t")
    word = [Word("W", 0, 1)]
    run(Toy(transcript=lambda text: Transcription(text, tuple(word))), odd, plain, timestamps=True)
    assert capsys.readouterr().out == f"{name}\t0.00\t1.00\tW\n{plain}\t0.00\t1.00\tW\n"
    damage(odd)
    with refused(f"{name} (unreadable)"):
        run(Toy(), odd, plain)


def test_words_are_printed_and_written_with_their_times(corpus, tmp_path, capsys):
    def transcript(text):
        return Transcription(text, (Word(text, 0.123, 0.5), Word("END", 1, 2.006)))

    files, report = sorted(corpus.rglob("*.flac")), tmp_path / "report.json"
    toy = Toy(transcript=transcript)
    run(toy, files[1], timestamps=True)
    assert capsys.readouterr().out == "0.12\t0.50\t3200\n1.00\t2.01\tEND\n"
    run(toy, *files[:2], timestamps=True, result_path=report)
    rows = [
        f"{path}\t{times}\t{word}\n"
        for path, text in zip(files, ("8000", "3200"), strict=False)
        for times, word in (("0.12\t0.50", text), ("1.00\t2.01", "END"))
    ]
    assert capsys.readouterr().out == "".join(rows)
    words = report.with_suffix(".words.tsv")
    assert words.read_text() == "PATH\tSTART\tEND\tWORD\n" + "".join(rows)
    words.unlink()
    run(toy, *files[:2], timestamps=False, result_path=report)
    assert not words.exists()


def test_line_breaks_and_tabs_that_a_model_writes_are_escaped(corpus, tmp_path, capsys):
    """A sound is one line, a field one field."""

    def transcript(text):
        return Transcription("A\tB\nC\u2028D\r", (Word("A\tB\nC", 0.0, 0.5),))

    files, report = sorted(corpus.rglob("*.flac"))[:2], tmp_path / "report.json"
    toy = Toy(transcript=transcript)
    run(toy, *files)
    assert capsys.readouterr().out == "".join(f"{x}\tA\\tB\\nC\\u2028D\\r\n" for x in files)
    run(toy, files[0])
    assert capsys.readouterr().out == "A\\tB\\nC\\u2028D\\r\n"
    run(toy, *files, timestamps=True, result_path=report)
    lines = [f"{x}\t0.00\t0.50\tA\\tB\\nC\n" for x in files]
    assert capsys.readouterr().out == "".join(lines)
    assert report.with_suffix(".words.tsv").read_text().endswith("".join(lines))


def test_a_named_file_that_cannot_be_decoded_is_refused_after_the_others(corpus, tmp_path, capsys):
    files = sorted(corpus.rglob("*.flac"))
    damaged = bytearray(files[0].read_bytes())
    damaged[len(damaged) // 2 :] = bytes(len(damaged) - len(damaged) // 2)
    files[0].write_bytes(damaged)
    report = tmp_path / "report.json"
    with refused(f"{files[0]} (unreadable)"):
        run(Toy(), files[0], files[1], result_path=report)
    assert capsys.readouterr().out == f"{files[1]}\t3200\n"
    written = json.loads(report.read_text())  # what was recognized is not lost
    assert (written["num_utterances"], written["skipped"]) == (1, [[str(files[0]), "unreadable"]])
    assert run(Toy(), files[0].parent) == 0  # as a part of a folder it is skipped
    for path in files[1:]:
        path.unlink()
    with refused(f"{files[0]} (unreadable)"):
        run(Toy(), files[0].parent)


def test_the_session_is_closed_at_the_end_and_after_an_error(corpus):
    path, toys = next(corpus.rglob("*.flac")), (Toy(), Toy())
    run(toys[0], path)
    damage(path)
    with refused("unreadable"):
        run(toys[1], path)
    assert [toy.is_closed for toy in toys] == [True, True]


def test_a_report_that_cannot_be_written_is_refused_before_the_run(corpus, tmp_path):
    toy = Toy()
    (tmp_path / "file").write_text("")
    with refused("room and permission to write"):
        run(toy, data_dir=corpus, result_path=tmp_path / "file" / "report.json")
    assert not toy.batches


@pytest.mark.parametrize("place", ["", "report.tsv"])
def test_a_folder_in_the_place_of_a_report_is_told_before_the_model_is_opened(
    corpus, tmp_path, place
):
    (tmp_path / "report.tsv").mkdir()
    data = DataOptions((), str(corpus), result_path=str(tmp_path / place.replace("tsv", "json")))

    def opening():
        raise AssertionError("the model was opened")

    with refused("a regular file or a new path"):
        run_program(opening, LIMITS, data)


@pytest.mark.parametrize("name", ["x.tsv", "x.nbest.tsv", "x.words.tsv", "transcripts.tsv"])
def test_a_report_replaces_nothing_that_is_read(corpus, tmp_path, name):
    sound, table, toy = next(corpus.rglob("*.flac")), tmp_path / name, Toy()
    table.write_text(f"PATH\tDURATION\tTRANSCRIPT\n{sound}\t0.5\t8000\n")
    report = tmp_path / f"{name.split('.')[0]}.json"
    before = sound.read_bytes()
    with refused("a result file that is no input"):
        run(toy, data_dir=tmp_path if report.stem == "transcripts" else table, result_path=report)
    with refused("a result file that is no input"):
        run(toy, sound, result_path=sound)
    assert not toy.batches and sound.read_bytes() == before


def spoken(text):
    return Transcription(text, (Word(text, 0.1, 0.5, 0.75, (7,)), Word("END", 1.0, 2.006)))


def test_a_format_is_printed_for_one_sound_and_written_for_several(corpus, tmp_path, capsys):
    files = sorted(corpus.rglob("*.flac"))[:2]
    toy = Toy(transcript=spoken)
    run(toy, files[0], format="srt")
    assert capsys.readouterr().out == "1\n00:00:00,100 --> 00:00:02,006\n8000 END\n\n"
    with refused("--output_dir with --format json for several sounds. Received: 2 sounds"):
        run(toy, *files, format="json")
    for kind, suffix in (("ctm", "ctm"), ("text", "txt"), (None, "txt")):
        folder = tmp_path / f"{kind}"
        run(toy, *files, format=kind, output_dir=str(folder))
        assert sorted(folder.iterdir()) == [folder / f"{x.stem}.{suffix}" for x in files]
        content = (folder / f"{files[1].stem}.{suffix}").read_text()
        ctm = f"{files[1].stem} 1 0.10 0.40 3200 0.7500\n{files[1].stem} 1 1.00 1.01 END 1.0000\n"
        assert content == (ctm if kind == "ctm" else "3200\n")
    assert capsys.readouterr().out == ""


def test_two_sounds_for_one_file_are_refused_before_the_model_is_opened(corpus, tmp_path):
    first = next(corpus.rglob("*.flac"))
    (tmp_path / "b").mkdir()
    second = tmp_path / "b" / first.name
    second.write_bytes(first.read_bytes())
    toy = Toy(transcript=spoken)
    with refused(f"{first} and {second}, both for {first.stem}.vtt"):
        run(toy, first, second, format="vtt", output_dir=str(tmp_path / "out"))
    (tmp_path / "file").touch()
    with refused("permission to write"):
        run(toy, first, format="vtt", output_dir=str(tmp_path / "file"))
    assert not toy.batches


def test_each_channel_is_labelled(corpus, tmp_path, capsys):
    path, report = tmp_path / "call.wav", tmp_path / "report.json"
    soundfile.write(path, np.full((4000, 2), 0.1), 16000)
    other = next(corpus.rglob("*.flac"))
    toy = Toy(transcript=spoken)
    run(toy, path, channels="each")
    assert capsys.readouterr().out == "1\t4000\n2\t4000\n"
    run(toy, path, other, channels="each", timestamps=True, result_path=report)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}\t1\t0.10\t0.50\t4000"
    assert lines[2] == f"{path}\t2\t0.10\t0.50\t4000"
    words = report.with_suffix(".words.tsv").read_text().splitlines()
    assert words == ["PATH\tCHANNEL\tSTART\tEND\tWORD", *lines]
    run(toy, path, channels="each", format="ctm")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[1] for row in rows] == ["1", "1", "2", "2"]
    run(toy, path, channels="2", format="ctm")
    assert [x.split()[1] for x in capsys.readouterr().out.splitlines()] == ["2", "2"]
    run(toy, path, channels="2")
    assert capsys.readouterr().out == "4000\n"


def test_standard_input_is_named_by_a_dash(corpus, tmp_path, capsys, monkeypatch):
    files = sorted(corpus.rglob("*.flac"))
    standard = SimpleNamespace(isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", standard)
    for paths, text in ((["-"], "8000\n"), (["-", files[1]], f"-\t8000\n{files[1]}\t3200\n")):
        standard.buffer = io.BytesIO(files[0].read_bytes())
        run(Toy(), *paths)
        assert capsys.readouterr().out == text
    standard.buffer = io.BytesIO(files[0].read_bytes())
    run(Toy(transcript=spoken), "-", output_dir=str(tmp_path / "out"), format="tsv")
    assert [x.name for x in (tmp_path / "out").iterdir()] == ["stdin.tsv"]


def test_the_part_before_damage_and_silences_are_told(corpus, capsys):
    def of_long(num_samples):
        return Transcription(
            "PART", duration_seconds=0.25, damage="truncated", skipped=((1.0, 2.5), (3.0, 4.0))
        )

    path = next(corpus.rglob("*.flac"))
    with refused(f"to its end. Received: {path} (truncated behind 0.25 s)"):
        run(Toy(of_long=of_long, at_once=1), path)
    captured = capsys.readouterr()
    assert captured.out == "PART\n"
    assert f"{path}: recognized up to 0.25 s; the rest is truncated" in captured.err
    assert f"{path}: left out 2.50 s of silence: 1.00-2.50, 3.00-4.00" in captured.err
    assert run(Toy(of_long=of_long, at_once=1), path.parent) == 0
    capsys.readouterr()
    with refused("(truncated)"):  # a part of an utterance is not scored
        run(Toy(of_long=of_long, at_once=1), data_dir=corpus)


def test_the_damage_of_each_channel_is_told(tmp_path, capsys):
    path = tmp_path / "call.wav"
    soundfile.write(path, np.full((4000, 2), 0.1), 16000)
    part = Transcription("PART", duration_seconds=0.125, damage="truncated")
    first, second = (f"{path} channel {number}" for number in (1, 2))
    with refused(f"{first} (truncated behind 0.12 s), {second} (truncated behind 0.12 s)"):
        run(Toy(of_long=lambda _: part, at_once=1), path, channels="each")
    assert f"{second}: recognized up to 0.12 s" in capsys.readouterr().err


def damage(path):
    """Leaves the header of a sound alone."""
    data = path.read_bytes()
    path.write_bytes(data[:200] + bytes(len(data) - 200))


class Spelling:
    """A decoder whose model's outputs are transcriptions already."""

    def answer(self, call, inputs):
        return call(inputs, "serving_default")

    def transcriptions(self, outputs, with_words=False):
        return outputs


def examples(data_dir, num_samples=3, judged=False, **options):
    return read_examples(data_dir, num_samples, LIMITS, judged, decoder=Spelling(), **options)


def test_calibration_takes_single_sounds_spread_over_a_corpus(corpus):
    found = examples(corpus)
    assert [batch["lengths"].tolist() for batch in found.batches] == [[8000], [3200], [4800]]
    assert [batch["waveforms"].shape for batch in found.batches] == [
        (1, 8000),
        (1, 3200),
        (1, 4800),
    ]
    assert all(batch.keys() == {"waveforms", "lengths"} for batch in found.batches)
    assert found.accuracy is None


def test_accuracy_is_that_of_the_words_on_the_batches_asked_for(corpus):
    damage(next(corpus.rglob("*0001.flac")))  # it has no number among the batches
    found = examples(corpus, num_samples=9, judged=True, normalize=str.lower)
    toy = Toy()

    def text_of(inputs, signature):
        assert signature == "serving_default"
        return toy.recognize(inputs)

    # References: 8000; 16000 more; 4801; 12000.
    assert found.accuracy(text_of, [0, 1, 2, 3]) == pytest.approx(1 - 2 / 5)
    assert found.accuracy(text_of, [1]) == pytest.approx(1 / 2)
    assert found.accuracy(lambda *_: [Transcription("16000 more")], [1]) == 1.0
    assert found.accuracy(text_of, [2]) == 0.0
    assert toy.batches == [[8000], [16000], [4800], [12000], [16000], [4800]]


def test_sounds_without_transcripts_calibrate_but_judge_nothing(corpus):
    for path in corpus.rglob("*.trans.txt"):
        path.unlink()
    assert len(examples(corpus, num_samples=5).batches) == 5
    with refused("transcripts (*.trans.txt, or a table transcripts.tsv) in --calibration_data_dir"):
        examples(corpus, judged=True)
    for path in corpus.rglob("*.flac"):
        damage(path)
    with refused("sound that can be decoded in"):
        examples(corpus)
    with refused("nowhere"):
        examples(corpus / "nowhere")
