"""Tests raw images for the deployment pipeline, and the evaluation of its outputs."""

import json

import numpy as np
import pytest
from PIL import Image

import vision.postprocess
import vision.preprocess
from tests.support.errors import refused
from vision.annotations import read_annotations

GOLDEN = {
    "title": "Overall statistical evaluation",
    "value": [
        {"key": "Number of images", "value": "3"},
        {"key": "Number of classes", "value": "6"},
        {"key": "Top1 accuracy", "value": "33.33%"},
        {"key": "Top2 accuracy", "value": "66.67%"},
        {"key": "Top3 accuracy", "value": "66.67%"},
        {"key": "Top4 accuracy", "value": "66.67%"},
        {"key": "Top5 accuracy", "value": "100.00%"},
    ],
}


@pytest.fixture
def results(tmp_path):
    """Writes scores of three images, and labels of these and one more image."""
    folder = tmp_path / "out"
    folder.mkdir()
    for stem, scores in {
        "ILSVRC2012_val_1": "0.1 0.5 0.2 0.05 0.1 0.05",  # 1 is best
        "b": "9 8 -1 -2 -3 1e-3",  # 1 is second
        "c": "6 5 4 3 2 1",  # 4 is fifth
    }.items():
        (folder / f"{stem}_0.txt").write_text(f"{scores}\n")
    labels = tmp_path / "val_label.txt"
    labels.write_text("ILSVRC2012_val_1.JPEG 1\nb.JPEG 1\r\n\nc.JPEG 4\nabsent one.JPEG 3\n")
    return folder, labels


def postprocess(folder, labels):
    target = folder.parent / "acc_result.json"
    arguments = [f"--anno_file={labels}", f"--benchmark_out={folder}", f"--result_file={target}"]
    assert vision.postprocess.main(arguments) == 0
    return target.read_text()


def test_the_result_is_the_original_form(results, capsys):
    text = postprocess(*results)
    assert text == json.dumps(GOLDEN)
    captured = capsys.readouterr()
    assert "1 of 4 images" in captured.err and "absent one" in captured.err
    assert "Top1 accuracy: 33.33%" in captured.out


def test_a_class_for_the_background_shifts_the_labels(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    scores = np.zeros(1001)
    scores[8] = 1
    (folder / "a_0.txt").write_text(" ".join(map(str, scores)))
    (tmp_path / "labels.txt").write_text("a.JPEG 7\n")
    found = json.loads(postprocess(folder, tmp_path / "labels.txt"))
    assert found["value"][1:3] == [
        {"key": "Number of classes", "value": "1001"},
        {"key": "Top1 accuracy", "value": "100.00%"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d_0.txt", "1 2 3 4 5 6", "label for every result"),
        ("c_1.txt", "1 2 3 4 5 6", "one result"),
        ("b_0.txt", "1 2 3", "3 scores and label 1"),
        (
            "ILSVRC2012_val_1_0.txt",
            "1 2 3",
            "Expected 6 scores .* 3 scores and label 1 for .*val_1_0",
        ),
        ("b_0.txt", "", "finite"),
        ("b_0.txt", "1 x", "scores"),
        ("b_0.txt", "nan 1 2 3 4 5", "finite"),
        ("../val_label.txt", "b.JPEG 6\nc.JPEG 1\nILSVRC2012_val_1.JPEG 0", "6 for"),
    ],
)
def test_bad_results(results, name, content, message):
    folder, labels = results
    (folder / name).write_text(content)
    with refused(match=message):
        postprocess(folder, labels)


def test_a_folder_that_is_missing_is_answered_with_the_folder_of_the_results(results):
    folder, labels = results
    with refused(f"2022_10_10-10_10_10. Use --benchmark_out={folder}."):
        postprocess(folder / "2022_10_10-10_10_10", labels)
    with refused("Correct --benchmark_out."):
        postprocess(folder.parent / "nowhere", labels)


@pytest.mark.parametrize(
    "line", ["b.JPEG abc", "b.JPEG -1", "b.JPEG 3.5", "b.JPEG 1 2", "3", "a.JPEG 2"]
)
def test_bad_lines(line, tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text(f"a.JPEG 0\n{line}\n")
    with refused("line 2"):
        read_annotations(path)


def test_images_become_raw_files(rng, tmp_path, capsys):
    folder, target = tmp_path / "val", tmp_path / "bin"
    folder.mkdir()
    pixels = {}
    for name, shape in (("a.JPEG", (300, 400, 3)), ("b.png", (500, 260, 3))):
        Image.fromarray(rng.integers(0, 256, shape).astype("uint8")).save(folder / name)
        image = Image.open(folder / name).convert("RGB")
        width, height = image.size
        short = min(width, height)
        image = image.resize((256 * width // short, 256 * height // short), Image.BICUBIC)
        rows, columns = (round((x - 224) / 2) for x in image.size[::-1])
        crop = np.asarray(image)[rows : rows + 224, columns : columns + 224].transpose(2, 0, 1)
        mean, std = (np.float32([[[m]], [[n]], [[o]]]) for m, n, o in (
            (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # fmt: skip
        pixels[name] = (crop.astype("float32") / np.float32(255) - mean) / std
    (folder / "broken.jpg").write_text("<html>")
    assert vision.preprocess.main([f"--src_path={folder}", f"--save_path={target}"]) == 0
    assert sorted(x.name for x in target.glob("*.bin")) == ["a.bin", "b.bin"]
    made_by = json.loads((target / "preparation.json").read_text())
    assert made_by["layout"] == "NCHW"
    assert made_by["preprocessing"] == {
        "image_size": 224, "crop_pct": 0.875, "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "exif_orientation": False,
    }  # fmt: skip
    for name, expected in pixels.items():
        content = (target / name).with_suffix(".bin").read_bytes()
        assert len(content) == 602112
        assert content == expected.tobytes()
    assert "broken.jpg" in capsys.readouterr().err


def test_raw_files_of_one_name_are_refused(tmp_path):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    with refused("different names"):
        vision.preprocess.main([f"--src_path={tmp_path}", f"--save_path={tmp_path / 'bin'}"])
    for arguments in ([], [f"--src_path={tmp_path / 'none'}", "--save_path=x"]):
        with refused():
            vision.preprocess.main(arguments)
