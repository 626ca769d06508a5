"""Compares the programs for evaluation and inference with the model run on images of PIL."""

import ast
import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

import vision
import vision.activation_map
import vision.eval
import vision.eval_onnx
import vision.export
import vision.infer
import vision.infer_onnx
from tests.support.arguments import joined
from tests.support.errors import refused
from tests.support.sessions import sessions_are_closed
from tools.cli import flatten_images
from tools.conversion.pipeline import read_pipeline
from tools.inference.runner import load
from vision.classes import Classes
from vision.config import load_config
from vision.options import ImageDataOptions
from vision.program import Classification
from vision.session import ImageSession, calibration_examples, probabilities_of

SIDE, NUM_CLASSES = 64, 10
NAMES = [f"thing {number}" for number in range(NUM_CLASSES)]
CONFIG = load_config(None, {"preprocessing.image_size": SIDE, "model.num_classes": NUM_CLASSES})
SOURCES = ("checkpoint", "eager", "jit", "onnx")


def picture(path):
    """Returns the preprocessed image, computed with PIL."""
    with Image.open(path) as image:
        image = image.convert("RGB")
        width, height = image.size
        scale = 73 / min(width, height)
        size = [73 if x == min(width, height) else int(scale * x) for x in (width, height)]
        image = image.resize(size, Image.BICUBIC)
        left, top = (round((x - SIDE) / 2) for x in size)
        pixels = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)), np.float64) / 255
    return (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


@pytest.fixture(scope="module")
def photos(tmp_path_factory, calibrated):
    """Writes an ImageFolder in which the model predicts about half of the classes correctly."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(5)
    for number in range(24):
        cells = rng.integers(0, 256, (5, 6, 3), np.uint8)
        image = Image.fromarray(cells).resize((90 + number, 80), Image.BICUBIC)
        path = root / "x.png"
        image.save(path)
        heads = calibrated(picture(path)[None].astype("float32"))
        predicted = int(np.argmax(sum(x.numpy() for x in heads)))
        label = predicted if number % 2 else int(rng.integers(NUM_CLASSES))
        (root / NAMES[label]).mkdir(exist_ok=True)
        path.rename(root / NAMES[label] / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def answers(photos, calibrated):
    """Label and logits of both heads for every image, in the order of the folder."""
    paths = sorted(photos.rglob("*.png"))
    batch = np.stack([picture(path) for path in paths]).astype("float32")
    labels = np.array([NAMES.index(path.parent.name) for path in paths])
    return paths, labels, np.stack([x.numpy() for x in calibrated(batch)]).astype("float64")


@pytest.fixture(scope="module")
def models(calibrated, tmp_path_factory):
    """The model as a checkpoint, as a SavedModel and as an ONNX file."""
    folder = tmp_path_factory.mktemp("models")
    vision.save_pytorch_weights(calibrated, folder / "weights.safetensors")
    saved = folder / "saved"
    pipeline = vision.export.export_saved_model(calibrated, CONFIG, saved, Classes(NAMES))
    vision.export.export_onnx(saved, pipeline, folder / "model.onnx")
    return folder


@pytest.fixture
def flags(models, of_small, tmp_path):
    """Returns the flags that select the model, by source."""
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(NAMES))
    named = f"--imagenet_label_file={labels}"
    native = f"--native_savedmodel_dir={models / 'saved'}"
    converted = f"--converted_savedmodel_dir={models / 'converted'}"
    return {
        "checkpoint": [f"--checkpoint={models / 'weights.safetensors'}", *of_small, named],
        "eager": [native, "--run_eagerly=1"],
        "jit": [native, "--batch_size=5", converted],
        "onnx": [f"--onnx_path={models / 'model.onnx'}"],
    }


def program_of(source, eager, onnx):
    return (onnx if source == "onnx" else eager).main


@pytest.mark.parametrize("source", SOURCES)
def test_evaluation(source, flags, photos, answers, tmp_path, capsys):
    _, labels, heads = answers
    order = np.argsort(-heads.sum(0), axis=-1)
    losses = np.log(np.exp(heads).sum(-1)) - heads[:, np.arange(len(labels)), labels]
    expected = {
        "Loss": losses.sum(0).mean(),
        "Top1-Acc": (order[:, 0] == labels).mean(),
        "Top5-Acc": (order[:, :5] == labels[:, None]).any(-1).mean(),
    }
    if source in ("jit", "onnx"):
        del expected["Loss"]
    assert 0.3 < expected["Top1-Acc"] < expected["Top5-Acc"] < 1
    report, analysis = tmp_path / "report.json", tmp_path / "analysis"
    more = [f"--result_path={report}", f"--analysis_dir={analysis}"]
    main = program_of(source, vision.eval, vision.eval_onnx)
    assert main(joined(flags[source], ["--batch_size=5", *more, str(photos)])) == 0
    printed = capsys.readouterr().out.strip()
    found = ast.literal_eval(printed.removeprefix("eval results: "))
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=2e-4)

    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), int)
    np.add.at(confusion, (labels, order[:, 0]), 1)
    with (analysis / "confusion_matrix.csv").open() as file:
        (_, *header), *rows = csv.reader(file)
    assert header == NAMES
    assert [[int(x) for x in row[1:]] for row in rows] == confusion.tolist()
    with (analysis / "per_class_accuracy.csv").open() as file:
        shares = {row["name"]: row["accuracy"] for row in csv.DictReader(file)}
    for number, name in enumerate(NAMES):
        total = confusion[number].sum()
        share = f"{confusion[number, number] / total:.6f}" if total else ""
        assert shares[name] == share
    with Image.open(analysis / "confusion_matrix.png") as drawn:
        assert drawn.size[0] > 100
    summary = json.loads(report.read_text())
    assert summary["top1"] == pytest.approx(expected["Top1-Acc"])
    assert summary["num_images"] == len(labels)
    whole, seconds = summary["num_images"], summary["end_to_end_seconds"]
    assert summary["end_to_end_samples_per_second"] == pytest.approx(whole / seconds)
    assert summary["samples_per_second"] >= summary["end_to_end_samples_per_second"]
    assert 0 <= summary["decode_wait_share"] <= 1
    assert summary["top5"] == pytest.approx(expected["Top5-Acc"])
    assert summary["skipped"] == []
    with report.with_suffix(".tsv").open() as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    assert [int(row["PREDICTED"]) for row in table] == order[:, 0].tolist()
    assert [row["LABEL_NAME"] for row in table] == [NAMES[x] for x in labels]


def test_what_is_left_out_is_counted_and_named(flags, photos, tmp_path, capsys):
    data, report = tmp_path / "data", tmp_path / "crop_0.96"
    shutil.copytree(photos, data)
    place = next(x for x in sorted(data.iterdir()) if x.is_dir())
    (place / "x.heic").touch()
    (place / "y.jpg").symlink_to("/nowhere.jpg")
    (place / "z.png").write_text("broken")
    vision.eval.main([*flags["eager"], f"--result_path={report}", str(data)])
    summary = json.loads((tmp_path / "crop_0.96.json").read_text())
    assert [Path(path).name for path, _ in summary["skipped"]] == ["x.heic", "y.jpg", "z.png"]
    assert (summary["num_skipped"], summary["num_images"]) == (3, 24)
    assert (tmp_path / "crop_0.96.tsv").is_file()
    output = f"--output={tmp_path / 'p.json'}"
    vision.infer.main([*flags["eager"], output, f"--result_path={report}", str(place)])
    assert json.loads(report.read_text())["num_skipped"] == 3
    assert f"skipped {place}/x.heic: not the suffix of an image" in capsys.readouterr().err


def test_a_share_of_the_images_is_scored_by_its_own_labels(flags, photos, answers, tmp_path):
    _, labels, heads = answers
    report = tmp_path / "report.json"
    arguments = [*flags["eager"], f"--result_path={report}", "--data_ratio=0.33", str(photos)]
    vision.eval.main(arguments)
    chosen = np.arange(24)[::3]
    summary = json.loads(report.read_text())
    assert summary["num_images"] == 8
    hits = heads.sum(0).argmax(-1)[chosen] == labels[chosen]
    assert summary["top1"] == pytest.approx(hits.mean())
    with report.with_suffix(".tsv").open() as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    assert [int(row["LABEL"]) for row in table] == labels[chosen].tolist()
    assert [row["PATH"] for row in table] == [str(answers[0][x]) for x in chosen]


def test_facts_of_a_report_are_of_its_own_times(models, photos):
    """Uses given times: 6 images, 2 s in the model, 8 s in total, 3 s of it waiting."""
    session = ImageSession(load(models / "saved"), CONFIG.preprocessing, Classes(NAMES))
    options = ImageDataOptions(batch_size=4, num_parallel_workers=1, warmup_count=0)
    run = Classification(session, [], options)
    run.watch = SimpleNamespace(
        speed=lambda count: {"samples_per_second": count / 2, "end_to_end_seconds": 8.0}
    )
    facts = run.facts(6)
    assert facts["decode_wait_share"] == 0.0
    for waiting, share in ((3.0, 3 / 8), (9.0, 1.0)):
        run.batches.waiting_seconds = waiting
        assert run.facts(6)["decode_wait_share"] == share
    assert (facts["samples_per_second"], facts["num_images"], facts["batch_size"]) == (3.0, 6, 4)
    assert (facts["mode"], facts["num_skipped"]) == ("eager", 0)


def test_probabilities_are_made_of_logits_alone():
    logits = np.array([[1.0, -2.0, 0.5], [0.2, 0.3, 0.6]])
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(probabilities_of(logits), expected, rtol=1e-6)
    np.testing.assert_array_equal(probabilities_of(expected), expected)
    huge = probabilities_of(np.array([[1000.0, 998.0]]))
    np.testing.assert_allclose(huge, [[0.880797, 0.119203]], rtol=1e-5)


def test_examples_to_calibrate_with_are_spread_and_judged(models, photos, answers, tmp_path):
    paths, labels, heads = answers
    pipeline = read_pipeline(models / "saved")
    found = calibration_examples(pipeline, photos, 8, judged=True)
    expected = [picture(path) for path in paths[::3]]
    assert [x["images"].shape for x in found.batches] == [(1, SIDE, SIDE, 3)] * 8
    for batch, image in zip(found.batches, expected, strict=True):
        np.testing.assert_allclose(batch["images"][0], image, atol=1e-5)
    number = {x["images"].tobytes(): 3 * place for place, x in enumerate(found.batches)}

    def run(inputs, signature):
        assert signature == "serving_default"
        return {"logits": heads.sum(0)[[number[inputs["images"].tobytes()]]]}

    hits = (heads.sum(0).argmax(-1) == labels)[::3]
    assert 0 < hits.mean() < 1
    assert found.accuracy(run, range(8)) == pytest.approx(hits.mean())
    assert found.accuracy(run, [5]) == hits[5]
    flat = calibration_examples(pipeline, paths[0].parent, 100, judged=False)
    assert flat.accuracy is None
    assert len(flat.batches) == len(list(paths[0].parent.iterdir()))


@pytest.fixture
def folder(answers, tmp_path):
    """Writes some of the images to one folder, with other files."""
    place = tmp_path / "some photos"
    (place / "below").mkdir(parents=True)
    for number in range(6):
        path = place / f"{number}{'.PNG' if number else '.png'}"
        path.write_bytes(answers[0][number].read_bytes())
    (place / "notes.txt").write_text("no image")
    (place / "below" / "7.png").write_bytes(answers[0][7].read_bytes())
    return place


def test_a_config_tells_what_the_flags_leave_open(
    flags, models, photos, answers, tmp_path, capsys, monkeypatch
):
    """Weights, data, precision and device come from the YAML file, as in the original."""
    labels = flags["checkpoint"][-1]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"pretrained: {models / 'weights.safetensors'}\nimage_size: {SIDE}\narch: small\n"
        f"num_classes: {NUM_CLASSES}\ndata_url: {photos.parent}\nval_dir: {photos.name}\n"
    )
    opened = []

    def open_(options, *rest):
        opened.append(options)
        return open_classifier(options, *rest)

    open_classifier = vision.eval.open_classifier
    monkeypatch.setattr(vision.eval, "open_classifier", open_)

    def results(*arguments):
        assert vision.eval.main([*arguments, "--batch_size=8"]) == 0
        return ast.literal_eval(capsys.readouterr().out.strip().removeprefix("eval results: "))

    expected = results(*flags["checkpoint"], str(photos))
    monkeypatch.setenv("IMAGENET_DIR", str(photos.parent))
    assert results(*flags["checkpoint"], f"--val_dir={photos.name}") == expected
    # The command line takes precedence: another model, other data.
    few = tmp_path / "few"
    (few / NAMES[0]).mkdir(parents=True)
    with refused(match=f"images in the class folders of {few}"):
        results(f"--config={recipe}", labels, f"--data_dir={few}")
    with refused(match=r"/nowhere\.pth"):
        results(f"--config={recipe}", labels, "--checkpoint=/nowhere.pth")
    assert results(f"--config={recipe}", *flags["eager"]) == pytest.approx(expected, abs=2e-4)
    half = results(f"--config={recipe}", labels, "--set=data.val_num_samples=12")
    assert half != expected
    assert results(f"--config={recipe}", labels, "--val_num_samples=12", "--seed=0") == half
    assert results(*flags["checkpoint"], "--val_num_samples=12", str(photos)) == half
    assert results(*flags["checkpoint"], "--val_num_samples=12", "--seed=7", str(photos)) != half
    with refused("--val_num_samples >= 1, or -1"):
        results(*flags["checkpoint"], "--val_num_samples=0", str(photos))
    recipe.write_text(recipe.read_text() + "amp_level: bfloat16\ndevice_target: CPU\n")
    report = tmp_path / "rounded.json"
    rounded = results(f"--config={recipe}", labels, f"--result_path={report}")
    assert json.loads(report.read_text())["precision"] == "bf16"
    assert rounded["Loss"] != expected["Loss"]
    assert opened[-1].precision == "mixed_bfloat16"
    assert opened[-1].runner.visible_devices == "-1"
    # The values that this flag leaves out are those of the flags above.
    monkeypatch.delenv("IMAGENET_DIR")
    assert results(f"--config={recipe}", labels, "--amp_level=O0") == expected


@pytest.mark.parametrize("source", SOURCES)
def test_inference(source, flags, folder, answers, tmp_path, capsys):
    best = answers[2].sum(0)[:6].argmax(-1).tolist()
    paths = [str(folder / f"{number}{'.PNG' if number else '.png'}") for number in range(6)]
    output = tmp_path / "predictions.json"
    main = program_of(source, vision.infer, vision.infer_onnx)
    assert main([*flags[source], f"--output={output}", str(folder)]) == 0
    lines = [f"{p} (class: {x} {NAMES[x]})" for p, x in zip(paths, best, strict=True)]
    captured = capsys.readouterr()
    assert captured.out.splitlines() == lines
    assert f"wrote {output}" in captured.err.splitlines()
    pairs = (f" {json.dumps(p)}: {x}" for p, x in zip(paths, best, strict=True))
    assert output.read_text() == "{\n" + ",\n".join(pairs) + "\n}"


def test_a_checkpoint_without_names_answers_as_the_original_does(
    flags, folder, answers, tmp_path, capsys
):
    path = folder / "3.PNG"
    number = int(answers[2].sum(0)[3].argmax())
    alone = [x for x in flags["checkpoint"] if "label" not in x]
    vision.infer.main([*alone, f"-o={tmp_path / 'p.json'}", str(path)])
    assert capsys.readouterr().out == f"{path} (class: {number})\n"


@pytest.mark.parametrize("source", SOURCES)
def test_the_best_of_several_with_their_probabilities(source, flags, folder, answers, tmp_path):
    output, path = tmp_path / "p.json", folder / "2.PNG"
    main = program_of(source, vision.infer, vision.infer_onnx)
    main([*flags[source], f"-o={output}", "--top_k=3", str(path)])
    (found,) = json.loads(output.read_text()).values()
    logits = answers[2].sum(0)[2]
    expected = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-expected)[:3]
    assert [x["class"] for x in found] == order.tolist()
    assert [x["name"] for x in found] == [NAMES[x] for x in order]
    assert [x["probability"] for x in found] == pytest.approx(expected[order], abs=1e-3)


def test_what_cannot_be_read_is_left_out_and_listed(flags, folder, photos, tmp_path, capsys):
    whole = (folder / "1.PNG").read_bytes()
    for number in range(30):
        (folder / f"broken{number:02d}.png").write_bytes(whole[: len(whole) // 2])
    output, report = tmp_path / "p.json", tmp_path / "r.json"
    more = [f"-o={output}", f"--result_path={report}", "--batch_size=4"]
    vision.infer.main([*flags["eager"], *more, str(folder)])
    assert len(json.loads(output.read_text())) == 6
    errors = capsys.readouterr().err
    assert errors.count("skipped /") == 20
    assert "skipped 12 more" in errors
    skipped = json.loads(report.read_text())["skipped"]
    names = ["below", "notes.txt", *(f"broken{x:02d}.png" for x in range(30))]
    assert [path for path, _ in skipped] == [str(folder / name) for name in names]
    with refused(match="broken00"):
        vision.infer.main([*flags["eager"], f"-o={output}", str(folder / "broken00.png")])


def test_the_model_is_closed_at_the_end_and_after_an_error(flags, folder, photos, tmp_path):
    broken = tmp_path / "broken" / NAMES[0] / "a.png"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no image")
    infer = [*flags["onnx"], f"-o={tmp_path / 'p.json'}"]
    with sessions_are_closed(3):
        assert vision.infer.main([*infer, str(folder)]) == 0
        assert vision.eval.main([*flags["onnx"], str(photos)]) == 0
        with refused(match=r"images that can be read\. Received: .*a\.png \("):
            vision.infer.main([*infer, str(broken)])
        with refused(match=r"images that can be read\. Received: .*a\.png \("):
            vision.eval.main([*flags["onnx"], str(broken.parents[1])])


def refuse(*_, **__):
    raise AssertionError("the model was opened first")


def test_what_needs_no_model_is_told_before_it_is_opened(
    flags, folder, models, tmp_path, monkeypatch
):
    for opening in ("vision.opening.open_runner", "vision.activation_map.load"):
        monkeypatch.setattr(opening, refuse)
    bad = tmp_path / "bad" / NAMES[0] / "empty.jpg"
    bad.parent.mkdir(parents=True)
    bad.touch()
    infer = [*flags["jit"], f"-o={tmp_path / 'p.json'}"]
    for place in (bad, bad.parent):
        with refused(f"images that can be read. Received: {bad} ("):
            vision.infer.main([*infer, str(place)])
    with refused(f"images that can be read. Received: {bad} ("):
        vision.eval.main([*flags["jit"], str(bad.parents[1])])
    with refused("class folders in"):
        vision.eval.main([*flags["jit"], str(bad.parent)])
    with refused("/nowhere: No such file"):
        vision.infer.main([*infer, "--imagenet_label_file=/nowhere", str(folder)])
    with refused("a regular file or a new path"):
        native = f"--native_savedmodel_dir={models / 'saved'}"
        vision.activation_map.main([native, f"-o={tmp_path}", str(folder / "1.PNG")])
    copy = tmp_path / "copy.png"
    copy.write_bytes((folder / "1.PNG").read_bytes())
    with refused("a result file that is no input"):
        vision.activation_map.main([native, f"-o={copy}", str(copy)])
    for flag in ("--output", "--result_path"):
        with refused("a result file that is no input"):
            vision.infer.main([*flags["jit"], f"{flag}={copy}", str(copy)])
    assert copy.read_bytes() == (folder / "1.PNG").read_bytes()


@pytest.mark.parametrize("flag", ["--output=", "--result_path="])
def test_a_result_that_cannot_be_written_ends_before_the_work(
    flag, flags, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(vision.infer, "open_classifier", refuse)
    monkeypatch.setattr(vision.eval, "open_classifier", refuse)
    (tmp_path / "file").write_text("")
    bad = f"{flag}{tmp_path / 'file' / 'p.json'}"
    with refused(match="permission to write"):
        output = [] if flag == "--output=" else [f"-o={tmp_path / 'p.json'}"]
        vision.infer.main([*flags["eager"], *output, bad, str(folder)])
    if flag == "--result_path=":
        with refused(match="permission to write"):
            vision.eval.main([*flags["eager"], bad, str(folder)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Received: none. Give one model"),
        (["--onnx_path=a.onnx", "--checkpoint=b.pth"], "checkpoint and --onnx_path"),
        (["--onnx_path=/nowhere.onnx"], "no such file"),
        (["--checkpoint=a.pth", "--pretrained=b.pth"], "both"),
        (["--checkpoint=a.pth", "--batch_size=0"], "batch_size >= 1"),
        (["--checkpoint=a.pth", "--top_k=0"], "top_k >= 1"),
        (["--checkpoint=a.pth", "--num_classes=0"], "num_classes at least 1"),
        (["--checkpoint=a.pth", "--quant_precision=int8_fp32"], "native_savedmodel_dir"),
    ],
)
def test_bad_flags_are_one_line(arguments, message, folder, tmp_path):
    with refused(match=message):
        vision.infer.main([f"-o={tmp_path / 'p.json'}", *arguments, str(folder)])


def onnx_model(path, shape, answer):
    """Writes a model that squares its input and sums it to an output of the given rank."""
    nodes = [helper.make_node("Mul", ["x", "x"], ["y" if len(shape) == len(answer) else "z"])]
    if len(shape) != len(answer):
        axes = helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])
        nodes.append(helper.make_node("ReduceSum", ["z", "axes"], ["y"], keepdims=0))
    constants = [axes] if len(nodes) == 2 else []
    ends = [helper.make_tensor_value_info(*x) for x in (("x", 1, shape), ("y", 1, answer))]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


@pytest.mark.parametrize(
    ("shape", "answer", "message"),
    [
        (["N", 3, SIDE, SIDE], ["N", 3, SIDE, SIDE], "4 dimensions"),
        (["N", 5, SIDE, SIDE], ["N", 5], "3 channels"),
    ],
)
def test_other_onnx_models_are_refused(shape, answer, message, folder, tmp_path):
    onnx_model(tmp_path / "other.onnx", shape, answer)
    arguments = [f"--onnx_path={tmp_path / 'other.onnx'}", f"-o={tmp_path / 'p.json'}"]
    with refused(match=message):
        vision.infer_onnx.main([*arguments, str(folder)])


def test_another_exporters_onnx_model_classifies(folder, answers, tmp_path, capsys):
    onnx_model(tmp_path / "other.onnx", ["N", 3, SIDE, SIDE], ["N", 3])
    output = tmp_path / "p.json"
    arguments = [f"--onnx_path={tmp_path / 'other.onnx'}", f"-o={output}"]
    vision.infer_onnx.main([*arguments, str(folder)])
    squares = [(picture(path) ** 2).sum((0, 1)) for path in answers[0][:6]]
    assert list(json.loads(output.read_text()).values()) == np.argmax(squares, -1).tolist()
    said = [x for x in capsys.readouterr().err.splitlines() if "preprocessing" in x]
    assert len(said) == 1
    assert said[0].startswith(f"{tmp_path / 'other.onnx'} does not describe its preprocessing")
    assert f"image_size {SIDE}, crop_pct 0.875, interpolation 'bicubic', mean (0.485," in said[0]


def test_a_model_that_describes_itself_needs_no_word_about_it(flags, folder, tmp_path, capsys):
    vision.infer_onnx.main([*flags["onnx"], f"-o={tmp_path / 'p.json'}", str(folder)])
    assert "preprocessing" not in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--use_ema", "--nouse_ema"])
@pytest.mark.parametrize("source", ["eager", "jit", "onnx"])
def test_an_exported_model_has_no_choice_of_weights(source, flag, flags, folder, tmp_path):
    main = program_of(source, vision.infer, vision.infer_onnx)
    with refused("--use_ema with a --checkpoint, which can have two sets of weights. Received: "):
        main([*flags[source], flag, f"-o={tmp_path / 'p.json'}", str(folder)])


def test_an_onnx_model_of_one_batch_size_answers_for_the_rest_of_a_folder(
    folder, answers, tmp_path
):
    onnx_model(tmp_path / "other.onnx", [4, 3, SIDE, SIDE], [4, 3])
    output = tmp_path / "p.json"
    arguments = [f"--onnx_path={tmp_path / 'other.onnx'}", f"-o={output}", "--batch_size=4"]
    vision.infer_onnx.main([*arguments, str(folder)])
    squares = [(picture(path) ** 2).sum((0, 1)) for path in answers[0][:6]]
    assert list(json.loads(output.read_text()).values()) == np.argmax(squares, -1).tolist()


@pytest.fixture
def flat(photos, tmp_path):
    """The photographs in a flat folder, and a list of their labels beside it."""
    make = ["--data_dir", str(photos), "--output_dir", str(tmp_path / "datasets")]
    labels = tmp_path / "classes.txt"
    labels.write_text("\n".join(NAMES))
    assert flatten_images.main([*make, f"--imagenet_label_file={labels}"]) == 0
    return tmp_path / "datasets" / "val"


@pytest.mark.parametrize("source", ["eager", "onnx"])
def test_a_flat_folder_with_labels_is_evaluated(source, flags, photos, flat, capsys):
    """The results are those of the ImageFolder that it was made of."""
    assert sum(x.is_file() for x in flat.iterdir()) == 24
    main, results = program_of(source, vision.eval, vision.eval_onnx), []
    moved = flat.with_name("other.txt")
    for where in ([str(photos)], [str(flat)], [str(flat), f"--anno_file={moved}"]):
        assert main([*flags[source], "--batch_size=24", *where]) == 0
        results.append(ast.literal_eval(capsys.readouterr().out.removeprefix("eval results: ")))
        if len(results) == 2:
            flat.with_name("val_label.txt").rename(moved)
    assert results[1] == results[2] == pytest.approx(results[0], abs=2e-4)
    with refused("class folders in"):  # and no labels beside it
        main([*flags[source], str(flat)])


def test_labels_and_images_that_do_not_belong_together(flags, flat, capsys):
    labels = flat.with_name("val_label.txt")
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join([*lines[2:], "gone.png 3"]))
    assert vision.eval.main([*flags["eager"], "--batch_size=24", str(flat)]) == 0
    said = capsys.readouterr().err
    assert "22 images" in said and said.count("no line in the list of labels") == 2
    assert f"{labels}: 1 of its images are not in {flat}" in said
    labels.write_text("\n".join([*lines, "gone.png 10"]))
    with refused(f"labels from 0 to 9, the classes of the model, in {labels}. Received: 10"):
        vision.eval.main([*flags["eager"], str(flat)])
    labels.write_text("gone.png 3")
    with refused("none among 24 images"):
        vision.eval.main([*flags["eager"], str(flat)])


def test_folders_that_are_no_classes_are_named(flags, tmp_path, photos):
    for name in ("glass", "paper"):
        (tmp_path / "other" / name).mkdir(parents=True)
    with refused(match=r"thing 0, .*, and more\. Received: glass, paper\."):
        vision.eval.main([*flags["eager"], str(tmp_path / "other")])


def test_activation_maps_are_drawn(models, folder, tmp_path, monkeypatch):
    output, native = tmp_path / "cam.png", f"--native_savedmodel_dir={models / 'saved'}"
    image = str(folder / "1.PNG")
    drawn_maps, draw = [], vision.activation_map.draw

    def note(*arguments):
        drawn_maps.append(arguments)
        return draw(*arguments)

    monkeypatch.setattr(vision.activation_map, "draw", note)
    vision.activation_map.main([native, f"-o={output}", "--class_index=3", image])
    ((shown, maps, title),) = drawn_maps
    inputs = picture(image)[None].astype("float32")
    expected = load(models / "saved").run(
        {"images": inputs, "classes": np.array([3], "int32")}, "activation_map"
    )
    for branch in ("convolution", "transformer"):
        found = maps[f"{branch} branch"]
        np.testing.assert_allclose(found, expected[f"{branch}_map"][0], atol=1e-3)
    normalized = (shown / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalized, inputs[0], atol=1e-5)
    assert title == "1.PNG (class: 3 thing 3)"
    with Image.open(output) as drawn:
        assert drawn.size[0] > 2 * drawn.size[1]
        assert np.asarray(drawn.convert("RGB")).std() > 10
    with refused(match="--class_index below 10"):
        vision.activation_map.main([native, f"-o={output}", "--class_index=10", image])


def test_the_model_of_a_checkpoint_is_the_model(flags, calibrated, models):
    """All references above depend on this."""
    keras.utils.set_random_seed(9)
    again = vision.build_model("small", NUM_CLASSES)
    vision.load_pytorch_weights(again, models / "weights.safetensors")
    for one, other in zip(again.weights, calibrated.weights, strict=True):
        np.testing.assert_array_equal(one, other)
