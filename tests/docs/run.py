"""Runs the commands of README and docs on small data, in a folder of their own.

    python -m tests.docs.run [PAGE ...]

A block runs when all that its line `# needs: A, B` names is in `PROVIDED`, or when it has no such
line. The other blocks are listed as left out. The exit code is 1 when a block fails.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.benchmark import markdown
from tools.benchmark.blocks import PROJECT, link_project, run_text
from tools.benchmark.page_jobs import is_short

# What `prepare` puts into the folder.
PROVIDED = {
    "DIGITS",
    "ImageNet",
    "LibriSpeech",
    "LibriSpeech in DATA_DIR",
    "PHOTOS",
    "VAL",
    "a corpus in DIGITS",
    "a converted model in converted/m",
    "an ImageFolder in photos",
    "an exported model in exports/m",
    "an exported model in exports/tiny",
    "your own image",
    "your own images",
    "your own sound file",
    "your own sound files",
}
_PREPARATION = """
from pathlib import Path
from tools.cli import convert, draw_docs, synthesize_corpus, synthesize_images

corpus = "--train_utterances=24 --dev_utterances=6 --num_speakers=2".split()
synthesize_corpus.main([*corpus, "--output_dir=DIGITS"])
images = "--train_images=8 --val_images=4".split()
synthesize_images.main([*images, "--output_dir=PHOTOS"])
shapes = {"circle": "cardboard", "cross": "glass", "square": "metal", "triangle": "paper"}
for split in ("train", "val"):
    for shape, name in shapes.items():
        Path("PHOTOS", split, shape).rename(Path("PHOTOS", split, name))
for link, target in {
    "LibriSpeech": "DIGITS",
    "DIGITS/test-clean": "dev-clean",
    "ImageNet": "PHOTOS",
    "photos": "PHOTOS",
    "VAL": "PHOTOS/val/glass",
}.items():
    Path(link).symlink_to(target)
Path("exports").mkdir()
Path("exports/m").symlink_to(Path("conformer/pretrained/digits").resolve())
Path("exports/tiny").symlink_to(Path("vision/pretrained/photos").resolve())
sample = Path("conformer/pretrained/digits/sample.flac").read_bytes()
for folder in ("folder", "images"):
    Path(folder).mkdir()
    draw_docs.draw_box().save(f"{folder}/photo.png")
for name in ("sound.wav", "another.flac", "lecture.mp3", "folder/sound.flac"):
    Path(name).write_bytes(sample)
draw_docs.draw_box().save("photo.jpg")
arguments = "--native_savedmodel_dir=exports/m --converted_savedmodel_dir=converted/m".split()
convert.main([*arguments, "--dim_range=waveforms=1:8,6400:560000"])
"""


def prepare(folder: Path) -> None:
    """Links the project into a folder and makes small data there under the names of the docs."""
    link_project(folder)
    subprocess.run([sys.executable, "-c", _PREPARATION], cwd=folder, check=True)


def missing(block: markdown.Block) -> list[str]:
    """Lists what a block needs and `prepare` does not provide."""
    needs = [need.strip() for need in block.needs.replace(";", ",").split(",") if need.strip()]
    return [need for need in needs if need not in PROVIDED and not is_short(need)]


def run_block(block: markdown.Block, folder: Path) -> tuple[int, str]:
    """Runs a block with the project of the folder; returns its exit code and its output."""
    data = {"DATA_DIR": folder / "DIGITS" / "dev-clean", "IMAGENET_DIR": folder / "PHOTOS"}
    variables = {name: str(path) for name, path in data.items()}
    return run_text(block.text, folder, block.language, variables)


def main() -> int:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, help="pages to run; default: all")
    pages = parser.parse_args().pages or markdown.pages(PROJECT)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="docs-") as place:
        folder = Path(place)
        prepare(folder)
        for page in pages:
            for block in markdown.blocks(page.read_text("utf-8")):
                if block.language not in ("bash", "python"):
                    continue
                name = f"{page}:{block.line}"
                if lacking := missing(block):
                    print(f"left out  {name}: {', '.join(lacking)}", flush=True)
                    continue
                start = time.monotonic()
                code, output = run_block(block, folder)
                failed += code != 0
                outcome = "failed  " if code else "ok      "
                print(f"{outcome}  {name}, {time.monotonic() - start:.0f} s", flush=True)
                if code:
                    print(output[-3000:])
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
