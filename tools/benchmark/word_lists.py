"""Writes words, names and sentences of a small grammar for the benchmark of hot words.

The words have regular spellings, so that a model that writes letters can learn them from little
speech. No name is among the words. Sentences are drawn at random with a fixed seed; a sentence for
the language model is never a sentence for tests.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.files import new_folder

DETERMINERS = tuple("THE THIS THAT HIS".split())
ADJECTIVES = tuple(
    "RED BIG SAD HOT WET FLAT GLAD THIN DAMP SOFT DIM MAD FIT FAST BEST LAST FRESH GRAND STRICT "
    "BRISK CRISP DRAB SLIM FOND GRIM LIMP PLUMP SMUG SNUG STIFF SWIFT BLUNT BENT HIDDEN RUSTIC "
    "PLASTIC MODEST SOLID TIMID FANTASTIC".split()
)
NOUNS = tuple(
    "CAT DOG PIG HEN FOX RAT BUG ANT DUCK FISH CRAB FROG RABBIT KITTEN INSECT CAMEL BOX BAG CUP "
    "POT PAN JUG LAMP BED DESK BENCH CLOCK DRUM FLAG STAMP BRUSH LOCK TRUCK BUS SHIP TENT TUB NET "
    "MAP PEN PAD HAT SOCK VEST BELT DRESS JACKET BASKET BUCKET BLANKET NAPKIN TICKET POCKET ROCKET "
    "HELMET MAGNET CABIN HILL POND SAND ROCK STICK LOG TWIG PLANT NUT PLUM MELON LEMON PUMPKIN "
    "MUFFIN SALAD PICNIC MILK EGG JAM HAM BUN CONTEST DENTIST VELVET COTTON BUTTON MITTEN RIBBON "
    "PUPPET TRUMPET TABLET WAGON TUNNEL CHICKEN SANDWICH GOBLIN CABINET SHELF BRICK CHEST RING "
    "KING TRUNK BRANCH BELL DOLL GIFT MASK".split()
)
VERBS = tuple(
    "GRABS HITS CUTS FILLS PICKS DROPS SELLS LIFTS PACKS TAPS KICKS RUBS SPOTS STOPS LENDS SENDS "
    "BENDS BRINGS HELPS DUMPS SPINS SWINGS CLIPS STACKS SPILLS SMELLS MENDS TESTS PLANS HUGS TUGS "
    "LICKS PATS PINS SETS GETS WANTS HOLDS TELLS PRESSES".split()
)
PREPOSITIONS = tuple("ON IN AT WITH FROM UP".split())
ADVERBS = tuple("OFTEN THEN JUST".split())
CONJUNCTIONS = tuple("AND BUT".split())
NAMES = tuple(
    "NELSON DUSTIN MILTON PRESTON HUDSON WILSON DENNIS KENDRICK ROBIN COLIN MELVIN EDWIN JASMIN "
    "CLINTON BENSON GRIFFIN LANDON BRANDON CALVIN KEVIN".split()
)
WORDS = (*DETERMINERS, *ADJECTIVES, *NOUNS, *VERBS, *PREPOSITIONS, *ADVERBS, *CONJUNCTIONS)

SEED = 11
NUM_SENTENCES = 3000  # for the language model
NUM_TESTS = 400  # sentences with names, and sentences without them


def _thing(rng: np.random.Generator) -> list[str]:
    """Draws a noun with a determiner and perhaps an adjective."""
    adjective = [str(rng.choice(ADJECTIVES))] if rng.random() < 0.4 else []
    return [str(rng.choice(DETERMINERS)), *adjective, str(rng.choice(NOUNS))]


def draw_sentence(rng: np.random.Generator, names: Sequence[str] = ()) -> str:
    """Draws a sentence of the grammar: somebody does something with a thing, perhaps at a place.

    Args:
        rng: random generator.
        names: one of them becomes the subject or the object; empty for a sentence without names.
    """
    subject, thing = _thing(rng), _thing(rng)
    if names:
        name = [str(rng.choice(names))]
        subject, thing = (name, thing) if rng.random() < 0.5 else (subject, name)
    adverb = [str(rng.choice(ADVERBS))] if rng.random() < 0.2 else []
    words = [*subject, *adverb, str(rng.choice(VERBS)), *thing]
    if rng.random() < 0.3:
        words += [str(rng.choice(PREPOSITIONS)), *_thing(rng)]
    if rng.random() < 0.1:
        words += [str(rng.choice(CONJUNCTIONS)), str(rng.choice(VERBS)), *_thing(rng)]
    return " ".join(words)


def lists() -> dict[str, list[str]]:
    """Returns the lines of each file by its name."""
    rng = np.random.default_rng(SEED)
    sentences = [draw_sentence(rng) for _ in range(NUM_SENTENCES)]
    known, tests = set(sentences), []
    while len(tests) < NUM_TESTS:
        sentence = draw_sentence(rng)
        if sentence not in known:
            known.add(sentence)
            tests.append(sentence)
    return {
        "words.txt": [*WORDS],
        "names.txt": [*NAMES],
        "sentences.txt": sentences,
        "sentences_for_tests.txt": tests,
        "sentences_with_names.txt": [draw_sentence(rng, NAMES) for _ in range(NUM_TESTS)],
    }


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.benchmark.word_lists",
        "Writes words, names and sentences of a small grammar for the benchmark of hot words.",
        "--output_dir=DIR",
        example="--output_dir=lists",
    )
    flags.group("Output")
    flags.string("output_dir", None, "New folder to write.", default_text=REQUIRED)
    values, rest = flags.parse(argv)
    if rest or not values.output_dir:
        raise UserError.expected("--output_dir DIR", " ".join(argv) or "nothing", "See --help")
    with new_folder(Path(values.output_dir)) as folder:
        for name, lines in lists().items():
            (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return 0


if __name__ == "__main__":
    run(main)
