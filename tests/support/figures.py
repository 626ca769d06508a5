"""What a program draws, read from matplotlib's figures rather than from pixels."""

import pytest
from matplotlib.figure import Figure


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Gives a list to which every figure is added that is saved from now on."""
    figures, save = [], Figure.savefig

    def note(figure, *arguments, **options):
        figures.append(figure)
        return save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", note)
    return figures


def lines_of(axes) -> dict[str, list[tuple[float, float]]]:
    """The points of every line by its label."""
    return {line.get_label(): [*map(tuple, line.get_xydata().tolist())] for line in axes.lines}
