"""A baseline for photographs: logistic regression on their color histograms."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from tqdm import tqdm

from tools.amounts import counted
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from vision.images import ImageError, read_rgb
from vision.input_pipeline import ImageFolder, read_image_folder

BINS = 8  # of each channel
_FOLDS = 5
_INVERSE_PENALTIES = [1.0, 10.0, 100.0, 1000.0, 10000.0]


def histogram(image: np.ndarray) -> np.ndarray:
    """Returns the color histogram `[BINS**3]` of an image uint8 `[H, W, 3]`, with the sum 1."""
    channels = (image.reshape(-1, 3) // (256 // BINS)).astype(np.int64)
    colors = channels @ np.array([BINS * BINS, BINS, 1])
    return np.bincount(colors, minlength=BINS**3) / len(colors)


def histograms(folder: ImageFolder) -> tuple[np.ndarray, np.ndarray]:
    """Returns histograms `[N, BINS**3]` and labels `[N]` of the readable images of an ImageFolder.

    Raises:
        UserError: no image can be read.
    """

    def read(path: str) -> np.ndarray | None:
        try:
            return histogram(np.asarray(read_rgb(path)))
        except ImageError as error:
            print(f"dropped {error}", file=sys.stderr)
            return None

    with ThreadPoolExecutor() as pool:
        bar = tqdm(pool.map(read, folder.paths), total=len(folder.paths), file=sys.stderr)
        rows = list(bar)
    kept = [number for number, row in enumerate(rows) if row is not None]
    if not kept:
        raise UserError.expected("readable images", "none", "Choose other data")
    return np.stack([rows[x] for x in kept]), np.array(folder.labels)[kept]


def fit(features: np.ndarray, labels: np.ndarray) -> GridSearchCV:
    """Fits the regression; cross-validation on the same data selects its penalty."""
    candidates = {"C": _INVERSE_PENALTIES}
    return GridSearchCV(LogisticRegression(max_iter=3000), candidates, cv=_FOLDS, n_jobs=1).fit(
        features, labels
    )


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.benchmark.color_histograms",
        "Trains logistic regression on color histograms of photographs and prints its accuracy.",
        "--data_url=DIR [FLAGS]",
        example="--data_url=photos",
    )
    flags.group("Input")
    flags.string("data_url", None, "Folder of the data set.", default_text=REQUIRED)
    flags.string("train_dir", "train", "ImageFolder in --data_url to train on.")
    flags.string("val_dir", "val", "ImageFolders to evaluate on, separated by commas.")
    values, rest = flags.parse(argv)
    if rest or not values.data_url:
        raise UserError.expected("--data_url DIR", " ".join(argv) or "nothing", "See --help")
    root = Path(values.data_url)
    train = read_image_folder(root / values.train_dir)
    names = [[train.classes[number]] for number in sorted(train.classes)]
    sets = {x: read_image_folder(root / x, names) for x in values.val_dir.split(",")}
    features, labels = histograms(train)
    search = fit(features, labels)
    print(
        f"{counted(len(labels), 'image')}, {counted(len(names), 'class')}, "
        f"C = {search.best_params_['C']:g}"
    )
    for name, folder in sets.items():
        features, labels = histograms(folder)  # of the readable images
        print(f"{name}: Top1-Acc {search.score(features, labels):.4f} of {len(labels)}")
    return 0


if __name__ == "__main__":
    run(main)
