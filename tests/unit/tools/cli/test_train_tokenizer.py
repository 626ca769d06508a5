"""The program that makes a vocabulary of a corpus, through `main`."""

from pathlib import Path

import numpy as np
import pytest

from conformer.tokenizer import load_tokenizer
from tests.support.arguments import joined
from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.cli import train_tokenizer

TEXTS = {"train": ["ONE TWO THREE", "TWO TWO", "THREE FOUR"], "dev": ["ZERO"]}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for split, texts in TEXTS.items():
        write_librispeech(root / split, [(text, rng.uniform(-0.1, 0.1, 8000)) for text in texts])
    return root


def test_characters_of_one_split(data_dir, tmp_path):
    output = tmp_path / "vocabulary.json"
    flags = [f"--data_dir={data_dir}", f"--output={output}", "--kind=characters"]
    assert train_tokenizer.main([*flags, "--splits=train"]) == 0
    assert load_tokenizer(output).pieces[2:] == tuple(" EFHNORTUW")
    assert train_tokenizer.main([*flags, "--splits", "train,dev"]) == 0
    assert load_tokenizer(output).pieces[2:] == tuple(" EFHNORTUWZ")


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_sentencepiece_of_one_split(data_dir, tmp_path, model_type, capsys):
    output = tmp_path / "vocabulary.json"
    flags = [f"--output={output}", "--vocabulary_size=13", f"--model_type={model_type}"]
    assert train_tokenizer.main([f"--data_dir={data_dir / 'train'}", *flags]) == 0
    tokenizer = load_tokenizer(output)
    assert (tokenizer.kind, tokenizer.vocabulary_size) == ("sentencepiece", 13)
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in TEXTS["train"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "13 symbols" in captured.err


def test_a_table_is_not_replaced_by_its_vocabulary(tmp_path):
    table = tmp_path / "table.tsv"
    table.write_text("PATH\tDURATION\tTRANSCRIPT\n")
    with refused("a result file that is no input"):
        train_tokenizer.main([f"--data_dir={table}", f"--output={table}"])
    assert table.read_text() == "PATH\tDURATION\tTRANSCRIPT\n"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--splits=tarin"], "tarin"),
        (["--vocabulary_size=9000"], "at most"),
        (["--kind=words"], "kind"),
        (["--output="], "output"),
        (["--output=."], "folder"),
        (["--data_dir=/nowhere/at/all"], "nowhere"),
        (["more"], "more"),
    ],
)
def test_bad_input(data_dir, tmp_path, flags, named):
    output = tmp_path / "vocabulary.json"
    with refused(match=named):
        given = [f"--data_dir={data_dir}", f"--output={output}"]
        train_tokenizer.main(joined(given, flags))
    assert not output.exists()


def test_the_types_of_model_differ(data_dir, tmp_path, monkeypatch):
    asked = []

    def train(transcripts, *settings):
        asked.append((sorted(transcripts), *settings))
        return train_tokenizer.CharacterTokenizer.from_transcripts(transcripts)

    monkeypatch.setattr(train_tokenizer.SentencePieceTokenizer, "train", train)
    texts = sorted(TEXTS["train"] + TEXTS["dev"])
    for flags, settings in (
        ([], (1000, train_tokenizer.MODEL_TYPES[0])),
        (["--model_type=bpe", "--vocabulary_size=77"], (77, "bpe")),
    ):
        output = f"--output={tmp_path / 'vocabulary.json'}"
        assert train_tokenizer.main([f"--data_dir={data_dir}", output, *flags]) == 0
        assert asked.pop() == (texts, *settings)
