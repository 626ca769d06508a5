"""Splits of a corpus: every utterance in one of the two, with its own sound and words."""

import numpy as np
import pytest

from tests.support.arguments import joined
from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.cli.split_corpus import main
from tools.speech.audio import read
from tools.speech.corpus import read_corpus


@pytest.fixture
def split(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "corpus" / "train"
    for speaker in (1, 2):
        for chapter in (3, 4):
            utterances = [
                (f"Word {speaker}{chapter}{n}", rng.uniform(-0.5, 0.5, 8000)) for n in range(5)
            ]
            write_librispeech(folder, utterances, speaker=speaker, chapter=chapter)
    return folder


def parts(folder):
    found = {}
    for part in ("fit", "held"):
        utterances = read_corpus(folder / f"train-{part}", normalize=str).utterances
        found[part] = {x.utterance_id: (x.transcript, read(x.path)) for x in utterances}
    return found


def test_every_utterance_is_in_one_part_with_its_sound_and_words(split, tmp_path, monkeypatch):
    monkeypatch.chdir(split.parent)
    main(["--split_dir=train", f"--output_dir={tmp_path}/new", "--held_out=7"])
    found = parts(tmp_path / "new")
    assert (len(found["fit"]), len(found["held"])) == (13, 7)
    whole = {x.utterance_id: x for x in read_corpus(split, normalize=str).utterances}
    assert sorted([*found["fit"], *found["held"]]) == sorted(whole)
    for name, (transcript, sound) in (found["fit"] | found["held"]).items():
        assert transcript == whole[name].transcript
        np.testing.assert_array_equal(sound, read(whole[name].path))
    speakers = {name.split("-")[0] for name in found["held"]}
    assert speakers == {"1", "2"}, "drawn from all"


def test_the_seed_decides(split, tmp_path):
    held = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        main([f"--split_dir={split}", f"--output_dir={folder}", "--held_out=7", f"--seed={seed}"])
        held.append(set(parts(folder)["held"]))
    assert held[0] == held[1] != held[2]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--held_out=0"], "--held_out from 1 to 19"),
        (["--held_out=20"], "--held_out from 1 to 19"),
        (["more"], "--split_dir DIR --output_dir DIR"),
        (["--output_dir="], "a value for --output_dir"),
    ],
)
def test_bad_flags_are_one_line(split, tmp_path, flags, message):
    with refused(message):
        main(joined([f"--split_dir={split}", f"--output_dir={tmp_path}/new"], flags))
    assert not (tmp_path / "new").exists()


def test_an_earlier_split_is_left_alone(split, tmp_path):
    arguments = [f"--split_dir={split}", f"--output_dir={tmp_path}", "--held_out=3"]
    main(arguments)
    with refused("Received: one from an earlier run"):
        main([*arguments, "--seed=5"])
    assert len(parts(tmp_path)["held"]) == 3


def test_tables_are_refused(split, tmp_path):
    path = next(split.rglob("*.flac"))
    for number in range(2):
        path.with_name(f"{number}.flac").symlink_to(path)
    rows = "".join(f"{path.parent}/{number}.flac\t0.5\tone\n" for number in range(2))
    (tmp_path / "t.tsv").write_text(rows)
    with refused("laid out like LibriSpeech"):
        main([f"--split_dir={tmp_path}/t.tsv", f"--output_dir={tmp_path}/new", "--held_out=1"])
