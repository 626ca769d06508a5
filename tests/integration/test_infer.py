"""Recognition with the bundled model: files good and bad, folders, corpora, reports."""

import csv
import functools
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

import conformer.infer
from conformer.infer import BUNDLED_MODEL, main
from tools.config.command_line import CommandLine
from tools.errors import UserError
from tools.inference import flags
from tools.recognition.program import Recognizer, Transcript, recognize
from tools.speech.audio import AudioLimits
from tools.speech.corpus import read_librispeech
from tools.speech.synthesis import synthesize

# What MANIFEST.md calls valid, or leaves to the program; the text where it is known.
ACCEPTED = {
    "space and ümlaut.FLAC": "SEVEN ONE",
    "rate_44k1.wav": "SEVEN ONE",
    "rate_48k_stereo_24bit.flac": "SEVEN ONE",
    "rate_8k.wav": "SEVEN",
    "digital_silence_2s.wav": "",
    "constant_dc.wav": None,
    "clipped.wav": None,
    "float32_over_range.wav": None,
    "mp3_named.wav": None,
    "ogg_named.flac": None,
    "one_frame_400_samples.wav": None,
    "pcm_u8.wav": None,
    "riff_size_ffffffff.wav": "SEVEN ONE",
    "six_channels.wav": None,
    "stereo_16k.wav": None,
    "ulaw.wav": None,
}
REPORT_KEYS = (
    "wer cer substitutions deletions insertions rtf rtfx samples_per_second num_utterances "
    "num_skipped audio_seconds batch_size precision mode"
).split()


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Loads the bundled model once for all tests of this module."""
    load = flags.load
    flags.load = functools.cache(load)
    yield
    flags.load = load


def test_every_shared_sound_file_is_recognized_or_refused_in_one_line(shared_data, capfd):
    folder = shared_data / "bad_inputs" / "audio"
    for path in sorted(folder.iterdir()):
        if path.name in ACCEPTED:
            assert main([str(path)]) == 0, path.name
            text = capfd.readouterr().out.removesuffix("\n")
            expected = ACCEPTED[path.name]
            assert expected is None or text == expected, path.name
        elif path.is_file():
            with pytest.raises(UserError) as caught:
                main([str(path)])
            assert path.name in str(caught.value)
            assert "\n" not in str(caught.value)
            captured = capfd.readouterr()
            assert captured.out == captured.err == "", path.name


def test_the_shell_sees_one_line_and_exit_code_2(project, tmp_path):
    path = tmp_path / "not sound.wav"
    path.write_text("<html>404</html>")
    result = subprocess.run(
        [sys.executable, "-m", "conformer.infer", str(path)],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert str(path) in result.stderr


def test_the_bundled_sound_is_what_the_project_synthesizes(capsys):
    assert main([str(BUNDLED_MODEL / "sample.flac")]) == 0
    captured = capsys.readouterr()
    card = (BUNDLED_MODEL / "MODEL_CARD.md").read_text()
    assert f"`{captured.out.strip()}`" in card
    assert "real-time factor" in captured.err


def test_the_card_tells_the_word_error_rate(shared_data, tmp_path):
    report = tmp_path / "report.json"
    main(
        [
            f"--data_dir={shared_data / 'fsdd_librispeech' / 'dev-clean'}",
            "--batch_size=16",
            f"--result_path={report}",
        ]
    )
    summary = json.loads(report.read_text())
    assert summary["num_utterances"] == 150
    card = (BUNDLED_MODEL / "MODEL_CARD.md").read_text()
    told = float(re.search(r"\| word error rate \| ([0-9.]+) % \|", card)[1])
    assert 100 * summary["wer"] == pytest.approx(told, abs=0.2)
    assert summary["wer"] <= 0.025


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Where the bundled model is converted to once, for batches of up to 32."""
    return tmp_path_factory.mktemp("converted") / "model"


def test_the_converted_model_writes_the_same_texts(shared_data, converted, tmp_path):
    tables = []
    for mode in ("--run_eagerly=1", "--run_eagerly=0"):
        report = tmp_path / f"{len(tables)}.json"
        common = [f"--data_dir={shared_data / 'fsdd_librispeech' / 'dev-clean'}"]
        common += ["--batch_size=16", f"--converted_savedmodel_dir={converted}"]
        main([*common, mode, f"--result_path={report}"])
        tables.append(report.with_suffix(".tsv").read_text())
    assert json.loads(report.read_text())["mode"] == "jit"
    assert tables[0] == tables[1]


def test_a_converted_model_is_found_again_in_the_cache(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    arguments = [str(BUNDLED_MODEL / "sample.flac"), "--run_eagerly=0", "--backend=onnxruntime"]
    main(arguments)
    first = capfd.readouterr()
    main(arguments)
    second = capfd.readouterr()
    assert first.out == second.out != ""
    assert "converted " in first.err
    assert "converting" not in second.err
    assert "jit" in second.err


@pytest.fixture
def spoken_corpus(tmp_path):
    """Seven utterances of synthesized digits in the layout of LibriSpeech, one of them cut off."""
    chapter = tmp_path / "corpus" / "dev-clean" / "1" / "2"
    chapter.mkdir(parents=True)
    lines = []
    for number, words in enumerate(
        ["ONE", "TWO THREE", 'FOUR "FIVE', "SIX", "SEVEN", "NINE", "TWO"]
    ):
        path = chapter / f"1-2-{number:04d}.flac"
        soundfile.write(path, synthesize(words), 16000, subtype="PCM_16")
        lines.append(f"1-2-{number:04d} {words}\n")
    path.write_bytes(path.read_bytes()[:3000])
    (chapter / "1-2.trans.txt").write_text("".join(lines))
    return tmp_path / "corpus"


def test_a_corpus_is_scored_whole_and_the_report_is_complete(spoken_corpus, tmp_path, capsys):
    reports = []
    for data_dir, batch_size in ((spoken_corpus, 4), (spoken_corpus / "dev-clean", 1)):
        path = tmp_path / f"report_{batch_size}.json"
        main([f"--data_dir={data_dir}", f"--batch_size={batch_size}", f"--result_path={path}"])
        reports.append(json.loads(path.read_text()))
        with path.with_suffix(".tsv").open(newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert rows[0] == ["PATH", "DURATION", "GROUNDTRUTH", "GREEDY", "BEAMSEARCH"]
        assert [row[2] for row in rows[1:]] == [
            "ONE", "TWO THREE", 'FOUR "FIVE', "SIX", "SEVEN", "NINE",
        ]  # fmt: skip
        assert all(row[4] == "" for row in rows[1:])
    first, second = reports
    assert set(REPORT_KEYS) <= set(first)
    assert first["num_utterances"] == 6
    assert first["num_skipped"] == 1
    for key in ("wer", "cer", "substitutions", "deletions", "insertions", "audio_seconds"):
        assert first[key] == second[key]
    assert first["rtf"] * first["rtfx"] == pytest.approx(1.0)
    assert capsys.readouterr().out == ""


def test_a_batch_without_any_sound_is_not_run(spoken_corpus):
    def transcribe(inputs):
        assert inputs["lengths"].all()
        return [Transcript("ONE")]

    limits = AudioLimits()
    utterances = read_librispeech(spoken_corpus, ("dev-clean",), limits).utterances
    recognizer = Recognizer(None, limits, transcribe)
    found, reasons, _ = recognize(recognizer, utterances, batch_size=1, warmup_count=1)
    assert {transcript.text for transcript in found.values()} == {"ONE"}
    assert len(found) == 6
    assert len(reasons) == len(utterances) - 6


def test_a_folder_is_read_like_its_files(spoken_corpus, capsys):
    assert main([str(spoken_corpus)]) == 0
    captured = capsys.readouterr()
    lines = dict(line.split("\t") for line in captured.out.splitlines())
    assert len(lines) == 6
    assert "1-2-0006" in captured.err
    for path, text in lines.items():
        main([path])
        assert capsys.readouterr().out.removesuffix("\n") == text


def test_long_sounds_are_refused_by_their_header(tmp_path):
    path = tmp_path / "long.flac"
    soundfile.write(path, np.zeros(16000 * 3, "int16"), 16000)
    with pytest.raises(UserError, match=r"long\.flac"):
        main([str(path), "--max_seconds=2"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "neither"),
        (["a.wav", "--data_dir=b"], "both"),
        (["/nowhere.wav"], "/nowhere.wav"),
        (["--data_dir=/nowhere"], "/nowhere"),
        (["a.wav", "--batch_size=0"], "batch_size"),
        (["a.wav", "--backend=tflite"], "tflite"),
        (["a.wav", "--max_seconds=nan"], "--max_seconds"),
        (["a.wav", "--max_seconds=-1"], "--max_seconds"),
        ([""], "an empty one"),
        (["a.wav", "--native_savedmodel_dir=/nowhere"], "/nowhere"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message):
    with pytest.raises(UserError) as caught:
        main(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_help_shows_the_defaults(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for word in ("--native_savedmodel_dir", "--warmup_count", "--batch_size"):
        assert word in shown
    assert isinstance(conformer.infer.command_line(), CommandLine)
