"""Command lines: the flags of a program (absl, one FlagValues each), and the error handling."""

import copy
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

from absl import flags

from tools.config import originals
from tools.config.similar import similar_name
from tools.errors import UserError
from tools.files import expand_home, one_line
from tools.launcher import launched_rank, leave_to_first_rank

FROM_CONFIG, NONE = "from the config", "none"
REQUIRED = "required"  # the `default_text` of a flag that must be given
# The headings of --help, in the order in which it prints them.
HEADINGS = (
    "Input",
    "Output",
    "Config",
    "Model",
    "Server",
    "Preprocessing",
    "Augmentation",
    "Training",
    "Optimizer",
    "Checkpoints",
    "Evaluation",
    "Decoding",
    "Runtime",
    "Conversion",
    "Quantization",
    "Measurement",
    "Help",
)
_HELP_WIDTH = 100  # characters of a line
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports


class CommandLine:
    """The flags of one program. Each instance has its own flags; absl's global flags stay empty.

    A flag with the default None that the user does not give has the value None. In a program with
    `--config`, the config then decides.

    The methods that add a flag take its name, its default and its help text. Their options are
    `default_text`, which replaces the default in --help (`REQUIRED` for a flag that must be given),
    `kind_text`, which replaces the type there, and `short_name`, a one-letter form.

    Args:
        module: the program's module, such as "conformer.infer", for --help and messages.
        description: one sentence on what the program does.
        usage: text after the program's name in the usage line, such as "[FLAGS] FILE...".
        example: arguments for the example line of --help. None omits the line.
    """

    def __init__(
        self,
        module: str,
        description: str,
        usage: str = "[FLAGS]",
        *,
        example: str | None = None,
    ):
        self.module, self.description, self.usage = module, description, usage
        self.example = example
        self._flags = flags.FlagValues()
        self._flags.set_gnu_getopt(True)  # flags may follow positional arguments
        self._headings: dict[str, str] = {}
        self._default_texts: dict[str, str | None] = {}
        self._kind_texts: dict[str, str | None] = {}
        self._help_texts: dict[str, str] = {}
        self.group("Help")
        self.boolean("help", False, "Shows this text and exits.", default_text="", short_name="h")
        self._heading = ""

    def group(self, heading: str) -> None:
        """Puts the flags that are added from here on under a heading of --help.

        Args:
            heading: one of `HEADINGS`; flags of several calls are joined.

        Raises:
            ValueError: the heading is unknown.
        """
        if heading not in HEADINGS:
            raise ValueError(f"expected a heading among {', '.join(HEADINGS)}, received {heading}")
        self._heading = heading

    def string(self, name: str, default: str | None, help: str, **options: str) -> None:
        """Adds a flag with any text as its value."""
        self._define(flags.DEFINE_string, name, default, help, **options)

    def integer(self, name: str, default: int | None, help: str, **options: str) -> None:
        """Adds a flag with an integer value."""
        self._define(flags.DEFINE_integer, name, default, help, **options)

    def number(self, name: str, default: float | None, help: str, **options: str) -> None:
        """Adds a flag with a floating-point value."""
        self._define(flags.DEFINE_float, name, default, help, **options)

    def boolean(self, name: str, default: bool | None, help: str, **options: str) -> None:
        """Adds a boolean flag: `--name`, `--noname`, `--name=true` or `--name true`."""
        self._define(flags.DEFINE_boolean, name, default, help, **options)

    def enum(
        self, name: str, default: str | None, values: Sequence[str], help: str, **options: str
    ) -> None:
        """Adds a flag whose value is one of a fixed list of words."""
        define = flags.DEFINE_enum
        self._define(define, name, default, help, enum_values=list(values), **options)

    def multi_string(self, name: str, default: list[str] | None, help: str, **options: str) -> None:
        """Adds a flag that may be repeated; its value is the list of all values."""
        self._define(flags.DEFINE_multi_string, name, default, help, **options)

    def settings(self) -> None:
        """Adds the repeatable flag `--set section.key=value`; its value is a dict for `load`."""
        about = "Sets a value of the config; may be repeated."
        self.multi_string("set", None, about, kind_text="section.key=value", default_text=NONE)

    def _define(
        self,
        define: Callable,
        name: str,
        default: object,
        help: str,
        *,
        default_text: str | None = None,
        kind_text: str | None = None,
        short_name: str | None = None,
        **options: object,
    ) -> None:
        """Registers one absl flag under the current heading."""
        self._headings[name], self._help_texts[name] = self._heading, help
        self._default_texts[name], self._kind_texts[name] = default_text, kind_text
        options |= {"help": help, "flag_values": self._flags, "short_name": short_name}
        if define is not flags.DEFINE_multi_string:
            options["allow_overwrite"] = False  # absl refuses a second value
        define(name=name, default=default, **options)

    def help_text(self) -> str:
        """Returns what --help prints."""
        command = f"python -m {self.module}"
        lines = [self.description, ""]
        if self.example is not None:
            lines.append(f"Example: {command} {self.example}".rstrip())
        lines.append(f"Usage: {command} {self.usage}".rstrip())
        for heading in ("", *HEADINGS):
            names = [name for name in self._names() if self._headings[name] == heading]
            if names:
                lines += ["", f"{heading or 'Flags'}:"]
            for name in names:
                lines += self._describe(name)
        return "\n".join(lines)

    def _describe(self, name: str) -> list[str]:
        """Returns the lines of --help on one flag."""
        flag = self._flags[name]
        short = f", -{flag.short_name}" if flag.short_name else ""
        values = getattr(flag.parser, "enum_values", None)
        kind = "|".join(values) if values else flag.flag_type().removeprefix("multi ")
        argument = "" if flag.boolean else f"={self._kind_texts[name] or kind}"
        no = "[no]" if flag.boolean and name != "help" else ""
        about, shown = self._help_texts[name], self._default_texts[name]
        if shown is None:
            absent = FROM_CONFIG if "config" in self._names() else NONE
            shown = absent if flag.default is None else str(flag.default) or '""'
        if shown:
            about += " Required." if shown == REQUIRED else f" Default: {shown}."
        indent = " " * 6
        wrapped = textwrap.wrap(
            about,
            _HELP_WIDTH,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        return [f"  --{no}{name}{argument}{short}", *wrapped]

    def _names(self) -> list[str]:
        """Returns the long names of all flags in the order in which they were added."""
        return list(self._help_texts)

    def parse(self, argv: Sequence[str]) -> tuple[SimpleNamespace, list[str]]:
        """Parses the arguments of a program; may be called more than once.

        Args:
            argv: arguments after the program's name.

        Returns:
            A namespace with the value of every flag, and the positional arguments in order. In
            both, `~/` is replaced by the home folder.

        Raises:
            UserError: a flag is unknown or given twice, a value is missing, empty or of the wrong
                type, or --set is not of the form key=value. Of several ranks, the first raises it
                first, and the launcher then ends the others.
            SystemExit: with code 0, after --help.
        """
        try:
            return self._parse(argv)
        except UserError:
            leave_to_first_rank()
            raise

    def parse_flags(self, argv: Sequence[str]) -> SimpleNamespace:
        """Parses the arguments of a program without positional ones; see `parse`.

        Raises:
            UserError: there is a positional argument, or as in `parse`.
        """
        values, rest = self.parse(argv)
        if rest:
            leave_to_first_rank()
            raise UserError.expected("flags only", " ".join(rest), "See --help")
        return values

    def _parse(self, argv: Sequence[str]) -> tuple[SimpleNamespace, list[str]]:
        parsed = copy.deepcopy(self._flags)
        argv, lines = originals.of_today(self.module, argv, self._names())
        if launched_rank() == 0:
            for line in lines:
                print(line, file=sys.stderr)
        try:
            positional = parsed([self.module, *self._join_booleans(argv)])[1:]
        except flags.UnrecognizedFlagError as error:
            raise UserError.expected(
                f"a flag of {self.module}", f"--{error.flagname}", self._advice(error.flagname)
            ) from None
        except (flags.Error, ValueError) as error:
            raise self._bad_value(str(error)) from None
        if parsed["help"].value:
            print(self.help_text())
            raise SystemExit(0)
        self._check_given(parsed)
        values = {name: _expanded(parsed[name].value) for name in self._names() if name != "help"}
        if "set" in values:
            values["set"] = _settings(values["set"] or [])
        return SimpleNamespace(**values), _expanded(positional)

    def _check_given(self, parsed: flags.FlagValues) -> None:
        """Raises UserError for a flag with an empty value."""
        for name in self._names():
            flag = parsed[name]
            if flag.present and flag.value == "" and flag.default != "":
                raise UserError.expected(
                    f"a value for --{name}", "an empty one", f"Give one, or leave --{name} out"
                )

    def _advice(self, name: str) -> str:
        """Returns what to do about an unknown flag: another flag, another program, or --help."""
        near = similar_name(name, self._names())
        other = originals.owner(self.module, name)
        if near and not other:
            return f"Use --{near}"
        return f"Use it with python -m {other}" if other else "See --help"

    def _join_booleans(self, argv: Sequence[str]) -> list[str]:
        """Rewrites `--flag true` as `--flag=true`: absl would read `true` as a positional one."""
        joined: list[str] = []
        for index, word in enumerate(argv):
            if word == "--":
                return joined + list(argv[index:])
            name = joined[-1].lstrip("-") if joined and joined[-1].startswith("-") else ""
            boolean = name in self._flags and self._flags[name].boolean
            if boolean and word.lower() in ("true", "false"):
                joined[-1] += f"={word}"
            else:
                joined.append(word)
        return joined

    def _bad_value(self, problem: str) -> UserError:
        """Returns the error for a known flag whose value absl could not parse."""
        missing = re.fullmatch(r"Missing value for flag (-+\w+)", problem)
        if missing:
            return UserError.expected(
                f"a value after {missing[1]}", "none", f"Write {missing[1]}=VALUE"
            )
        twice = re.fullmatch(
            r"flag --(\w+)=(.*): already defined as (.*)", problem, flags=re.DOTALL
        )
        if twice:
            name, second, first = twice.groups()
            return UserError.expected(
                f"--{name} once", f"it twice, as {first} and {second}", "Leave one of them out"
            )
        match = re.match(r"flag --(\w+)=(.*?): ", problem, flags=re.DOTALL)
        if match is None or match[1] not in self._flags:
            return UserError.expected(f"flags of {self.module}", problem, "See --help")
        flag = self._flags[match[1]]
        kinds = {"int": "a whole number", "float": "a number", "bool": "true or false"}
        values = getattr(flag.parser, "enum_values", None)
        expected = "one of " + ", ".join(values) if values else kinds.get(flag.flag_type(), "text")
        received = match[2] or "an empty value"
        return UserError.expected(f"{expected} for --{match[1]}", received, f"Correct --{match[1]}")


def _expanded(value: object) -> object:
    """Expands `~/` at the start of strings, also inside lists; returns other values unchanged."""
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return expand_home(value) if isinstance(value, str) else value


def _settings(words: Sequence[str]) -> dict[str, str]:
    """Splits `section.key=value` words into a dict; the last value of a repeated key wins."""
    settings = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.strip():
            raise UserError.expected(
                "section.key=value after --set", word or '""', "Write --set section.key=value"
            )
        settings[key.strip()] = value.strip()
    return settings


def run(main: Callable[[list[str]], int | None], argv: Sequence[str] | None = None) -> NoReturn:
    """Runs a program and ends the process; called below `if __name__ == "__main__":`.

    A `UserError`, or an OSError for a path, is printed as one line on stderr with exit code 2.
    Ctrl-C prints one line, with exit code 130. If the reader of a pipe has ended (`| head`), the
    program ends without a message.

    Args:
        main: function of the arguments after the program's name; returns an exit code, or None
            for 0.
        argv: program name and arguments; None uses those of the process.
    """
    argv = sys.argv if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names may contain any bytes
    try:
        _check_checkout(main)
        code = main(list(argv[1:])) or 0
        sys.stdout.flush()  # raises BrokenPipeError here rather than at interpreter exit
    except UserError as error:
        print("Error:", " ".join(str(error).splitlines()), file=sys.stderr)
        code = EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        code = EXIT_BROKEN_PIPE
    except OSError as error:
        if error.filename is None:
            raise
        received = f"{one_line(os.fsdecode(error.filename))}: {error.strerror}"
        do = "Check the path and its permissions"
        print("Error:", UserError.expected("a usable path", received, do), file=sys.stderr)
        code = EXIT_USER_ERROR
    sys.exit(code)


def _check_checkout(main: Callable) -> None:
    """Raises UserError if a program, started as a file, imports `tools` of another checkout.

    The families check this themselves; see `tools/checkout.py`.
    """
    code = getattr(main, "__code__", None)
    if code is None:
        return
    program, own = Path(code.co_filename).absolute(), Path(__file__).parents[1]
    package = program.parent.parent
    if (package / "checkout.py").is_file() and not package.samefile(own):
        raise UserError.expected(
            f"a program of {own}, which Python finds",
            program,
            f"Run python -m tools.{program.parent.name}.{program.stem} in {package.parent}",
        )


def _discard_stdout() -> None:
    """Redirects stdout to /dev/null, so that the flush at interpreter exit does not fail again."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return  # stdout has no file descriptor, so nothing is flushed at exit
