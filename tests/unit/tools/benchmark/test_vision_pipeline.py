"""The benchmark of vision's input pipeline."""

import json
from types import SimpleNamespace

import pytest

from tests.support.errors import refused
from tools.benchmark import vision_pipeline
from tools.benchmark.vision_pipeline import main, make_images, recipes
from vision.augmentation_config import AugmentationConfig


def test_parts_add_up_to_the_recipe():
    whole = AugmentationConfig(re_prob=0.4, color_jitter=0.1)
    found = recipes(whole)
    plain, colored, erased, last = found.values()
    assert last == whole
    assert (plain.auto_augment, plain.color_jitter, plain.re_prob) == ("none", 0.0, 0.0)
    assert not plain.mixes
    assert (colored.auto_augment, colored.re_prob) == (whole.auto_augment, 0.0)
    assert (erased.re_prob, erased.mixes) == (0.4, False)


def test_made_up_images_are_like_photographs(tmp_path):
    found = make_images(tmp_path)
    assert len(found.paths) == 64
    assert set(found.labels) == set(range(8))
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.jpg")) / 64
    assert 60e3 < size < 160e3


def test_report(tmp_path, capsys):
    flags = "--auto_augment=none --image_size=32 --batch_size=8 --rounds=1 --seconds=0.2"
    assert main([*flags.split(), f"--json={tmp_path}/r.json"]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["recipe"]["auto_augment"] == "none"
    assert (report["image_size"], report["batch_size"]) == (32, 8)
    assert len(report["results"]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    for (name, found), line in zip(report["results"].items(), lines[1:], strict=True):
        assert found["images_per_second"] > 8
        assert found["processor_ms_per_image"] > 0
        assert line.startswith(name)
        assert f"{found['images_per_second']:.1f} images/s" in line


@pytest.mark.parametrize("flag", ["--rounds=0", "--batch_size=0", "--seconds=0", "rest"])
def test_bad_flags(flag):
    with refused():
        main([flag])


def test_speeds_are_images_by_time(monkeypatch):
    """Batches of 6 that take 2 s, and 3 s of all cores together; the slow recipe twice as much."""
    clock = SimpleNamespace(now=0.0, used=0.0)

    def batches(factor):
        while True:
            clock.now += 2.0 * factor
            clock.used += 3.0 * factor
            yield

    def training_data(folder, num_classes, preprocessing, recipe, **_):
        assert num_classes == 3
        return SimpleNamespace(dataset=batches(recipe))

    fake = SimpleNamespace(
        perf_counter=lambda: clock.now, process_time=lambda: clock.used, sleep=lambda _: None
    )
    monkeypatch.setattr(vision_pipeline, "time", fake)
    monkeypatch.setattr(vision_pipeline, "training_data", training_data)
    config = SimpleNamespace(
        training=SimpleNamespace(batch_size=6),
        data=SimpleNamespace(num_parallel_workers=0),
        preprocessing=None,
    )
    folder = SimpleNamespace(labels=[0, 2, 1])
    found = vision_pipeline.time_in_turn(folder, config, {"plain": 1, "slow": 2}, 3, seconds=9.0)
    assert found == {
        "plain": {"images_per_second": 3.0, "processor_ms_per_image": 500.0},
        "slow": {"images_per_second": 1.5, "processor_ms_per_image": 1000.0},
    }
