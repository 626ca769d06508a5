"""Trains an n-gram language model of words on a text: modified Kneser-Ney smoothing."""

import sys
from pathlib import Path

from tools.config.command_line import REQUIRED, CommandLine, run
from tools.decoding.kneser_ney import (
    MAX_ORDER,
    arpa_lines,
    count_ngrams,
    estimate,
    read_sentences,
)
from tools.errors import UserError
from tools.files import check_not_input, check_writable, write_text


def main(argv: list[str]) -> int:
    """Runs the program."""
    command_line = CommandLine(
        "tools.cli.train_language_model",
        __doc__,
        "--text=FILE --output=FILE [FLAGS]",
        example="--text=sentences.txt --order=4 --output=lm.arpa",
    )
    command_line.group("Input")
    about = "Text with one sentence per line, spelled like the model's output. May be a .gz file."
    command_line.string("text", None, about, default_text=REQUIRED)
    command_line.group("Training")
    command_line.integer("order", 4, f"Length of the longest n-grams, 1 to {MAX_ORDER}.")
    about = (
        "For each order, n-grams that occur so many times or less are left out. The last number "
        "holds for all longer n-grams. Words are always kept."
    )
    command_line.string("prune", "0", about)
    command_line.group("Output")
    command_line.string("output", None, "ARPA file to write.", default_text=REQUIRED)
    flags = command_line.parse_flags(argv)
    for name in ("text", "output"):
        if not getattr(flags, name):
            raise UserError.expected(f"--{name}", "none", "See --help")
    if not 1 <= flags.order <= MAX_ORDER:
        raise UserError.expected(f"--order from 1 to {MAX_ORDER}", flags.order, "Correct the flag")
    pruned = _counts(flags.prune)
    output = Path(flags.output)
    check_writable(output)
    check_not_input(output, [flags.text])
    words, all_ngrams = count_ngrams(read_sentences(flags.text), flags.order)
    estimates = estimate(all_ngrams, pruned)
    for order, found in enumerate(estimates, 1):
        if not found.is_estimated:
            values = ", ".join(f"{value:g}" for value in found.discounts)
            print(f"{order}-grams: too few to estimate discounts, so {values}", file=sys.stderr)
    write_text(output, "".join(arpa_lines(words, all_ngrams, estimates)))
    sizes = ", ".join(f"{int(x.kept.sum())} {n}-grams" for n, x in enumerate(estimates, 1))
    print(f"{output}: {sizes}.", file=sys.stderr)
    return 0


def _counts(text: str) -> tuple[int, ...]:
    """Returns the numbers of --prune."""
    fields = text.split(",")
    if all(field.strip().isdecimal() for field in fields):
        counts = tuple(map(int, fields))
        if list(counts) == sorted(counts):
            return counts
    raise UserError.expected(
        "--prune with numbers from 0 that do not fall, such as 0,0,1", text, "Correct the flag"
    )


if __name__ == "__main__":
    run(main)
