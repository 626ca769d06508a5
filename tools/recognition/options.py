"""Options of recognition that the speech families share, and their flags."""

from collections.abc import Sequence
from dataclasses import dataclass

from tools.config.command_line import CommandLine
from tools.decoding.hotwords import DEFAULT_WEIGHT
from tools.decoding.options import BeamSearch
from tools.errors import UserError
from tools.inference.options import SCORE_TEXTS, DataOptions, RunnerOptions, SpeechKeywords
from tools.speech.subtitles import SUFFIXES


@dataclass(frozen=True, slots=True)
class SearchOptions(RunnerOptions):
    """Options for recognition.

    Attributes:
        beam_width: number of hypotheses of the beam search; 0: greedy search.
        n_best: number of different texts of the beam search to return.
        norm_score: whether the beam search of a transducer divides scores by the number of tokens.
        lm_path: n-gram language model for the beam search, an ARPA file (also .gz) or a KenLM file.
        lm_weight: weight of the language model.
        word_bonus: score added for each word if a language model is used.
        hotwords: phrases that the search prefers: a file with one phrase a line, or a list of
            phrases. A tab and a number behind a phrase set its weight.
    """

    beam_width: int = 0
    n_best: int = 1
    norm_score: bool = False
    lm_path: str | None = None
    lm_weight: float = 0.5
    word_bonus: float = 1.5
    hotwords: str | Sequence[str] | None = None

    def beam_search(self) -> BeamSearch | None:
        """Returns the options of the beam search; None for greedy search.

        Raises:
            UserError: a language model or several texts are requested without a beam width, or a
                value is out of range.
        """
        if self.beam_width == 0:
            for flag, is_given in (("lm_path", self.lm_path), ("n_best", self.n_best != 1)):
                if is_given:
                    raise UserError.expected(
                        f"--beam_width with --{flag}", 0, "Give --beam_width 100"
                    )
            return None
        beam = BeamSearch(self.beam_width, self.lm_path, self.lm_weight, self.word_bonus)
        if not 1 <= self.n_best <= self.beam_width:
            raise UserError.expected(
                f"--n_best from 1 to {self.beam_width}, the --beam_width",
                self.n_best,
                "Correct the flag",
            )
        return beam


class SearchKeywords(SpeechKeywords, total=False):
    """The fields of `SearchOptions` for type checkers."""

    beam_width: int
    n_best: int
    norm_score: bool
    lm_path: str | None
    lm_weight: float
    word_bonus: float
    hotwords: str | Sequence[str] | None


_DEFAULTS = SearchOptions()


def add_search_flags(flags: CommandLine) -> None:
    """Adds the flags of the search to the command line of a program."""
    flags.group("Decoding")
    about = "Number of hypotheses of the beam search; 0: greedy search."
    flags.integer("beam_width", _DEFAULTS.beam_width, about)
    about = "Number of different texts of the beam search to print, each behind its score."
    flags.integer("n_best", _DEFAULTS.n_best, about)
    about = "Divides scores of a transducer's beam search by the number of tokens."
    flags.boolean("norm_score", _DEFAULTS.norm_score, about)
    about = "N-gram language model for the beam search, an ARPA file (also .gz) or a KenLM file."
    flags.string("lm_path", None, about, default_text="none")
    flags.number("lm_weight", _DEFAULTS.lm_weight, "Weight of the language model.")
    about = "Score added for each word if a language model is used."
    flags.number("word_bonus", _DEFAULTS.word_bonus, about)
    about = (
        "File of phrases that the search prefers, one a line. A tab and a number behind a phrase "
        f"set its weight ({DEFAULT_WEIGHT:g} without)."
    )
    flags.string("hotwords", None, about, default_text="none")


@dataclass(frozen=True, slots=True)
class RecognitionOptions(SearchOptions):
    """Options for the recognition of short and long sounds.

    Attributes:
        chunk_seconds: length of the chunks that long recordings are cut into. None uses that of
            the export.
        overlap_seconds: overlap of two chunks. None uses that of the export, at most a fifth of a
            chunk.
        skip_silence_seconds: leaves out silences of at least this length. None leaves out none.
    """

    chunk_seconds: float | None = None
    overlap_seconds: float | None = None
    skip_silence_seconds: float | None = None


class RecognitionKeywords(SearchKeywords, total=False):
    """The fields of `RecognitionOptions` for type checkers."""

    chunk_seconds: float | None
    overlap_seconds: float | None
    skip_silence_seconds: float | None


def add_recognition_flags(flags: CommandLine) -> None:
    """Adds the flags of words, long recordings and search to the command line of a program."""
    data = DataOptions()
    flags.group("Output")
    flags.boolean("timestamps", False, "Prints each word with its start and end in seconds.")
    about = "Format of the output: text, or words with times in a format for other programs."
    flags.enum("format", None, tuple(SUFFIXES), about, default_text="text")
    about = "Folder for a file of each sound, named after the sound; needed for several sounds."
    flags.string("output_dir", None, about, default_text="print")
    about = "Characters in a line of a subtitle."
    flags.integer("max_line_width", data.max_line_width, about)
    flags.integer("max_line_count", data.max_line_count, "Lines of a subtitle.")
    about = "Texts whose error rates come first: raw, or normalized: no case and no punctuation."
    flags.enum("score_text", None, SCORE_TEXTS, about, default_text="by the transcripts and model")
    flags.group("Input")
    about = "Channels to recognize: mix for their mean, each for each of them, or a number from 1."
    flags.string("channels", data.channels, about)
    flags.group("Decoding")
    about = "Length of the chunks that long recordings are cut into, in seconds."
    flags.number("chunk_seconds", None, about, default_text="as exported")
    about = "Overlap of two chunks in seconds."
    flags.number("overlap_seconds", None, about, default_text="as exported")
    about = "Leaves out silences of at least this length in seconds, and says which."
    flags.number("skip_silence_seconds", None, about, default_text="none")
    add_search_flags(flags)
