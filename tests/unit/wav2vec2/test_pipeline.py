"""Tests the deployment pipeline on raw tensors, from a corpus to error rates."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

import wav2vec2
from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.speech.audio import AudioError, AudioLimits, read
from tools.speech.scoring import score
from wav2vec2 import compile as compile_program
from wav2vec2 import export, postprocess, preprocess
from wav2vec2.config import PreprocessingConfig
from wav2vec2.tensors import Preparation

RATE_HZ = 16000
SECONDS = (1.0, 0.5, 6.2, 0.8, 7.0, 0.6)  # in the order of the ids; one is longer than a row


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(4)
    sounds = [
        0.05 + 0.2 * rng.standard_normal(int(seconds * RATE_HZ)).clip(-1, 1) for seconds in SECONDS
    ]
    texts = [f"CAB A BED {'A ' * number}".strip() for number in range(len(SECONDS))]
    pairs = zip(texts, sounds, strict=True)
    write_librispeech(root / "test-clean", pairs, speaker=1, chapter=2)
    return root


@pytest.fixture(scope="module")
def quiet_corpus(tmp_path_factory):
    """Returns one second at -70 dB, with a variance equal to the epsilon of normalization."""
    root, rng = tmp_path_factory.mktemp("quiet"), np.random.default_rng(5)
    sound = 3e-4 * rng.standard_normal(RATE_HZ)
    write_librispeech(root / "test-clean", [("CAB", sound)], speaker=1, chapter=2)
    return root


def prepare(corpus, data, *options, batch_size=2):
    output = data / "bin_om_input" / f"bs{batch_size}"
    arguments = [f"--input={corpus}", f"--batch_size={batch_size}", f"--output={output}"]
    assert preprocess.main([*arguments, *options]) == 0
    return output


def run(model_dir, data, *options, batch_size=2):
    output = data / "bin_om_output" / f"bs{batch_size}"
    arguments = [f"--batch_size={batch_size}", f"--output_path={output}", *options]
    arguments += [f"--input_path={data / 'bin_om_input' / f'bs{batch_size}'}"]
    assert compile_program.main([*arguments, f"--native_savedmodel_dir={model_dir}"]) == 0
    return output


def judge(data, *options, batch_size=2):
    arguments = [f"--input={data / 'bin_om_output' / f'bs{batch_size}'}", f"--data_path={data}"]
    assert postprocess.main([*arguments, f"--batch_size={batch_size}", *options]) == 0


def ids(*numbers):
    return [f"1-2-{number:04d}" for number in numbers]


def test_batches_are_those_of_the_original_and_the_rest_is_kept(corpus, tmp_path):
    folder = prepare(corpus, tmp_path)
    names = json.loads((tmp_path / "batch_i_filename_map_bs2.json").read_text())
    assert names == {
        "batch_0": ids(0, 1),
        "batch_1": ids(2, 3),
        "batch_2": ids(5),
        "batch_3": ids(4),
    }
    sizes = {path.stem: path.stat().st_size // 4 for path in folder.glob("*.bin")}
    assert sizes == {"batch_0": 200000, "batch_1": 200000, "batch_2": 100000, "batch_3": 200000}
    rows = np.fromfile(folder / "batch_0.bin", "<f4").reshape(2, 100000)
    for row, number in zip(rows, (0, 1), strict=True):
        (path,) = corpus.rglob(f"*{number:04d}.flac")
        sound = read(path)
        scaled = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
        np.testing.assert_allclose(row[: len(sound)], scaled, atol=1e-4)
        assert not row[len(sound) :].any()
    texts = (tmp_path / "ground_truth_texts.txt").read_text().splitlines()
    assert texts[1] == "1-2-0001 CAB A BED A" and len(texts) == 6


def test_as_the_original_what_is_longer_or_left_over_is_not_there(corpus, tmp_path, capsys):
    folder = prepare(corpus, tmp_path, "--seed_mode", batch_size=2)
    names = json.loads((tmp_path / "batch_i_filename_map_bs2.json").read_text())
    assert names == {"batch_0": ids(0, 1), "batch_1": ids(2, 3)}
    assert len(list(folder.glob("*.bin"))) == 2
    with refused(match="a batch of 64 utterances"):
        prepare(corpus, tmp_path, "--seed_mode", batch_size=64)
    assert not (tmp_path / "bin_om_input" / "bs64").exists()


def test_rows_are_the_least_multiple_of_the_sample_length():
    sizes = [100, 101, 200, 1, 300, 99, 201]
    utterances = [SimpleNamespace(num_samples=x) for x in sizes]
    for only_whole, wanted in (
        (False, [(100, [100, 1]), (100, [99]), (200, [101, 200]), (300, [300, 201])]),
        (True, [(100, [100, 1]), (200, [101, 200]), (300, [300, 201])]),
    ):
        found = preprocess.batches_of(utterances, 2, 100, only_whole)
        assert [(size, [x.num_samples for x in rows]) for size, rows in found] == wanted


def test_sound_as_it_is_in_rows_of_another_length(corpus, tmp_path, capsys):
    """Half a second is exactly 8,000 samples, which fit into one sample length."""
    options = ["--sample_length=8000", "--normalize=false", "--max_seconds=0.9"]
    folder = prepare(corpus, tmp_path, *options)
    assert "3 utterances in 2 files" in (told := capsys.readouterr().err)
    assert "3 skipped" in told
    names = json.loads((tmp_path / "batch_i_filename_map_bs2.json").read_text())
    assert names == {"batch_0": ids(1), "batch_1": ids(3, 5)}
    lengths = json.loads((folder / "lengths.json").read_text())
    assert lengths == {"batch_0": [8000], "batch_1": [12800, 9600]}
    for name, size in (("batch_0", 8000), ("batch_1", 16000)):
        rows = np.fromfile(folder / f"{name}.bin", "<f4").reshape(-1, size)
        for row, utterance, length in zip(rows, names[name], lengths[name], strict=True):
            (path,) = corpus.rglob(f"{utterance}.flac")
            np.testing.assert_array_equal(row[:length], read(path))
            assert not row[length:].any()


@pytest.mark.parametrize("options", [["--run_eagerly"], [], ["--enable_dim_range=0"]])
def test_logits_are_those_of_each_utterance_alone(
    exports, folders, corpus, tmp_path, capsys, options
):
    prepare(corpus, tmp_path)
    folder = run(exports / "group", tmp_path, *options)
    assert re.search(r"6 samples in .* samples/s", capsys.readouterr().out)
    outputs = json.loads((folder / "outputs.json").read_text())
    assert [len(x) for x in outputs["frames"].values()] == [2, 2, 1, 1]
    model = wav2vec2.from_pretrained(folders / "group")
    shapes = {"batch_0": (2, 312, 12), "batch_2": (1, 312, 12), "batch_3": (1, 624, 12)}
    for (name, shape), number in zip(shapes.items(), (0, 5, 4), strict=True):
        logits = np.fromfile(folder / f"{name}.bin", "<f4").reshape(shape)[0]
        (path,) = corpus.rglob(f"*{number:04d}.flac")
        sound = read(path)
        scaled = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
        expected = np.asarray(model(scaled[None].astype("float32")))[0]
        assert outputs["frames"][name][0] == len(expected)
        np.testing.assert_allclose(logits[: len(expected)], expected, atol=2e-3)


@pytest.mark.parametrize("normalize", [True, False], ids=["normalizing", "plain"])
@pytest.mark.parametrize("options", [[], ["--normalize=false"]], ids=["moments", "as_read"])
def test_a_model_hears_the_sound_as_it_was_read(
    talkative, quiet_corpus, tmp_path, normalize, options
):
    """Also if the model normalizes and for quiet sounds: normalizing twice would change them."""
    model = talkative("layer")
    model.preprocessing = PreprocessingConfig(8000, normalize=normalize, trained_with_mask=True)
    export.export_saved_model(model, tmp_path / "model")
    prepare(quiet_corpus, tmp_path, "--sample_rate_hz=8000", "--sample_length=8000", *options)
    folder = run(tmp_path / "model", tmp_path, "--run_eagerly")
    (path,) = quiet_corpus.rglob("*.flac")
    sound = read(path, AudioLimits(rate_hz=8000))
    assert len(sound) == 8000
    scaled = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
    expected = np.asarray(model((scaled if normalize else sound)[None].astype("float32")))[0]
    found = np.fromfile(folder / "batch_0.bin", "<f4").reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_outputs_of_other_utterances_are_refused(exports, corpus, quiet_corpus, tmp_path):
    """The map lists the utterances and may have been written by a later run."""
    prepare(quiet_corpus, tmp_path)
    run(exports / "group", tmp_path, "--run_eagerly")
    path = tmp_path / "batch_i_filename_map_bs2.json"
    path.write_text(path.read_text().replace("-0000", "-0001"))
    with refused("of the map and their utterances"):
        judge(tmp_path)


def test_as_the_original_padding_is_sound(folders, corpus, tmp_path):
    place = [f"--pytorch_model_dir={folders / 'group'}", f"--output_dir={tmp_path / 'model'}"]
    export.main([*place, "--mask_padding=false"])
    inputs = prepare(corpus, tmp_path, "--seed_mode")
    folder = run(tmp_path / "model", tmp_path, "--run_eagerly")
    rows = np.fromfile(inputs / "batch_1.bin", "<f4").reshape(2, 100000)
    model = wav2vec2.from_pretrained(folders / "group", mask_padding=False)
    found = np.fromfile(folder / "batch_1.bin", "<f4").reshape(2, 312, 12)
    np.testing.assert_allclose(found, model(rows), atol=2e-3)


def make_outputs(data, pipeline, said, batch_size=2, case=str, padding="G"):
    """Writes the outputs of a model that recognizes `said`, with a symbol in the padding."""
    folder = data / "bin_om_output" / f"bs{batch_size}"
    folder.mkdir(parents=True)
    tokens = pipeline["vocabulary"]["tokens"]
    written = [case(x) for x in pipeline["vocabulary"]["surfaces"]]
    pipeline = pipeline | {"vocabulary": pipeline["vocabulary"] | {"surfaces": written}}
    path = [tokens.index("|" if x == " " else x) for x in said]
    symbols = [x for symbol in path for x in (symbol, pipeline["blank"])]
    logits = np.eye(12, dtype="<f4")[[[*symbols, tokens.index(padding)]] * 2]
    (folder / "batch_0.bin").write_bytes(logits.tobytes())
    content = {"frames": {"batch_0": [len(symbols)] * 2}, "pipeline": pipeline}
    (folder / "outputs.json").write_text(json.dumps(content))
    (data / f"batch_i_filename_map_bs{batch_size}.json").write_text('{"batch_0": ["a", "b"]}')
    (data / "ground_truth_texts.txt").write_text("a CAB BED\nb CAB BAD\n")


@pytest.fixture(scope="module")
def pipeline(exports):
    return json.loads((exports / "group" / "assets" / "pipeline.json").read_text())


@pytest.mark.parametrize("case", [str.upper, str.lower])
def test_rates_by_hand(pipeline, tmp_path, capsys, case):
    """1 of 14 characters and 1 of 4 words are wrong, in upper and in lower case."""
    make_outputs(tmp_path, pipeline, "CAB BED ", case=case)
    judge(tmp_path)
    told = capsys.readouterr().out
    assert "Err 0.0714, Acc 0.9286" in told
    assert "reference accuracy 0.9700, difference -0.0414" in told
    assert "WER 25.00%, CER 7.14% of 2 utterances" in told
    judge(tmp_path, "--seed_mode", "--reference_accuracy=0.5")
    told = capsys.readouterr().out
    # The space and the padding of each text are two more edits.
    assert f"Err {5 / 14:.4f}" in told and f"difference {0.5 - 5 / 14:+.4f}" in told


def test_characters_that_the_model_cannot_write_are_named(pipeline, tmp_path, capsys):
    make_outputs(tmp_path, pipeline, "CAB BED ")
    judge(tmp_path)
    assert capsys.readouterr().err == ""
    texts = next(tmp_path.rglob("ground_truth_texts.txt"))
    texts.write_text("a CAB BED\nb CÄB BÄZ\n", encoding="utf-8")
    judge(tmp_path)
    lacks = "1 of 2 transcripts (50.0%) with characters that the vocabulary lacks: "
    assert capsys.readouterr().err == f"{lacks}Ä (2), Z (1); they count as errors\n"


def test_logits_that_are_not_finite_are_refused(pipeline, tmp_path):
    make_outputs(tmp_path, pipeline, "CAB BED ")
    path = next(tmp_path.rglob("batch_0.bin"))
    logits = np.fromfile(path, "<f4")
    logits[-1] = np.nan
    path.write_bytes(logits.tobytes())
    with refused(f"finite logits of b in {path}. Received: NaN or infinity."):
        judge(tmp_path, "--seed_mode")


def test_outer_spaces_are_errors_of_the_original_alone(pipeline, tmp_path, capsys):
    """1 of 14 characters is wrong, and both texts have a space at their ends."""
    make_outputs(tmp_path, pipeline, " CAB BED ", padding="<pad>")
    judge(tmp_path)
    assert f"Err {1 / 14:.4f}" in capsys.readouterr().out
    judge(tmp_path, "--seed_mode")
    assert f"Err {5 / 14:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x["frames"].update(batch_0=[3]),
        lambda x: x["frames"].update(batch_0=[3, "4"]),
        lambda x: x["frames"].update(batch_1=[3, 4]),
        lambda x: x["frames"].update(batch_0=[3, 99]),
        lambda x: x["frames"].update(batch_0=[-1, 3]),
        lambda x: x["frames"].clear(),
        lambda x: x.pop("frames"),
        lambda x: x.pop("pipeline"),
        lambda x: x["pipeline"].update(family="conformer"),
    ],
)
def test_outputs_of_other_batches_are_one_line(pipeline, tmp_path, change):
    make_outputs(tmp_path, pipeline, "CAB BED")
    path = tmp_path / "bin_om_output" / "bs2" / "outputs.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with refused(match=r"for the 1 batches of the map|frames in each row of batch_0"):
        judge(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("batch_i_filename_map_bs2.json", '{"batch_0": ["a", ["b"]]}', "1 to 2 texts"),
        ("batch_i_filename_map_bs2.json", '{"batch_0": ["a", "b", "c"]}', "1 to 2 texts"),
        ("ground_truth_texts.txt", "a CAB\n", "b in "),
        ("bin_om_output/bs2/batch_0.bin", "12345", "5 bytes"),
    ],
)
def test_files_that_do_not_belong_together_are_one_line(pipeline, tmp_path, name, content, message):
    make_outputs(tmp_path, pipeline, "CAB BED")
    (tmp_path / name).write_text(content)
    with refused(message):
        judge(tmp_path)


def test_the_whole_in_a_row(exports, folders, corpus, tmp_path, capsys, monkeypatch):
    prepare(corpus, tmp_path, batch_size=4)

    def in_half_a_second(runner, signature, inputs, seconds):
        seconds.append(0.5)
        return runner.run(inputs, signature)

    monkeypatch.setattr(compile_program, "run_timed", in_half_a_second)
    run(exports / "layer", tmp_path, "--run_eagerly", batch_size=4)
    # Three batches, without the warm-up.
    told = capsys.readouterr().out
    assert "6 samples in 1.500 s at batch size 4: 4.00 samples/s" in told
    assert "(eager, tensorflow, fp32)" in told
    judge(tmp_path, batch_size=4)
    told = capsys.readouterr().out
    assert "of 6 utterances" in told
    model = wav2vec2.from_pretrained(folders / "layer")
    said, heard = [], []
    for path in sorted(corpus.rglob("*.flac")):
        sound = read(path)
        x = (sound - sound.mean()) / np.sqrt(sound.var() + 1e-7)
        path = np.asarray(model(x[None].astype("float32")))[0].argmax(-1)
        heard.append(model.vocabulary.decode_path(path))
        said.append(f"CAB A BED {'A ' * len(said)}".strip())
    result = score(said, heard)
    assert f"WER {result.wer:.2%}, CER {result.cer:.2%} of 6 utterances" in told


def test_a_model_of_another_family_is_refused(corpus, tmp_path, project):
    prepare(corpus, tmp_path)
    with refused(match=r"an export of wav2vec2\. Received: conformer"):
        run(project / "conformer/pretrained/digits", tmp_path)


def test_a_second_run_takes_the_place_of_the_first(corpus, tmp_path):
    prepare(corpus, tmp_path)
    folder = prepare(corpus, tmp_path, "--seed_mode")
    assert len(list(folder.glob("*.bin"))) == 2
    (folder / "lengths.json").unlink()
    with refused(match="earlier run"):
        prepare(corpus, tmp_path)


def broken(data, change):
    folder = data / "bin_om_input" / "bs2"
    folder.mkdir(parents=True)
    moments = {"batch_0": [0.0, 0.0]}, {"batch_0": [1.0, 1.0]}
    Preparation(RATE_HZ, "", *moments).write(folder)
    (folder / "batch_0.bin").write_bytes(np.zeros(2000, "<f4").tobytes())
    (folder / "lengths.json").write_text('{"batch_0": [500, 400]}')
    change(folder)


def change_preparation(**changes):
    def change(folder):
        path = folder / "preparation.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x / "lengths.json").unlink(), "lengths.json"),
        (lambda x: (x / "lengths.json").write_text("no"), "not a JSON file"),
        (lambda x: (x / "lengths.json").write_text("{}"), "none"),
        (lambda x: (x / "lengths.json").write_text('{"batch_0": [1, 2, 3]}'), "1 to 2 whole"),
        (lambda x: (x / "lengths.json").write_text('{"batch_0": [1, "2"]}'), "whole numbers"),
        (lambda x: (x / "lengths.json").write_text('{"batch_0": [1, 1001]}'), "0 to 1000 samples"),
        (lambda x: (x / "lengths.json").write_text('{"batch_0": [1, -1]}'), "0 to 1000 samples"),
        (lambda x: (x / "batch_0.bin").unlink(), "batch_0.bin"),
        (lambda x: (x / "preparation.json").unlink(), "preparation.json of wav2vec2.preprocess"),
        (lambda x: (x / "preparation.json").write_text("{}"), "rate, mean and deviation"),
        (change_preparation(mean={"batch_0": [0.0]}), "rate, mean and deviation"),
        (change_preparation(mean={"batch_1": [0.0, 0.0]}), "rate, mean and deviation"),
        (change_preparation(deviation={"batch_0": [1.0, "2"]}), "rate, mean and deviation"),
        (change_preparation(sample_rate_hz="8000"), "rate, mean and deviation"),
        (change_preparation(utterances=3), "rate, mean and deviation"),
        (change_preparation(sample_rate_hz=8000), "waveforms of 16000 Hz"),
        (lambda x: (x / "batch_0.bin").write_bytes(b"12345"), "5 bytes"),
    ],
)
def test_broken_folders_are_one_line(exports, tmp_path, change, message):
    broken(tmp_path, change)
    with refused(message):
        run(exports / "group", tmp_path, "--run_eagerly")
    assert not (tmp_path / "bin_om_output").exists()


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (preprocess, [], "--input LIBRISPEECH"),
        (preprocess, ["--input=/nowhere", "--output=x/y/z"], "/nowhere"),
        (preprocess, ["--input=a", "--output=b", "--batch_size=0"], "--batch_size >= 1"),
        (preprocess, ["--input=a", "--output=b", "--max_seconds=nan"], "--max_seconds > 0"),
        (preprocess, ["--input=a", "--output=b", "--sample_length=399"], "of 400 to 10000000"),
        (
            preprocess,
            ["--input=a", "--output=b", "--sample_rate_hz=800"],
            "sample_rate_hz at least",
        ),
        (
            postprocess,
            ["--input=a", "--data_path=b", "--reference_accuracy=nan"],
            "--reference_accuracy of 0 to 1",
        ),
        (compile_program, [], "--batch_size N"),
        (
            compile_program,
            ["--input_path=a", "--output_path=b", "--torchscript_path=/nowhere"],
            "/nowhere",
        ),
        (postprocess, [], "--input FOLDER"),
        (
            postprocess,
            ["--input=/nowhere", "--data_path=/nowhere"],
            "batch_i_filename_map_bs1.json",
        ),
    ],
)
def test_bad_arguments_are_one_line(program, arguments, message):
    with refused(message):
        program.main(arguments)


def test_a_file_that_was_damaged_since_is_left_out(corpus, tmp_path, monkeypatch, capsys):
    def read_but_two(path, limits):
        if any(name in str(path) for name in ids(0, 3)):
            raise AudioError(f"{path}: cut", reason="truncated")
        return read(path, limits)

    monkeypatch.setattr(preprocess, "read", read_but_two)
    folder = prepare(corpus, tmp_path)
    told = capsys.readouterr().err
    assert "4 utterances in" in told and "2 skipped" in told
    assert sum("truncated" in line for line in told.splitlines()) == 2
    names = json.loads((tmp_path / "batch_i_filename_map_bs2.json").read_text())
    assert sorted(x for batch in names.values() for x in batch) == ids(1, 2, 4, 5)
    lengths = json.loads((folder / "lengths.json").read_text())
    assert {name: len(rows) for name, rows in lengths.items()} == {
        name: len(batch) for name, batch in names.items()
    }
    texts = (tmp_path / "ground_truth_texts.txt").read_text().splitlines()
    assert sorted(line.split()[0] for line in texts) == ids(1, 2, 4, 5)


@pytest.mark.parametrize("path", ["./traced.pth", "model.PT"])
def test_a_file_of_torchscript_is_answered_with_the_export(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["--input_path=a", "--output_path=b", f"--torchscript_path={path}"]
    with refused("Run python -m wav2vec2.export --pytorch_model_dir=FOLDER") as caught:
        compile_program.main(argv)
    assert path in str(caught.value)
    (tmp_path / "wav2vec2_savedmodel").mkdir()
    with refused("Leave the flag out to run wav2vec2_savedmodel."):
        compile_program.main(argv)


def test_batches_of_the_original_have_whole_rows(exports, corpus, tmp_path, capsys):
    """Neither lengths nor preprocessing are known: both are those of the rows."""
    folder = prepare(corpus, tmp_path, "--seed_mode")
    for name in ("lengths.json", "preparation.json"):
        (folder / name).unlink()
    names = json.loads((tmp_path / "batch_i_filename_map_bs2.json").read_text())
    capsys.readouterr()
    output = run(exports / "group", tmp_path, "--run_eagerly")
    assert "every row counts as a whole one" in capsys.readouterr().err
    outputs = json.loads((output / "outputs.json").read_text())
    assert outputs["frames"] == {name: [312, 312] for name in names}
    assert "utterances" not in outputs
    judge(tmp_path)
    assert re.search(r"of 4 utterances", capsys.readouterr().out)
    (folder / "batch_0.bin").write_bytes(bytes(4 * 3))
    with refused("2 rows of float32"):
        run(exports / "group", tmp_path, "--run_eagerly")


def test_outputs_of_the_original_are_read_with_its_vocabulary(tmp_path, capsys):
    tokens = [*("<pad> <s> </s> <unk> |".split()), *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
    said = [0, 0, *(tokens.index(x) for x in "CCAB|BED"), 0, 0]
    logits = np.eye(32, dtype="<f4")[[said, said]]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "batch_0.bin").write_bytes(logits.tobytes())
    (tmp_path / "batch_i_filename_map_bs2.json").write_text('{"batch_0": ["a", "b"]}')
    (tmp_path / "ground_truth_texts.txt").write_text("a CAB BED\nb CAB BED\n")
    arguments = [f"--input={tmp_path}/out", f"--data_path={tmp_path}", "--batch_size=2"]
    assert postprocess.main(arguments) == 0
    told = capsys.readouterr()
    assert "Acc 1.0000" in told.out and "every frame counts" in told.err
    (tmp_path / "out" / "batch_0.bin").unlink()
    with refused("outputs.json"):
        postprocess.main(arguments)
