"""Raw tensor files through a model: what is written is what the runner computes, for any batch."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.support.arguments import joined
from tests.support.errors import refused
from tests.support.saved_models import save_model
from tests.support.sessions import sessions_are_closed
from tools.cli import run_bins
from tools.cli.run_bins import main, random_batch
from tools.config.command_line import run
from tools.conversion.converter import convert
from tools.conversion.dim_range import parse_dim_ranges
from tools.conversion.protocol import TensorSpec
from tools.conversion.request import ConversionRequest
from tools.errors import UserError
from tools.inference.runner import load


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A SavedModel whose functions take one input: numbers of two free dimensions, or strings."""
    directory = tmp_path_factory.mktemp("export") / "model"
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, "images")])
    def serving_default(images):
        size = tf.shape(images)[1] * tf.ones([tf.shape(images)[0]], tf.int32)
        label = tf.strings.join([b"\xff ", tf.strings.as_string(size)])
        sums = tf.reduce_sum(images, 1)
        return {
            "sums": sums,
            "halves": tf.cast(sums / 2, tf.float16),
            "a_label": label,
            "size": size,
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "bytes")])
    def serve_bytes(bytes):
        return {"lengths": tf.strings.length(bytes)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, "tokens")])
    def look_up(tokens):
        return {"found": tf.gather(tf.range(5), tokens), "total": tf.reduce_sum(tokens)}

    functions = {"serving_default": serving_default, "serve_bytes": serve_bytes, "look_up": look_up}
    return save_model(directory, module, functions)


@pytest.fixture
def fixed(native, tmp_path):
    """The model of two inputs, converted for batches of 4 of 20 samples and nothing else."""
    request = ConversionRequest(dim_range={"waveforms": ((4, 4), (20, 20))})
    return convert(native, tmp_path / "fixed", request)["directory"]


def write_samples(folder, lengths, rng):
    """Files of a sample for each length, and the arrays."""
    samples = {}
    for index, length in enumerate(lengths):
        waveform = rng.standard_normal(length).astype("<f4")
        samples[f"s{index}"] = waveform, np.array(rng.integers(1, length + 1), "<i4")
        for name, array in zip(("waveforms", "lengths"), samples[f"s{index}"], strict=True):
            (folder / name).mkdir(parents=True, exist_ok=True)
            array.tofile(folder / name / f"s{index}.bin")
    return samples


def read_outputs(folder, name, outfmt, like):
    if outfmt == "TXT":
        lines = (folder / f"{name}.txt").read_text().splitlines()
        return np.array([line.split() for line in lines], like.dtype).reshape(like.shape)
    return np.fromfile(folder / f"{name}.bin", like.dtype).reshape(like.shape)


@pytest.mark.parametrize("outfmt", ["TXT", "BIN"])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_files_hold_what_the_runner_gives(native, tmp_path, rng, capsys, outfmt, batch_size):
    samples = write_samples(tmp_path, [20, 30, 20, 10, 20, 30, 20], rng)
    places = f"{tmp_path}/lengths,{tmp_path}/waveforms"
    arguments = [f"--model={native}", f"--input={places}", f"--output={tmp_path}/out"]
    main([*arguments, f"--outfmt={outfmt}", f"--batchsize={batch_size}"])
    assert capsys.readouterr().out.startswith("7 samples in ")
    runner = load(native)
    assert len(list((tmp_path / "out").iterdir())) == 2 * len(samples)
    for stem, (waveform, length) in samples.items():
        expected = runner.run({"waveforms": waveform[None], "lengths": length[None]})
        doubled = read_outputs(tmp_path / "out", f"{stem}_0", outfmt, expected["doubled"])
        np.testing.assert_array_equal(doubled, expected["doubled"])
        sums = read_outputs(tmp_path / "out", f"{stem}_1", outfmt, expected["sums"])
        np.testing.assert_allclose(sums, expected["sums"], rtol=1e-5)


def test_tensors_that_were_made_for_another_model_are_refused(native, tmp_path, rng):
    write_samples(tmp_path, [20], rng)
    places = f"{tmp_path}/lengths,{tmp_path}/waveforms"
    arguments = [f"--model={native}", f"--input={places}", f"--output={tmp_path}/out"]
    family = json.loads((native / "assets" / "pipeline.json").read_text())["family"]
    record = tmp_path / "waveforms" / "preparation.json"
    record.write_text(json.dumps({"family": "another"}))
    with refused(f"tensors made with family {family}, as the model takes them"):
        main(arguments)
    record.write_text(json.dumps({"family": family}))
    assert main(arguments) == 0


def test_the_lines_of_the_docs_hold(native, tmp_path, rng, monkeypatch):
    """The order of folders is that of the inputs; the range holds the shortest spoken digit."""
    page = (Path(__file__).parents[4] / "docs" / "convert.md").read_text()
    places = re.search(r"--signature listen --input (\S+)", page)[1]
    write_samples(tmp_path, [20, 30], rng)
    monkeypatch.chdir(tmp_path)
    main([f"--model={native}", f"--input={places}", "--output=out"])
    assert len(list((tmp_path / "out").iterdir())) == 4
    ranges = re.findall(r'--dim_range "(waveforms=\S+)"', page)
    assert ranges
    for text in ranges:
        _, (shortest, _) = parse_dim_ranges(text)["waveforms"]
        assert shortest <= 6758


@pytest.mark.parametrize("outfmt", ["TXT", "BIN"])
def test_a_batch_is_one_call_with_the_samples_in_order(native, tmp_path, rng, outfmt):
    samples = write_samples(tmp_path, [20] * 5, rng)
    places = f"{tmp_path}/lengths,{tmp_path}/waveforms"
    arguments = [f"--model={native}", f"--input={places}", f"--output={tmp_path}/out"]
    main([*arguments, f"--outfmt={outfmt}", "--batchsize=5"])
    expected = load(native).run(
        {
            "waveforms": np.stack([waveform for waveform, _ in samples.values()]),
            "lengths": np.stack([length for _, length in samples.values()]),
        }
    )["sums"]
    for row, stem in zip(expected, samples, strict=True):
        found = read_outputs(tmp_path / "out", f"{stem}_1", outfmt, row)
        np.testing.assert_array_equal(found, row)


def test_a_converted_model_of_fixed_sizes_is_padded_to(native, fixed, tmp_path, rng):
    samples = write_samples(tmp_path, [20, 20, 20, 15, 15, 20, 20], rng)
    places = f"{tmp_path}/lengths,{tmp_path}/waveforms"
    arguments = [f"--model={fixed}", f"--output={tmp_path}/out", "--batchsize=4"]
    with pytest.raises(UserError, match=r"waveforms as float32 \[20\]: 80 bytes.*s3.bin of 60"):
        main([*arguments, f"--input={places}"])
    main([*arguments, f"--input={places}", "--shape=waveforms=1:20"])
    runner = load(native)
    for stem, (waveform, length) in samples.items():
        expected = runner.run({"waveforms": waveform[None], "lengths": length[None]})["sums"]
        sums = read_outputs(tmp_path / "out", f"{stem}_1", "BIN", expected)
        np.testing.assert_allclose(sums, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=r"Expected waveforms of shape \[4, 20\]"):
        more = [f"--input={places}", "--shape=waveforms=1:20", "--batchsize=5"]
        main(joined(arguments, more))


def test_one_input_a_shape_and_outputs_of_every_kind(images, tmp_path, rng):
    folder = tmp_path / "in"
    folder.mkdir()
    image = rng.standard_normal((4, 5, 3)).astype("<f4")
    image.tofile(folder / "cat.0.bin")
    image[:2].tofile(folder / "dog.bin")
    (folder / "._cat.0.bin").write_bytes(b"?")
    (folder / "notes.txt").write_bytes(b"?")
    for given in (folder, f"{folder}/dog.bin,{folder}/cat.0.bin"):
        arguments = [f"--model={images}", f"--input={given}", f"--output={tmp_path}/out"]
        with pytest.raises(UserError, match=r"one free dimension.*\[\?, \?, 3\].*--shape images="):
            main(arguments)
        arguments += ["--shape=images=1:4,5,3", "--batchsize=2"]
        main([*arguments, "--outfmt=TXT"])
        main([*arguments, "--outfmt=BIN"])
        for stem, size in (("cat.0", 4), ("dog", 2)):
            expected = load(images).run({"images": image[None, :size]})
            names = [f"{stem}_{k}" for k in range(4)]  # a_label, halves, size, sums
            assert (tmp_path / "out" / f"{names[0]}.txt").read_bytes() == b"\xff %d\n" % size
            assert not (tmp_path / "out" / f"{names[0]}.bin").exists()
            assert (tmp_path / "out" / f"{names[2]}.txt").read_text() == f"{size}\n"
            text = (tmp_path / "out" / f"{names[3]}.txt").read_text()
            assert [len(line.split()) for line in text.splitlines()] == [3] * 5
            for outfmt in ("TXT", "BIN"):
                for k, name in ((1, "halves"), (2, "size"), (3, "sums")):
                    found = read_outputs(tmp_path / "out", names[k], outfmt, expected[name][0])
                    np.testing.assert_array_equal(found, expected[name][0])
        shutil.rmtree(tmp_path / "out")


def test_a_string_input_takes_whole_files(images, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\0\0")
    (tmp_path / "b.jpg").write_bytes(b"")
    main([f"--model={images}", "--signature=serve_bytes", "--batchsize=2", "--outfmt=TXT",
          f"--input={tmp_path}/a.jpg,{tmp_path}/b.jpg", f"--output={tmp_path}/out"])  # fmt: skip
    found = [(tmp_path / "out" / f"{stem}_0.txt").read_text() for stem in "ab"]
    assert found == ["3\n", "0\n"]


def test_a_loop_needs_no_files_and_writes_none(native, images, fixed, tmp_path, rng, capsys):
    write_samples(tmp_path, [20, 20, 30], rng)
    places = f"--input={tmp_path}/lengths,{tmp_path}/waveforms"
    before = sorted(tmp_path.rglob("*"))
    for model, flags, size in (
        (native, [places, "--batchsize=2"], 2),
        (native, ["--batchsize=3", "--shape=waveforms=10:40"], 3),
        (fixed, [], 1),
        (images, ["--batchsize=2", "--shape=images=8,8,3"], 2),
    ):
        main([f"--model={model}", "--loop=3", *flags])
        words = capsys.readouterr().out.replace(",", "").split()
        assert words[:2] == ["batch", f"{size}:"]
        mean, p50, p95, speed = (
            float(words[words.index(word) + 1]) for word in ("mean", "p50", "p95", "throughput")
        )
        assert 0 < p50 <= p95
        assert speed == pytest.approx(1e3 * size / mean, rel=0.05)
    assert sorted(tmp_path.rglob("*")) == before
    main([f"--model={native}", "--loop=3", places, f"--output={tmp_path}/out"])
    printed = capsys.readouterr().out
    assert "3 samples in" in printed
    assert "throughput" in printed
    assert len(list((tmp_path / "out").iterdir())) == 6
    for model, flags in ((native, []), (images, ["--signature=serve_bytes"])):
        with pytest.raises(UserError, match="random"):
            main([f"--model={model}", "--loop=3", *flags])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--input=IN/nowhere"], "a folder of .bin files, or a file.*nowhere"),
        (["--input=IN/empty,IN/waveforms"], "a folder of .bin files, or a file.*empty"),
        (["--input=IN/lengths,"], "an empty name"),
        (["--input=IN/lengths"], "each of the inputs lengths, waveforms"),
        (["--input=IN/lengths,IN/waveforms,IN/lengths"], "each of the inputs lengths, waveforms"),
        (["--input=IN/lengths,IN/waveforms/s1.bin"], "no s0 in .*waveforms/s1.bin"),
        (["--input=IN/one,IN/waveforms"], "no s1 in .*one"),
        (["--input=IN/waveforms,IN/lengths"], "lengths as int32.*4 bytes.*s0.bin of 80 bytes"),
        (["--input=IN/lengths,IN/odd"], "waveforms as float32.*multiple of 4.*s0.bin of 81 bytes"),
        (["--input=IN/lengths,IN/nothing"], "waveforms as float32.*s0.bin of 0 bytes"),
        (["--input=IN/" + "x" * 300 + ",IN/waveforms"], "can be read.*name too long"),
        (["--signature=nothing"], "--signature among serving_default.*nothing"),
        (["--shape=waveforms"], "--shape NAME=224,224,3"),
        (["--shape="], "a value for --shape"),
        (["--shape=waveforms=20,1"], r"--shape.*lengths \[\]; waveforms \[\?\]"),
        (["--shape=sounds=20"], "--shape"),
        (["--shape=waveforms=0:20"], "--shape"),
        (["--shape=waveforms=21"], r"waveforms as float32 \[21\]: 84 bytes"),
        (["--shape=waveforms=1:19"], r"waveforms as float32 \[1:19\].*s0.bin of 80 bytes"),
        (["--batchsize=0"], "--batchsize >= 1"),
        (["--loop=-1"], "--loop >= 0"),
        (["--outfmt=CSV"], "one of TXT, BIN"),
        (["--output=IN/lengths"], "--output folder other than --input"),
        (["--output=IN/lengths/s0.bin"], "room and permission"),
        (["--output="], "a value for --output"),
        (["--input=", "--loop=1"], "a value for --input"),
        (["--model="], "--model"),
        (["--model=IN"], "SavedModel directory"),
        (["rest"], "--model"),
    ],
)
def test_bad_input_is_one_line(native, tmp_path, rng, flags, expected):
    write_samples(tmp_path, [20, 20], rng)
    for name in ("empty", "one", "odd", "nothing"):
        (tmp_path / name).mkdir()
    shutil.copy(tmp_path / "lengths" / "s0.bin", tmp_path / "one")
    for index in range(2):
        (tmp_path / "odd" / f"s{index}.bin").write_bytes(b"\0" * 81)
        (tmp_path / "nothing" / f"s{index}.bin").write_bytes(b"")
    arguments = [f"--model={native}", "--input=IN/lengths,IN/waveforms", "--output=IN/out"]
    with refused(match=expected):
        main([word.replace("IN", str(tmp_path)) for word in joined(arguments, flags)])
    assert not list(tmp_path.glob("out/*"))


def test_the_model_is_closed_at_the_end_and_after_an_error(native, tmp_path, rng):
    write_samples(tmp_path, [20], rng)
    places = f"--input={tmp_path}/lengths,{tmp_path}/waveforms"
    arguments = [f"--model={native}", places, f"--output={tmp_path}/out"]
    with sessions_are_closed(2):
        assert main(arguments) == 0
        with refused("a --signature among serving_default"):
            main([*arguments, "--signature=other"])


def test_values_and_outputs_that_do_not_fit_are_one_line(images, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    np.array(7, "<i4").tofile(tmp_path / "a" / "x.bin")
    np.array(1, "<i4").tofile(tmp_path / "b" / "x.bin")
    arguments = [f"--model={images}", "--signature=look_up", f"--output={tmp_path}/out"]
    for given, expected in (
        ("a", "7 is not in"),
        ("b", "1 rows of total"),
        ("a,b", "different stems"),
        ("a/x.bin,a", "different stems"),
    ):
        places = ",".join(f"{tmp_path}/{place}" for place in given.split(","))
        with pytest.raises(SystemExit) as ended:
            run(main, ["run_bins", *arguments, f"--input={places}"])
        assert ended.value.code == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1
        assert expected in said[0]


def test_a_loop_tells_mean_and_percentiles_of_its_rounds(native, capsys, monkeypatch):
    times = iter([100.0, *range(1, 21)])  # seconds, the warm-up's first

    def timed(runner, signature, inputs, seconds):
        seconds.append(next(times))

    monkeypatch.setattr(run_bins, "run_timed", timed)
    main([f"--model={native}", "--loop=20", "--batchsize=3", "--shape=waveforms=20"])
    expected = np.percentile(range(1, 21), 95)
    assert capsys.readouterr().out == (
        "batch 3: latency mean 10500.000 ms, p50 10500.000 ms, "
        f"p95 {1e3 * expected:.3f} ms, throughput 0.29 samples/s\n"
    )
    assert next(times, None) is None


def test_noise_fills_every_row_to_the_longest_input():
    specs = [
        TensorSpec("states", "float32", (None, 7)),
        TensorSpec("lengths", "int32", (None,)),
        TensorSpec("waveforms", "float16", (None, None)),
        TensorSpec("tokens", "int64", (None, 3)),
        TensorSpec("classes", "int32", (None,)),
    ]
    dimensions = {"states": (7,), "lengths": (), "waveforms": ((10, 90),), "tokens": (3,)}
    dimensions["classes"] = ()
    found = random_batch(specs, dimensions, 2)
    assert {name: (x.dtype.name, x.shape) for name, x in found.items()} == {
        "states": ("float32", (2, 7)),
        "lengths": ("int32", (2,)),
        "waveforms": ("float16", (2, 30)),  # the geometric middle
        "tokens": ("int64", (2, 3)),
        "classes": ("int32", (2,)),
    }
    assert found["lengths"].tolist() == [30, 30]
    for name in ("tokens", "classes"):
        assert not found[name].any(), "an index that every table has"
    assert 0.05 < found["waveforms"].std() < 0.2
