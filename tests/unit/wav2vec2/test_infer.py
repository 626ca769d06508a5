"""Tests recognition with random weights: valid and broken files, folders, corpora, chunks."""

import doctest
import functools
import itertools
import json

import numpy as np
import pytest
import soundfile

import conformer.infer
import wav2vec2.infer
import wav2vec2.session
from tests.support.errors import refused
from tests.support.fake_hub import fake_hub
from tests.support.speech import write_librispeech
from tools.config.making_options import from_flags
from tools.conversion.pipeline import read_pipeline
from tools.decoding.options import BeamSearch
from tools.decoding.text import text_of
from tools.inference import opening
from tools.recognition.beams import ctc_beam_search
from tools.recognition.ctc_decoder import CtcDecoder
from tools.recognition.decoders import searched
from tools.recognition.options import RecognitionOptions
from tools.recognition.recognizing import with_words
from tools.recognition.session import SpeechSession
from tools.recognition.word_times import FrameTimes
from tools.speech.audio import AudioError, AudioLimits, read, stream
from tools.speech.long_audio import Window
from wav2vec2.infer import command_line
from wav2vec2.session import calibration_examples
from wav2vec2.vocabulary import Vocabulary

RATE_HZ = 16000
SILENT = ("digital_silence_2s.wav", "one_hour_silence.flac")
ACCEPTED = {
    *SILENT,
    *"rate_44k1.wav rate_48k_stereo_24bit.flac rate_8k.wav constant_dc.wav clipped.wav".split(),
    *"float32_over_range.wav mp3_named.wav ogg_named.flac one_frame_400_samples.wav".split(),
    *"pcm_u8.wav riff_size_ffffffff.wav six_channels.wav stereo_16k.wav ulaw.wav".split(),
    "space and ümlaut.FLAC",
}


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Loads each model once for all tests in this module."""
    load = opening.load
    opening.load = functools.cache(load)
    yield
    opening.load = load


@pytest.fixture(scope="module")
def model_dir(exports):
    return exports / "layer"


@pytest.fixture(scope="module")
def main(model_dir):
    def run(*arguments):
        model = [f"--native_savedmodel_dir={model_dir}", "--run_eagerly=1"]
        return wav2vec2.infer.main([*model, *map(str, arguments)])

    return run


def decoder_of(pipeline, beam=None):
    """Returns the decoder of a model, with beam search if it is given."""
    return CtcDecoder(pipeline, beam and ctc_beam_search(pipeline, beam))


def session_of(runner, pipeline, beam=None, window=None):
    return SpeechSession(
        runner, decoder_of(pipeline, beam), AudioLimits(), batch_size=3, window=window
    )


def noise(seconds, seed=1):
    rng = np.random.default_rng(seed)
    envelope = np.repeat(rng.uniform(0.02, 0.3, int(seconds * 10) + 1), 1600)
    sound = envelope * rng.standard_normal(len(envelope))
    return sound[: int(seconds * RATE_HZ)].clip(-1, 1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Writes five utterances of noise in LibriSpeech layout, one of them truncated."""
    root = tmp_path_factory.mktemp("corpus")
    seconds = (0.7, 1.3, 0.4, 2.1, 0.9)
    sounds = [("CAB A BED", noise(x, number)) for number, x in enumerate(seconds)]
    chapter = write_librispeech(root / "dev-clean", sounds, speaker=1, chapter=2)
    path = chapter / "1-2-0004.flac"
    path.write_bytes(path.read_bytes()[:3000])
    return root


def expected_logits(model, sound):
    """Returns the logits of the Keras model."""
    x = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
    return np.asarray(model(x[None].astype("float32")))[0]


def expected_text(model, sound):
    """Returns the greedy text of the Keras model."""
    return model.vocabulary.decode_path(expected_logits(model, sound).argmax(-1))


def test_a_file_a_folder_and_a_corpus_say_the_same(main, folders, corpus, tmp_path, capsys):
    model = wav2vec2.from_pretrained(folders / "layer")
    files = sorted(corpus.rglob("*.flac"))[:4]
    texts = []
    for path in files:
        assert main(path) == 0
        texts.append(capsys.readouterr().out.removesuffix("\n"))
    assert texts == [expected_text(model, read(path)) for path in files]
    assert len(set(texts)) == 4 and all(len(text) > 2 for text in texts)
    main(corpus, "--batch_size=3")
    captured = capsys.readouterr()
    lines = [f"{path}\t{text}" for path, text in zip(files, texts, strict=True)]
    assert captured.out.splitlines() == lines
    assert "1-2-0004" in captured.err
    report = tmp_path / "report.json"
    main(f"--data_dir={corpus}", "--batch_size=4", f"--result_path={report}")
    rows = [line.split("\t") for line in report.with_suffix(".tsv").read_text().splitlines()[1:]]
    assert [row[3] for row in rows] == texts
    summary = json.loads(report.read_text())
    assert (summary["num_utterances"], summary["num_skipped"]) == (4, 1)
    assert summary["wer"] > 0 and summary["mode"] == "eager"


def test_weights_of_the_hub_are_exported_and_run(folders, corpus, tmp_path, monkeypatch, capsys):
    path = sorted(corpus.rglob("*.flac"))[0]
    text = expected_text(wav2vec2.from_pretrained(folders / "layer"), read(path))
    files = {x.name: x.read_bytes() for x in (folders / "layer").iterdir()}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with fake_hub(tmp_path / "hub") as hub:
        hub.repositories["owner/small"] = files
        arguments = ["--pretrained=hf:owner/small", "--run_eagerly", str(path)]
        assert wav2vec2.infer.main(arguments) == 0
        assert capsys.readouterr().out == f"{text}\n"
        with wav2vec2.load("hf:owner/small@main", run_eagerly=True) as model:
            assert model.transcribe(path).text == text
    assert "exporting" not in capsys.readouterr().err  # the same files
    assert len(list((tmp_path / "cache" / "conformer-zoo" / "exported").iterdir())) == 1


def test_the_converted_model_writes_the_same_texts(model_dir, corpus, tmp_path):
    texts = []
    for options in (["--run_eagerly=1"], [], ["--enable_dim_range=0", "--max_seconds=2.5"]):
        report = tmp_path / f"{len(texts)}.json"
        common = [f"--native_savedmodel_dir={model_dir}", f"--data_dir={corpus}"]
        wav2vec2.infer.main([*common, "--batch_size=3", *options, f"--result_path={report}"])
        texts.append(report.with_suffix(".tsv").read_text())
    assert json.loads(report.read_text())["mode"] == "jit"
    assert texts[0] == texts[1] == texts[2]


def expected_words(vocabulary, path):
    """Words of a path, with times of frames every 20 ms, centered in windows of 25 ms."""
    words, frame, inside = [], 0, False
    for symbol, run in itertools.groupby(path):
        start, frame = frame, frame + len(list(run))
        text = vocabulary.surfaces[symbol]
        times = [x * 0.02 + 0.0025 for x in (start, frame)]
        if text.strip() and inside:
            words[-1] = [words[-1][0], times[1], words[-1][2] + text]
        elif text.strip():
            words.append([*times, text])
        inside = bool(text.strip()) or (inside and text != " ")
    return [f"{start:.2f}\t{end:.2f}\t{text}" for start, end, text in words]


def test_words_with_their_times(main, folders, corpus, tmp_path, capsys):
    path = sorted(corpus.rglob("*.flac"))[3]
    model = wav2vec2.from_pretrained(folders / "layer")
    words = expected_words(model.vocabulary, expected_logits(model, read(path)).argmax(-1))
    assert len(words) > 5
    report = tmp_path / "report.json"
    main(path, "--timestamps", f"--result_path={report}")
    assert capsys.readouterr().out.splitlines() == words
    told = report.with_suffix(".words.tsv").read_text().splitlines()
    assert told == ["PATH\tSTART\tEND\tWORD", *(f"{path}\t{row}" for row in words)]


def test_the_documented_example_holds(model_dir, tmp_path, monkeypatch):
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "w2v").symlink_to(model_dir)
    soundfile.write(tmp_path / "lecture.wav", noise(60), RATE_HZ)
    monkeypatch.chdir(tmp_path)
    results = doctest.testmod(wav2vec2.session)
    assert results.attempted >= 4
    assert results.failed == 0


class Echo:
    """A model whose logits are the sound itself: one sample, the first of each frame, a symbol.

    Silence is the blank, the others count from there.
    """

    signatures = {"serving_default": ()}  # noqa: RUF012 - a stand-in

    def __init__(self, pipeline):
        self.pipeline = pipeline
        self.sizes = []

    def run(self, inputs, signature):
        waveforms, lengths = inputs["waveforms"], inputs["lengths"]
        self.sizes.append(waveforms.shape)
        frames = np.maximum((lengths - 400) // 320 + 1, 0)
        numbers = np.rint(waveforms[:, ::320] * 128)[:, : frames.max()].astype(int)
        symbols = (numbers + self.pipeline["blank"]) % 12
        silent = ~waveforms.any(axis=1)
        return {"logits": 100 * np.eye(12)[symbols], "logit_lengths": np.where(silent, 0, frames)}


def test_a_long_recording_is_stitched(model_dir, tmp_path, vocabulary):
    pipeline = read_pipeline(model_dir)
    symbols = np.random.default_rng(2).integers(0, 12, 700)
    symbols[200:450] = vocabulary.blank_id  # silence, longer than a chunk
    numbers = (symbols - vocabulary.blank_id) % 12
    path = tmp_path / "long.wav"
    soundfile.write(path, np.repeat(numbers / 128, 320), RATE_HZ, subtype="PCM_16")
    whole = stream(path, AudioLimits())
    window = Window.of_seconds(2.0, 0.4, 320, RATE_HZ)
    runner = Echo(pipeline)
    found = session_of(runner, pipeline, None, window).recognize_long(whole, timestamps=True)
    assert found.text == vocabulary.decode_path(symbols[:699])
    assert [word.text for word in found.words] == found.text.split()
    # The last word ends at the last frame with a symbol.
    writing = [x for x, text in enumerate(vocabulary.surfaces) if text.strip()]
    last = max(np.flatnonzero(np.isin(symbols[:699], writing))) + 1
    assert found.words[-1].end_seconds == pytest.approx((last * 320 + 40) / RATE_HZ)
    assert max(size[1] for size in runner.sizes) == 32000
    assert max(size[0] for size in runner.sizes) == 3
    assert found.beam_text is None
    # Beam search gets the logits of the whole recording, including silence.
    whole = stream(path, AudioLimits())
    session = session_of(runner, pipeline, BeamSearch(4), window)
    heard = session.recognize_long(whole, timestamps=True)
    assert heard.beam_text.split() == found.text.split()
    assert (heard.text, heard.words) == (found.text, found.words)


def test_long_recordings_run_in_chunks_and_damaged_ones_up_to_the_damage(main, tmp_path, capsys):
    whole, broken = tmp_path / "a.flac", tmp_path / "b.flac"
    soundfile.write(whole, noise(40), RATE_HZ)
    broken.write_bytes(whole.read_bytes()[:-60000])
    soundfile.write(tmp_path / "c.flac", noise(1), RATE_HZ)
    flags = ("--chunk_seconds=4", "--overlap_seconds=1", "--batch_size=4")
    main(tmp_path, *flags)
    captured = capsys.readouterr()
    texts = dict(line.split("\t") for line in captured.out.splitlines())
    assert texts.keys() == {str(whole), str(broken), str(tmp_path / "c.flac")}
    assert len(texts[str(whole)]) > 10 * len(texts[str(tmp_path / "c.flac")]) / 2
    assert 100 < len(texts[str(broken)]) < len(texts[str(whole)])
    assert f"{broken}: recognized up to" in captured.err
    with refused(match=rf"{broken} \(\w+ behind \d+\.\d\d s\)"):
        main(broken, *flags)
    assert capsys.readouterr().out == f"{texts[str(broken)]}\n"
    with refused(match=r"a\.flac"):
        main(whole, "--max_seconds=20")


def test_every_shared_sound_file_is_recognized_or_refused_in_one_line(
    main, folders, shared_data, capfd
):
    model = wav2vec2.from_pretrained(folders / "layer")
    folder = shared_data / "bad_inputs" / "audio"
    for path in sorted(folder.iterdir()):
        if path.name in ACCEPTED:
            assert main(path, "--batch_size=4") == 0, path.name
            text = "" if path.name in SILENT else expected_text(model, read(path))
            assert capfd.readouterr().out == f"{text}\n", path.name
        elif path.is_file():
            with refused(path.name):
                main(path)


def in_forms(folder, sound):
    """Writes a sound in lossless containers, encodings and rates; yields the paths."""
    stereo = np.stack([sound, sound], axis=1)
    for name, content, subtype in (
        ("pcm_16.wav", sound, "PCM_16"),
        ("pcm_24.wav", sound, "PCM_24"),
        ("float.wav", sound, "FLOAT"),
        ("stereo.wav", stereo, "PCM_16"),
        ("space and ümlaut.flac", sound, "PCM_16"),
        ("stereo_24.flac", stereo, "PCM_24"),
    ):
        soundfile.write(folder / name, content, RATE_HZ, subtype=subtype)
        yield folder / name


def test_the_text_is_the_same_in_every_form_of_the_sound(main, folders, tmp_path, capfd):
    sound = np.rint(noise(1.1, 5) * 2**15) / 2**15
    text = expected_text(wav2vec2.from_pretrained(folders / "layer"), sound)
    assert len(text) > 3
    for path in in_forms(tmp_path, sound):
        assert main(path) == 0
        assert capfd.readouterr().out == f"{text}\n", path.name


def test_silence_is_an_empty_text_and_a_constant_is_none(main, folders, tmp_path, capfd):
    for name, level in (("silent.wav", 0.0), ("constant.wav", 0.25)):
        soundfile.write(tmp_path / name, np.full(RATE_HZ, level), RATE_HZ, subtype="PCM_16")
    main(tmp_path / "silent.wav")
    assert capfd.readouterr().out == "\n"
    model = wav2vec2.from_pretrained(folders / "layer")
    main(tmp_path / "constant.wav")
    assert capfd.readouterr().out == expected_text(model, np.full(RATE_HZ, 0.25)) + "\n"


def test_flags_of_the_search_reach_it():
    flags = command_line()
    given = ["--beam_width=7", "--lm_path=x.arpa", "--lm_weight=0.25", "--word_bonus=-1"]

    def beam_of(*words):
        return from_flags(RecognitionOptions, flags.parse(words)[0]).beam_search()

    assert beam_of(*given) == BeamSearch(7, "x.arpa", 0.25, -1.0)
    assert beam_of("--beam_width=5") == BeamSearch(5, None, 0.5, 1.5)
    assert beam_of() is None


def test_beam_search_is_told_beside_the_greedy_texts(main, folders, corpus, tmp_path, capsys):
    language_model = tmp_path / "words.arpa"
    language_model.write_text(
        "\\data\\\nngram 1=6\nngram 2=1\n\n\\1-grams:\n-9\t<unk>\n-9\t<s>\t0\n-1\t</s>\n"
        "-1\tA\t0\n-2\tBE\t0\n-0.5\tG\t0\n\n\\2-grams:\n-1\tA A\n\n\\end\\\n"
    )
    model = wav2vec2.from_pretrained(folders / "layer")
    search = BeamSearch(6, str(language_model), 0.3, 4.0)
    surfaces, blank = list(model.vocabulary.surfaces), model.vocabulary.blank_id
    described = {"vocabulary": {"surfaces": surfaces}, "blank": blank}
    searches = [ctc_beam_search(described, x) for x in (search, BeamSearch(6))]
    files = sorted(corpus.rglob("*.flac"))[:4]
    logits = [expected_logits(model, read(path)) for path in files]
    guided, plain = (
        [text_of(searched(one, x[None], [len(x)])[0].tokens, surfaces) for x in logits]
        for one in searches
    )
    greedy = [model.vocabulary.decode_path(x.argmax(-1)) for x in logits]
    assert guided != plain and guided != greedy
    report, flags = tmp_path / "report.json", ["--lm_weight=0.3", "--word_bonus=4"]
    flags += ["--beam_width=6", f"--lm_path={language_model}", "--batch_size=3"]
    main(f"--data_dir={corpus}", *flags, f"--result_path={report}")
    rows = [line.split("\t") for line in report.with_suffix(".tsv").read_text().splitlines()[1:]]
    assert [row[3:5] for row in rows] == [list(x) for x in zip(greedy, guided, strict=True)]
    assert "beam search: WER" in capsys.readouterr().err
    main(files[0], *flags)
    assert capsys.readouterr().out == f"{guided[0]}\n"


def test_batches_are_decoded_without_their_padding(vocabulary):
    """Greedy and beam search ignore logits after the end of an utterance."""
    blank = vocabulary.blank_id
    described = {"blank": blank, "hop_samples": 320, "receptive_field_samples": 400}
    described |= {"sample_rate_hz": RATE_HZ, "vocabulary": {"surfaces": vocabulary.surfaces}}
    paths = np.array([[0, blank, 1, 2], [3, 3, 4, 4], [5, 5, 5, 5]])
    found = {"logits": 100.0 * np.eye(12)[paths], "logit_lengths": np.array([4, 2, 0])}
    for beam, is_timed in ((None, True), (BeamSearch(4), False), (BeamSearch(4), True)):
        decoder = decoder_of(described, beam)
        if is_timed:
            texts = with_words(lambda *_: found, decoder, {}, FrameTimes(described))
        else:
            texts = decoder.transcriptions(found)
        assert [x.text for x in texts] == ["ABC", "D", ""]
        assert [x.beam_text for x in texts] == (["ABC", "D", ""] if beam else [None] * 3)
        words = [[word.text for word in x.words] for x in texts]
        assert words == ([["ABC"], ["D"], []] if is_timed else [[], [], []])


def test_less_than_a_frame_is_refused(main, tmp_path):
    path = tmp_path / "short.wav"
    soundfile.write(path, noise(0.1)[:399], RATE_HZ)
    with refused("short.wav", error=AudioError):
        main(path)
    soundfile.write(path, noise(0.1)[:400], RATE_HZ)
    assert main(path) == 0


@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_examples_are_judged_by_their_transcripts(model_dir, lower_dir, corpus, case):
    pipeline = read_pipeline(model_dir if case is str.upper else lower_dir)
    found = calibration_examples(pipeline, corpus, 2, judged=True)
    assert len(found.batches) == 2
    runner = opening.load(model_dir)
    accuracy = found.accuracy(lambda inputs, name: runner.run(inputs, name), [0, 1])
    assert accuracy < 1.0
    vocabulary = pipeline["vocabulary"]["tokens"]
    spoken = [vocabulary.index(x) for x in case("CAB|A|BED")]
    perfect = np.eye(12)[[x for symbol in spoken for x in (symbol, pipeline["blank"])]][None]

    def run(inputs, name):
        return {"logits": perfect, "logit_lengths": np.array([len(perfect[0])])}

    assert found.accuracy(run, [0, 1]) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "neither"),
        (["a.wav", "--data_dir=b"], "both"),
        (["/nowhere.wav"], "/nowhere.wav"),
        (["a.wav", "--batch_size=0"], "batch_size"),
        (["a.wav", "--beam_width=-1"], "--beam_width"),
        (["a.wav", "--lm_path=x.arpa"], "--beam_width with --lm_path"),
        (["a.wav", "--chunk_seconds=60"], "--chunk_seconds of at most 35, the limit of the model"),
        (["a.wav", "--overlap_seconds=15"], "half of --chunk_seconds"),
        (["a.wav", "--overlap_seconds=nan"], "half of --chunk_seconds"),
        (["a.wav", "--chunk_seconds=inf"], "--chunk_seconds of at most 35"),
        (["a.wav", "--chunk_seconds=nan"], "half of --chunk_seconds"),
        (["a.wav", "--beam_width=5", "--lm_weight=nan"], "--lm_weight"),
    ],
)
def test_bad_arguments_are_one_line(main, arguments, message):
    with refused(message):
        main(*arguments)


@pytest.fixture(scope="module")
def lower_dir(model_dir, folders, vocabulary, tmp_path_factory):
    """Returns the same model with a vocabulary of lower-case letters."""
    place = tmp_path_factory.mktemp("lower")
    model = wav2vec2.from_pretrained(folders / "layer")
    model.vocabulary = Vocabulary([x.lower() for x in vocabulary.tokens])
    wav2vec2.export.export_saved_model(model, place / "model")
    return place / "model"


def test_transcripts_are_scored_in_the_case_of_the_model(main, lower_dir, corpus, tmp_path):
    reports = [tmp_path / "upper.json", tmp_path / "lower.json"]
    main(f"--data_dir={corpus}", f"--result_path={reports[0]}")
    model = [f"--native_savedmodel_dir={lower_dir}", "--run_eagerly=1"]
    wav2vec2.infer.main([*model, f"--data_dir={corpus}", f"--result_path={reports[1]}"])
    rates = [[json.loads(x.read_text())[y] for y in ("wer", "cer")] for x in reports]
    assert rates[0] == rates[1]
    rows = reports[1].with_suffix(".tsv").read_text().splitlines()[1:]
    said, heard = rows[0].split("\t")[2:4]
    assert said == "cab a bed" and heard == heard.lower() != heard.upper()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "Expected keys and values in "),
        ("{", "Expected a readable "),
        ("{}", "an export of wav2vec2"),
        ('{"family": "wav2vec2"}', r"Expected sample_rate_hz in pipeline\.json"),
    ],
)
def test_an_export_that_does_not_describe_itself_is_one_line(tmp_path, content, message):
    (tmp_path / "assets").mkdir()
    (tmp_path / "saved_model.pb").touch()
    (tmp_path / "assets" / "pipeline.json").write_text(content)
    with refused(match=message):
        wav2vec2.infer.main(["a.wav", f"--native_savedmodel_dir={tmp_path}"])


def test_the_model_is_to_be_named_and_of_this_family(project, model_dir):
    with refused(match="--native_savedmodel_dir DIR"):
        wav2vec2.infer.main(["a.wav"])
    other = project / "conformer" / "pretrained" / "digits"
    with refused(match="an export of wav2vec"):
        wav2vec2.infer.main(["a.wav", f"--native_savedmodel_dir={other}"])
    with refused(match=r"an export of conformer\. Received: wav2vec2"):
        conformer.infer.main(["a.wav", f"--native_savedmodel_dir={model_dir}"])
