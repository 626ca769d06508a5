"""Prints the names of the model families, one on a line, for the run scripts."""

from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.families import FAMILIES


def main(argv: list[str]) -> int:
    """Runs the program."""
    about = "Prints the names of the model families, one per line."
    _, rest = CommandLine("tools.cli.list_families", about, "", example="").parse(argv)
    if rest:
        raise UserError.expected("no arguments", " ".join(rest), "Leave them out")
    print("\n".join(FAMILIES))
    return 0


if __name__ == "__main__":
    run(main)
