"""Accuracy, loss and confusion matrix of a classifier, and the report files with them."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tools.files import result_file, to_json, write_bytes, write_text
from vision.classes import top_classes
from vision.session import scores_of

TOP = (1, 5)
_HEADS = ("convolution_logits", "transformer_logits")
_MAX_TICKS = 50  # largest number of class names on an axis


class Scores:
    """Accumulates correct predictions, losses and the confusion matrix over batches.

    Args:
        num_classes: number of classes V.
    """

    def __init__(self, num_classes: int):
        self.hits = dict.fromkeys(TOP, 0)
        self.num_images, self.loss_sum, self.has_loss = 0, 0.0, True
        self.confusion = np.zeros((num_classes, num_classes), np.int64)

    def add(self, outputs: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
        """Adds a batch and returns the predicted classes.

        Args:
            outputs: outputs of the model by name, `[B, V]` each.
            labels: `[B]` class numbers.

        Returns:
            `[B]` predicted class numbers.
        """
        best = top_classes(scores_of(outputs), max(TOP))
        found = best == labels[:, None]
        for count in TOP:
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
        """Sum of the cross-entropies of both heads, averaged over images; None without heads."""
        return self.loss_sum / self.num_images if self.has_loss else None

    def top(self, count: int) -> float:
        """Returns the fraction of images whose class is among the `count` best predictions."""
        return self.hits[count] / self.num_images


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the sum of the cross-entropies of logits `[B, V]` and labels `[B]`."""
    logits = logits.astype("float64")
    logits -= logits.max(axis=-1, keepdims=True)
    normalizer = np.log(np.exp(logits).sum(axis=-1))
    return float((normalizer - logits[np.arange(len(labels)), labels]).sum())


def write_report(path: Path, summary: dict, rows: Sequence[tuple], names: Sequence) -> None:
    """Writes the summary as a JSON file and the predictions as a TSV file in the same folder.

    Args:
        path: path of the JSON file.
        summary: content of the JSON file.
        rows: path, class number and predicted class number of each image.
        names: names of the classes by number; None for classes without a name.
    """
    table = [("PATH", "LABEL", "PREDICTED", "LABEL_NAME", "PREDICTED_NAME")]
    table += [(p, int(x), int(y), names[x] or "", names[y] or "") for p, x, y in rows]
    write_text(result_file(path, ".tsv"), _table(table, "\t"))
    write_text(result_file(path, ".json"), to_json(summary, indent=1))


def _table(rows: Sequence[Sequence], delimiter: str = ",") -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_analysis(folder: Path, confusion: np.ndarray, names: Sequence) -> None:
    """Writes the confusion matrix (CSV, PNG) and the accuracy of each class (CSV).

    Args:
        folder: folder to write to; it is created if it does not exist.
        confusion: `[V, V]` counts by class and predicted class.
        names: names of the classes. Classes without a name are shown by their number.
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
    """Draws the confusion matrix, normalized per class, with counts if there are few classes."""
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
