"""Scores a classifier on an ImageFolder."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from matplotlib.figure import Figure

from tools.config.command_line import CommandLine
from tools.errors import UserError
from tools.files import check_writable, write_bytes, write_text
from tools.inference.selection import share
from vision.classes import read_labelled, top_classes
from vision.classifier import (
    Classification,
    add_classifier_flags,
    data_options,
    open_classifier,
    show_speed,
)
from vision.config import config_of
from vision.recipe_keys import AMP_LEVELS
from vision.session import scores_of

_TOP = (1, 5)
_HEADS = ("convolution_logits", "transformer_logits")
_MAX_TICKS = 50  # classes that are named in a picture


class Scores:
    """Sums over images: hits, losses and the confusion matrix.

    Args:
        num_classes: V.
    """

    def __init__(self, num_classes: int):
        self.hits = dict.fromkeys(_TOP, 0)
        self.num_images, self.loss_sum, self.has_loss = 0, 0.0, True
        self.confusion = np.zeros((num_classes, num_classes), np.int64)

    def add(self, outputs: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
        """Counts a batch and returns the predicted classes."""
        best = top_classes(scores_of(outputs), max(_TOP))
        found = best == labels[:, None]
        for count in _TOP:
            self.hits[count] += int(found[:, :count].sum())
        if all(name in outputs for name in _HEADS):
            self.loss_sum += sum(cross_entropy(outputs[name], labels) for name in _HEADS)
        else:
            self.has_loss = False
        np.add.at(self.confusion, (labels, best[:, 0]), 1)
        self.num_images += len(labels)
        return best[:, 0]

    @property
    def loss(self) -> float | None:
        """The sum of the heads' cross-entropies, averaged over images; None without heads."""
        return self.loss_sum / self.num_images if self.has_loss else None

    def top(self, count: int) -> float:
        """The share of images whose class is among the best `count`."""
        return self.hits[count] / self.num_images


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Sums the cross-entropy over a batch."""
    logits = logits.astype("float64")
    logits -= logits.max(axis=-1, keepdims=True)
    normalizer = np.log(np.exp(logits).sum(axis=-1))
    return float((normalizer - logits[np.arange(len(labels)), labels]).sum())


def command_line(program: str, usage: str) -> CommandLine:
    """The program's flags."""
    flags = CommandLine(program, "Scores a classifier on an ImageFolder.", usage)
    about = "Data set with --val_dir in it."
    flags.string("data_url", None, about, default_text="that of the --config, else IMAGENET_DIR")
    flags.string(
        "val_dir", None, "ImageFolder in --data_url.", default_text="that of the --config, else val"
    )
    flags.string(
        "analysis_dir",
        None,
        "Folder for the confusion matrix (CSV, PNG) and the accuracy of each class (CSV).",
        default_text="none is written",
    )
    add_classifier_flags(flags)
    return flags


def follow_config(values: SimpleNamespace, datasets: Sequence[str]) -> tuple[int, int]:
    """Lets an explicit --config tell of data, precision and device what the flags leave open.

    Returns:
        How many images to score, -1 for all, and the seed by which they are chosen.

    Source: MindSpore's recipe, whose eval.py has the arguments of its train.py.
    """
    limit, seed, data_url = -1, 0, ""
    if values.config:
        config = config_of(values)
        levels = {policy: level for level, policy in reversed(AMP_LEVELS.items())}
        values.amp_level = values.amp_level or levels[config.training.precision]
        values.device_target = values.device_target or config.run.device_target
        values.val_dir = values.val_dir or config.data.val_dir
        workers = config.data.num_parallel_workers
        values.num_parallel_workers = values.num_parallel_workers or workers
        data_url, limit = config.data.data_url, config.data.val_num_samples
        seed = config.training.seed
    values.val_dir = values.val_dir or "val"
    if not (datasets or values.data_dir or values.data_url):
        values.data_url = data_url or os.environ.get("IMAGENET_DIR", "")
    return limit, seed


def evaluate(values: SimpleNamespace, datasets: Sequence[str]) -> int:
    """Scores a model by the flags of `command_line`, on one data set."""
    limit, seed = follow_config(values, datasets)
    named = [values.data_dir, values.data_url and str(Path(values.data_url) / values.val_dir)]
    named = [x for x in (*datasets, *named) if x]
    if len(named) != 1:
        raise UserError.expected(
            "one ImageFolder, by --data_dir or --data_url", " ".join(named) or "none", "Name one"
        )
    if not Path(named[0]).is_dir():
        raise UserError.expected("an ImageFolder", f"{named[0]}: no such folder", "Correct it")
    if values.result_path:
        check_writable(Path(values.result_path).with_suffix(".json"))
    if values.analysis_dir:
        check_writable(Path(values.analysis_dir) / "confusion_matrix.csv")
    classifier = open_classifier(values, "heads")
    pipeline = classifier.pipeline
    data = read_labelled(named[0], classifier.classes, pipeline["num_classes"]).sample(limit, seed)
    chosen = share(range(len(data.paths)), values.data_ratio)
    paths = [data.paths[i] for i in chosen]
    labels = np.array([data.labels[i] for i in chosen])
    signature = "heads" if "heads" in classifier.signatures else "serving_default"
    run = Classification(classifier, paths, data_options(values), signature)
    scores = Scores(pipeline["num_classes"])
    rows = []
    for indices, outputs in run:
        predicted = scores.add(outputs, labels[indices])
        rows += zip((paths[i] for i in indices), labels[indices], predicted, strict=True)
    if not rows:
        bad = "; ".join(f"{path} ({reason})" for path, reason in run.skipped[:5])
        raise UserError.expected("images that can be read", bad, "Check the files")
    facts = run.facts(len(rows))
    loss, tops = scores.loss, {count: scores.top(count) for count in _TOP}
    results = {} if loss is None else {"Loss": round(loss, 6)}
    results |= {f"Top{count}-Acc": round(share, 6) for count, share in tops.items()}
    print(f"eval results: {results}")
    names = classifier.classes.names or [data.classes.get(i) for i in range(len(scores.confusion))]
    if values.result_path:
        summary = {f"top{count}": share for count, share in tops.items()} | {"loss": loss}
        report = {**summary, **facts, "skipped": [*run.skipped, *data.remarks]}
        write_report(Path(values.result_path), report, rows, names)
    if values.analysis_dir:
        write_analysis(Path(values.analysis_dir), scores.confusion, names)
    show_speed(facts, [*run.skipped, *data.remarks])
    return 0


def write_report(path: Path, summary: dict, rows: Sequence[tuple], names: Sequence) -> None:
    """Writes the JSON summary, and beside it a TSV of the answers."""
    table = [("PATH", "LABEL", "PREDICTED", "LABEL_NAME", "PREDICTED_NAME")]
    table += [(p, int(x), int(y), names[x] or "", names[y] or "") for p, x, y in rows]
    write_text(path.with_suffix(".tsv"), _table(table, "\t"))
    write_text(path.with_suffix(".json"), json.dumps(summary, indent=1))


def _table(rows: Sequence[Sequence], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_analysis(folder: Path, confusion: np.ndarray, names: Sequence) -> None:
    """Writes which classes are taken for which, and how many of each are right.

    Args:
        folder: made where it is not there.
        confusion: counts by class and predicted class, `[V, V]`.
        names: of the classes; numbers stand for those that have none.
    """
    names = [name or str(number) for number, name in enumerate(names)]
    header = ["label / predicted", *names]
    lines = [[name, *row] for name, row in zip(names, confusion.tolist(), strict=True)]
    write_text(folder / "confusion_matrix.csv", _table([header, *lines]))
    totals, hits = confusion.sum(axis=1), confusion.diagonal()
    rows = [("class", "name", "images", "correct", "accuracy")]
    for number, (name, total, hit) in enumerate(zip(names, totals, hits, strict=True)):
        rows.append((number, name, total, hit, f"{hit / total:.6f}" if total else ""))
    write_text(folder / "per_class_accuracy.csv", _table(rows))
    write_bytes(folder / "confusion_matrix.png", _picture(confusion, names))


def _picture(confusion: np.ndarray, names: Sequence[str]) -> bytes:
    """Draws the matrix as shares of each class, with counts where there is room."""
    count = len(names)
    side = 3 + 0.45 * min(count, _MAX_TICKS)
    figure = Figure((side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, "Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="share of the class")
    axes.set(xlabel="predicted", ylabel="class")
    if count <= _MAX_TICKS:
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
    if count <= _MAX_TICKS // 2:
        for (row, column), number in np.ndenumerate(confusion):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(number), ha="center", va="center", color=color)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()
