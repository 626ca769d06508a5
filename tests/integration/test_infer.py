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
import soxr

import conformer.infer
from conformer.infer import main
from conformer.session import BUNDLED_MODEL
from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.config.command_line import CommandLine
from tools.inference import opening
from tools.speech.synthesis import synthesize

# What MANIFEST.md calls valid, or leaves to the program. Most are the same recording in another
# form; None: the manifest takes any text.
ACCEPTED = {
    **dict.fromkeys(
        [
            "space and ümlaut.FLAC",
            "rate_44k1.wav",
            "rate_48k_stereo_24bit.flac",
            "float32_over_range.wav",
            "mp3_named.wav",
            "ogg_named.flac",
            "pcm_u8.wav",
            "riff_size_ffffffff.wav",
            "ulaw.wav",
        ],
        "SEVEN ONE",
    ),
    "rate_8k.wav": "SEVEN",
    "digital_silence_2s.wav": "",
    "one_hour_silence.flac": "",
    "constant_dc.wav": None,
    "clipped.wav": None,
    "six_channels.wav": None,  # the text of the mean of its channels
    "stereo_16k.wav": None,
}
# One conversion for all that runs here, whatever its batch size is.
ONE_RANGE = "--dim_range=waveforms=1:32,400:960000"
REPORT_KEYS = (
    "wer cer substitutions deletions insertions rtf rtfx samples_per_second num_utterances "
    "num_skipped audio_seconds batch_size precision mode"
).split()


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Loads the bundled model once for all tests of this module."""
    load = opening.load
    opening.load = functools.cache(load)
    yield
    opening.load = load


def run(*arguments):
    return main([ONE_RANGE, *map(str, arguments)])


def test_every_shared_sound_file_is_recognized_or_refused_in_one_line(shared_data, tmp_path, capfd):
    folder = shared_data / "bad_inputs" / "audio"
    texts = {}
    for path in sorted(folder.iterdir()):
        if path.name in ACCEPTED:
            assert run(path) == 0, path.name
            texts[path.name] = capfd.readouterr().out.removesuffix("\n")
            assert ACCEPTED[path.name] in (None, texts[path.name]), path.name
        elif path.is_file():
            with refused(path.name):
                run(path)
            captured = capfd.readouterr()
            assert captured.out == captured.err == "", path.name
    assert texts.keys() == ACCEPTED.keys()
    for name in ("stereo_16k.wav", "six_channels.wav"):
        sound, rate_hz = soundfile.read(folder / name)
        soundfile.write(tmp_path / name, sound.mean(axis=1), rate_hz, subtype="FLOAT")
        run(tmp_path / name)
        assert capfd.readouterr().out == f"{texts[name]}\n" != "\n"


def test_a_recording_has_its_text_in_any_form(tmp_path, capsys):
    plain, rate_hz = soundfile.read(BUNDLED_MODEL / "sample.flac")
    right = np.stack([0.5 * plain, 1.5 * plain], axis=1)
    forms = [
        (plain, rate_hz, {"format": "WAV", "subtype": "PCM_U8"}),
        (plain, rate_hz, {"format": "WAV", "subtype": "ULAW"}),
        (plain, rate_hz, {"format": "MP3"}),
        (8 * plain, rate_hz, {"format": "WAV", "subtype": "FLOAT"}),
        (right, rate_hz, {"format": "FLAC", "subtype": "PCM_24"}),
        (np.tile(plain[:, None], 6), rate_hz, {"format": "OGG"}),
        (soxr.resample(plain, rate_hz, 44100), 44100, {"format": "AIFF"}),
    ]
    paths = [str(tmp_path / f"{number}") for number in range(len(forms))]
    for path, (sound, rate, options) in zip(paths, forms, strict=True):
        soundfile.write(path, sound, rate, **options)
    run(*paths, "--batch_size=4")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{path}\tONE SEVEN NINE ZERO" for path in paths]


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
    assert run(BUNDLED_MODEL / "sample.flac") == 0
    captured = capsys.readouterr()
    card = (BUNDLED_MODEL / "MODEL_CARD.md").read_text()
    assert captured.out == "ONE SEVEN NINE ZERO\n"
    assert f"`{captured.out.strip()}`" in card
    assert "real-time factor" in captured.err


@pytest.fixture(scope="module")
def card_report(shared_data, tmp_path_factory):
    """The report of the converted model on the recordings of its card."""
    report = tmp_path_factory.mktemp("card") / "report.json"
    data_dir = shared_data / "fsdd_librispeech" / "dev-clean"
    run(f"--data_dir={data_dir}", "--batch_size=16", f"--result_path={report}")
    return report


def test_the_card_tells_the_word_error_rate(card_report):
    summary = json.loads(card_report.read_text())
    assert (summary["num_utterances"], summary["mode"]) == (150, "jit")
    card = (BUNDLED_MODEL / "MODEL_CARD.md").read_text()
    told = float(re.search(r"\| word error rate \| ([0-9.]+) % \|", card)[1])
    assert 100 * summary["wer"] == pytest.approx(told, abs=0.2)
    assert summary["wer"] <= 0.025


def test_the_converted_model_writes_the_same_texts(shared_data, card_report, tmp_path):
    report = tmp_path / "eager.json"
    data_dir = shared_data / "fsdd_librispeech" / "dev-clean"
    run(f"--data_dir={data_dir}", "--batch_size=32", "--run_eagerly=1", f"--result_path={report}")
    assert json.loads(report.read_text())["mode"] == "eager"
    assert report.with_suffix(".tsv").read_text() == card_report.with_suffix(".tsv").read_text()


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
    texts = ["ONE", "TWO THREE", 'FOUR "FIVE', "SIX", "SEVEN", "NINE", "TWO"]
    utterances = [(words, synthesize(words)) for words in texts]
    chapter = write_librispeech(tmp_path / "corpus" / "dev-clean", utterances, speaker=1, chapter=2)
    path = chapter / "1-2-0006.flac"
    path.write_bytes(path.read_bytes()[:3000])
    return tmp_path / "corpus"


def test_a_corpus_is_scored_whole_and_the_report_is_complete(spoken_corpus, tmp_path, capsys):
    reports = []
    for data_dir, batch_size in ((spoken_corpus, 4), (spoken_corpus / "dev-clean", 1)):
        path = tmp_path / f"report_{batch_size}.json"
        run(f"--data_dir={data_dir}", f"--batch_size={batch_size}", f"--result_path={path}")
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
    # References by hand; the ratios of the clock are proven in tests of tools/recognition.
    durations = [float(row[1]) for row in rows[1:]]
    assert first["audio_seconds"] == pytest.approx(sum(durations), abs=0.01)
    texts = [row[3].split() for row in rows[1:]]
    wrong = first["substitutions"] + first["deletions"] + first["insertions"]
    assert first["wer"] == pytest.approx(wrong / 8)
    assert first["insertions"] - first["deletions"] == sum(map(len, texts)) - 8
    assert capsys.readouterr().out == ""


def test_a_folder_is_read_like_its_files(spoken_corpus, capsys):
    assert run(spoken_corpus) == 0
    captured = capsys.readouterr()
    lines = dict(line.split("\t") for line in captured.out.splitlines())
    assert len(lines) == 6
    assert "1-2-0006" in captured.err
    for path, text in lines.items():
        run(path)
        assert capsys.readouterr().out.removesuffix("\n") == text


def test_long_sounds_are_refused_by_their_header(tmp_path):
    path = tmp_path / "long.flac"
    soundfile.write(path, np.zeros(16000 * 3, "int16"), 16000)
    with refused("long.flac"):
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
        (["a.wav", "--visible_devices=gpu0"], "--visible_devices"),
        ([str(BUNDLED_MODEL / "sample.flac"), "--data_ratio=0"], "--data_ratio"),
        (
            [str(BUNDLED_MODEL / "sample.flac"), ONE_RANGE, "--enable_dim_range=0"],
            "either --dim_range or --enable_dim_range=0",
        ),
        (["a.wav", "--max_seconds=nan"], "--max_seconds"),
        (["a.wav", "--max_seconds=-1"], "--max_seconds"),
        ([""], "an empty name"),
        (["a.wav", "--native_savedmodel_dir=/nowhere"], "/nowhere"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message):
    with refused(message):
        main(arguments)


def test_help_shows_the_defaults(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for word in ("--native_savedmodel_dir", "--warmup_count", "--batch_size"):
        assert word in shown
    assert isinstance(conformer.infer.command_line(), CommandLine)
