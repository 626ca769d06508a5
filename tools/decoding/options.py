"""Options of beam searches."""

import math
from dataclasses import dataclass

from tools.errors import UserError

MIN_BEAM_WIDTH, MAX_BEAM_WIDTH = 1, 2000
# Number of hypotheses of a frame that waits to be decoded, in multiples of the width of the beam.
TDT_ROOM = 2


@dataclass(frozen=True, slots=True)
class BeamSearch:
    """Options of a CTC beam search.

    Attributes:
        width: number of hypotheses kept after each frame, 1 to 2000.
        language_model: path of an n-gram model over words, an ARPA file (also .gz) or KenLM's
            binary format; None to search without a language model.
        weight: factor of the language model's log-probabilities. With 0, the language model and
            the word bonus are not used.
        word_bonus: added to the log-probability for each word, to compensate that both models
            prefer fewer words.
        unknown_offset: added to the log10 probability of words that the language model lacks, and
            to the score of their beginnings.
        token_min: log-probability below which a symbol is not tried, unless it is the best one, or
            continues a hot word and has more than `beam_prune`.
        beam_prune: beams that are so much worse than the best one are dropped.
    """

    width: int = 100
    language_model: str | None = None
    weight: float = 0.5
    word_bonus: float = 1.5
    unknown_offset: float = -10.0
    token_min: float = -5.0
    beam_prune: float = -10.0

    def __post_init__(self):
        if not math.isfinite(self.weight) or not math.isfinite(self.word_bonus):
            raise UserError.expected(
                "finite numbers for --lm_weight and --word_bonus",
                f"{self.weight} and {self.word_bonus}",
                "Correct the flags",
            )
        if not MIN_BEAM_WIDTH <= self.width <= MAX_BEAM_WIDTH:
            raise UserError.expected(
                f"--beam_width of {MIN_BEAM_WIDTH} to {MAX_BEAM_WIDTH}, or 0 for greedy decoding",
                self.width,
                "Correct the flag",
            )


@dataclass(frozen=True, slots=True)
class TransducerBeamSearch:
    """Options of a transducer beam search.

    Attributes:
        width: number of hypotheses kept after each frame, at least 1.
        norm_score: divides the scores of finished hypotheses by their number of tokens.
        beam_prune: hypotheses that are so much worse than the best one of the frame emit no symbol.
    """

    width: int = 4
    norm_score: bool = False
    beam_prune: float = 5.0
