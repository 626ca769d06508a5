"""Reads n-gram language models from ARPA files."""

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tools.decoding.arpa_kernel import Found, link_shorter, parse_ngrams
from tools.decoding.ngrams import (
    MISSING_UNKNOWN,
    UNKNOWN,
    NgramModel,
    Trie,
    Words,
    read_only,
    vocabulary_of,
)
from tools.errors import UserError

_BLOCK_BYTES = 1 << 22
_GZIP_START = b"\x1f\x8b"
_COUNT = re.compile(rb"ngram\s+(\d+)\s*=\s*(\d+)\s*$")
_MAX_ORDER = 12
PROBLEMS = {
    1: "{order} words between a log10 probability and a log10 backoff weight",
    2: "finite numbers, with log10 probabilities of at most 0",
    3: "words that are among the 1-grams",
    4: "the first words of every {order}-gram among the {shorter}-grams",
    5: "a backoff weight of every {shorter}-gram that begins a {order}-gram",
    6: "every {order}-gram once",
}


def read_arpa(path: str | Path) -> NgramModel:
    """Reads an n-gram model from an ARPA file, which gzip may have compressed.

    A missing backoff weight counts as 0 where no longer n-gram begins with the n-gram. `<unk>` has
    the log10 probability -100 if the file lacks it.

    Raises:
        UserError: the file cannot be read, is cut short, or is inconsistent.

    Source: Doug Paul's format as in SRILM's ngram-format(5).
    """
    with _opened(path) as file:
        return _Reader(file, str(path)).read()


@contextmanager
def _opened(path: str | Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:
            if file.read(2) == _GZIP_START:
                with gzip.open(path, "rb") as unpacked:
                    yield unpacked
            else:
                file.seek(0)
                yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _broken(str(path), "a whole file", error or "a file cut short") from error
    except OSError as error:
        reason = f"{path}: {error.strerror or error}"
        raise UserError.expected("an ARPA file", reason, "Correct the path") from error


def _broken(path: str, expected: str, received: object) -> UserError:
    return UserError.expected(
        f"{expected} in an ARPA file", f"{path}: {received}", "Make or copy the file again"
    )


class _Reader:
    """Reads the sections of a file in order.

    Args:
        file: binary file.
        path: name for messages.
    """

    def __init__(self, file: BinaryIO, path: str):
        self._file, self._path, self._line_number, self._order = file, path, 0, 1
        self._data, self._start = b"", 0  # bytes that were read, and the first one that is unused

    def read(self) -> NgramModel:
        """Returns the model."""
        sizes = self._counts()
        listed, probabilities, backoffs = self._words(sizes[0], len(sizes))
        if UNKNOWN.encode() not in listed:
            listed.append(UNKNOWN.encode())
            probabilities.append(MISSING_UNKNOWN)
            backoffs.append(0.0)
        try:
            words = vocabulary_of(listed)
        except ValueError as error:
            word = listed[error.args[0]].decode("utf-8", "replace")
            raise _broken(self._path, "every word once", f"the 1-gram {word} twice") from None
        try:
            words.text.tobytes().decode()
        except UnicodeDecodeError as error:
            raise _broken(self._path, "UTF-8 text", error.reason) from None
        trie = Trie(
            words=np.arange(-1, len(listed), dtype=np.int32),
            first_child=np.array([1, len(listed) + 1], np.int32),
            shorter=np.zeros(len(listed) + 1, np.int32),
            log10_probability=np.array([0.0, *probabilities], np.float32),
            log10_backoff=np.zeros(1, np.float32),
        )
        del listed, probabilities
        lower = np.array(backoffs, np.float32)
        for self._order in range(2, len(sizes) + 1):
            trie, lower = self._longer(trie, words, lower, sizes[self._order - 1 :])
        if self._next_line() != b"\\end\\":
            raise _broken(self._path, "\\end\\ at the end", self._received())
        trie = Trie(*map(read_only, trie))
        return NgramModel(trie, words, len(sizes))

    def _counts(self) -> list[int]:
        line = self._next_line()
        while line and line != b"\\data\\":
            line = self._next_line()
        if not line:
            raise _broken(self._path, "the line \\data\\ at the start", "no such line")
        sizes: list[int] = []
        while match := _COUNT.match(self._peek_line()):
            self._next_line()
            if int(match[1]) != len(sizes) + 1:
                raise _broken(self._path, f"ngram {len(sizes) + 1}=N", match[0].decode())
            sizes.append(int(match[2]))
        if not 1 <= len(sizes) <= _MAX_ORDER:
            expected = f"the numbers of n-grams of 1 to {_MAX_ORDER} orders"
            raise _broken(self._path, expected, f"{len(sizes)} orders")
        return sizes

    def _words(self, size: int, max_order: int) -> tuple[list[bytes], list[float], list[float]]:
        """Reads the 1-grams: words, probabilities, backoff weights (NaN without one)."""
        self._heading(1)
        words, probabilities, backoffs = [], [], []
        while not (line := self._peek_line()).startswith(b"\\"):
            if not line:
                break
            self._next_line()
            fields = line.split()
            if not 2 <= len(fields) <= 2 + (max_order > 1):
                raise self._problem(1, 1)
            try:
                numbers = [float(fields[0]), *map(float, fields[2:])]
            except ValueError:
                raise self._problem(2, 1) from None
            if not np.isfinite(numbers).all() or numbers[0] > 0:
                raise self._problem(2, 1)
            words.append(fields[1])
            probabilities.append(numbers[0])
            backoffs.append(numbers[1] if len(numbers) > 1 else np.nan)
        self._check_count(1, size, len(words))
        return words, probabilities, backoffs

    def _longer(
        self, trie: Trie, words: Words, lower: np.ndarray, sizes: Sequence[int]
    ) -> tuple[Trie, np.ndarray]:
        """Adds the n-grams of the next order; returns the trie and their backoff weights.

        Args:
            trie: all shorter n-grams.
            words: vocabulary.
            lower: backoff weights of the longest ones of the trie.
            sizes: numbers of n-grams of this order and of all longer ones.
        """
        order, size = self._order, sizes[0]
        self._heading(order)
        num_lower = len(trie.words)
        trie = trie._replace(log10_backoff=np.concatenate([trie.log10_backoff, lower]))
        nodes = np.empty((size, 2), np.int32)
        values = np.empty((size, 2), np.float32)
        counts = np.array([0, self._line_number])
        known = Trie(*map(read_only, trie)), words
        while True:
            block = self._block()
            if not block:
                break
            text = np.frombuffer(block, np.uint8)
            shape = order, len(sizes) > 1
            status, used = parse_ngrams(text, shape, known, Found(nodes, values, counts))
            self._line_number = int(counts[1])
            self._data, self._start = block[used:] + self._data, 0
            if status > 0:
                raise self._problem(status, order)
            if status != 0:
                break
        full = self._peek_line()
        more = bool(full) and not full.startswith(b"\\")
        self._check_count(order, size, f"more than {size}" if more else int(counts[0]))
        key = nodes[:, 0].astype(np.int64) << 32
        key |= nodes[:, 1]
        if (key[1:] <= key[:-1]).any():
            place = np.argsort(key)
            key = key[place]
            if (key[1:] == key[:-1]).any():
                raise _broken(self._path, PROBLEMS[6].format(order=order), "one twice")
            values = values[place]
            del place
        parents = (key >> 32).astype(np.int32)
        last_words = (key & 0x7FFFFFFF).astype(np.int32)
        del key, nodes
        # The children of the nodes of the order before.
        first = int(trie.first_child[-1])
        edges = np.arange(len(trie.first_child), num_lower + 1)
        children = first + np.searchsorted(parents, edges, "left").astype(np.int32)
        grown = Trie(
            words=np.concatenate([trie.words, last_words]),
            first_child=np.concatenate([trie.first_child, children]),
            shorter=np.concatenate([trie.shorter, np.zeros(size, np.int32)]),
            log10_probability=np.concatenate([trie.log10_probability, values[:, 0]]),
            log10_backoff=np.nan_to_num(trie.log10_backoff, copy=False),
        )
        link_shorter(Trie(*map(read_only, grown)), parents, num_lower, grown.shorter)
        return grown, values[:, 1]

    def _check_count(self, order: int, size: int, found: int | str) -> None:
        if found == size:
            return
        if not self._peek_line():
            raise _broken(self._path, "\\end\\ at the end", self._received())
        message = f"{size} {order}-grams, as its head says,"
        raise _broken(self._path, message, f"{found} before line {self._line_number + 1}")

    def _heading(self, order: int) -> None:
        if self._next_line() != f"\\{order}-grams:".encode():
            raise _broken(self._path, f"the line \\{order}-grams:", self._received())

    def _received(self) -> str:
        at_end = "the end of the file after" if not self._peek_line() else "another text in"
        return f"{at_end} line {self._line_number}"

    def _problem(self, status: int, order: int) -> UserError:
        expected = PROBLEMS[status].format(order=order, shorter=order - 1)
        return _broken(self._path, expected, f"line {self._line_number}")

    def _block(self) -> bytes:
        """Returns the next whole lines; empty at the end of the file."""
        block, self._data, self._start = self._data[self._start :], b"", 0
        while not (end := block.rfind(b"\n") + 1):
            more = self._file.read(_BLOCK_BYTES)
            if not more:
                return block + b"\n" if block else b""
            block += more
        self._data = block[end:]
        return block[:end]

    def _peek_line(self) -> bytes:
        """Returns the next line that is not empty, without using it; empty at the end."""
        while True:
            end = self._data.find(b"\n", self._start)
            if end < 0:
                more = self._file.read(_BLOCK_BYTES)
                if more:
                    self._data, self._start = self._data[self._start :] + more, 0
                    continue
                return self._data[self._start :].strip()
            if line := self._data[self._start : end].strip():
                return line
            self._start = end + 1
            self._line_number += 1

    def _next_line(self) -> bytes:
        """Returns the next line that is not empty; empty at the end of the file."""
        if line := self._peek_line():
            end = self._data.find(b"\n", self._start)
            self._start = len(self._data) if end < 0 else end + 1
            self._line_number += 1
        return line
