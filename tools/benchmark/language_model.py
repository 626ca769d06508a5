"""Times the reading of a large n-gram language model, as text and from the cache."""

import gzip
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tools.benchmark.own_process import in_own_process
from tools.config.command_line import CommandLine, run
from tools.conversion.machine import machine, processor
from tools.decoding.language_model import load_ngrams
from tools.errors import UserError
from tools.files import check_writable, to_json, write_text
from tools.memory import peak_resident_bytes

SEED = 1
_SHARES = 0.08, 0.32, 0.3, 0.3  # of the n-grams of each order


def random_arpa(num_ngrams: int) -> Iterator[str]:
    """Yields the text of an ARPA file of order 4 with random n-grams, about as many as asked for.

    Every n-gram continues one that is a word shorter, as in a file that was estimated from text.
    """
    rng = np.random.default_rng(SEED)
    num_words, *sizes = (max(4, round(share * num_ngrams)) for share in _SHARES)
    orders = [np.arange(num_words)[:, None]]
    for size in sizes:
        contexts = orders[-1][rng.integers(0, len(orders[-1]), size)]
        words = rng.integers(0, num_words, (size, 1))
        orders.append(np.unique(np.concatenate([contexts, words], axis=1), axis=0))
    yield "\\data\\\n"
    for order, ngrams in enumerate(orders, 1):
        yield f"ngram {order}={len(ngrams) + (3 if order == 1 else 0)}\n"
    yield "\n\\1-grams:\n-2\t<unk>\t0\n-99\t<s>\t-0.5\n-2\t</s>\t0\n"
    for order, ngrams in enumerate(orders, 1):
        if order > 1:
            yield f"\n\\{order}-grams:\n"
        backoff = "" if order == len(orders) else "\t-0.1234567"
        scores = rng.uniform(-6, -1, len(ngrams)).tolist()
        for score, words in zip(scores, ngrams.tolist(), strict=True):
            yield f"{score:.6f}\t{' '.join(f'w{word:x}' for word in words)}{backoff}\n"
    yield "\n\\end\\\n"


def timed_load(path: str, cache: str) -> dict[str, float]:
    """Loads a language model; call it in a process of its own.

    Args:
        path: the file.
        cache: folder of the user's cache.

    Returns:
        Seconds, peak memory of the process in MiB before and after, and the number of n-grams.
    """
    os.environ["XDG_CACHE_HOME"] = cache
    before, started = peak_resident_bytes(), time.perf_counter()
    model = load_ngrams(path)
    return {
        "seconds": time.perf_counter() - started,
        "before_mib": before / 2**20,
        "peak_mib": peak_resident_bytes() / 2**20,
        "num_ngrams": len(model),
    }


def measure(num_ngrams: int, folder: Path) -> dict[str, dict[str, float]]:
    """Writes a file as text and compressed, and loads both twice: the second time from the cache.

    Args:
        num_ngrams: about the number of n-grams.
        folder: folder for the files and caches.
    """
    plain, packed = folder / "random.arpa", folder / "random.arpa.gz"
    with plain.open("w", encoding="utf-8") as file:
        file.writelines(random_arpa(num_ngrams))
    with plain.open("rb") as file, gzip.open(packed, "wb", compresslevel=1) as target:
        shutil.copyfileobj(file, target)
    found = {}
    for name, path in (("text", plain), ("gzip", packed)):
        cache = str(folder / f"cache_{name}")
        found[name] = in_own_process(timed_load, str(path), cache)
        found[f"{name}, cached"] = in_own_process(timed_load, str(path), cache)
        found[name]["file_mib"] = path.stat().st_size / 2**20
    return found


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "tools.benchmark.language_model",
        "Times the reading of an ARPA file of random 4-grams, and of its cached form.",
        example="--num_ngrams=5000000 --json=lm.json",
    )
    flags.group("Model")
    flags.integer("num_ngrams", 5_000_000, "About the number of n-grams.")
    flags.group("Output")
    about = "Folder for files of up to 0.5 KB for each n-gram, which are removed at the end."
    flags.string("work_dir", None, about, default_text="the system's folder for temporary files")
    flags.string("json", None, "Report to write.", default_text="none")
    values, rest = flags.parse(argv)
    if rest or not 100 <= values.num_ngrams <= 100_000_000:
        raise UserError.expected(
            "flags alone, with --num_ngrams of 100 to 100000000", " ".join(argv), "See --help"
        )
    if values.json:
        check_writable(Path(values.json))
    with tempfile.TemporaryDirectory(dir=values.work_dir) as temporary:
        rows = measure(values.num_ngrams, Path(temporary))
    for name, row in rows.items():
        print(
            f"{name:12}  {row['num_ngrams']} n-grams in {row['seconds']:.1f} s, peak memory "
            f"{row['peak_mib']:.0f} MiB, {row['before_mib']:.0f} MiB before"
        )
    if values.json:
        report = {"machine": machine(), "processor": processor(), "results": rows}
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
