"""Every tree, table and config of ../shared/data/bad_inputs, as its MANIFEST.md says.

What these files show is also tested on data that the tests make: tables in speech/test_tables.py,
trees in speech/test_corpus.py and vision/test_input_pipeline.py, lists of labels in
vision/test_postprocess.py, configs in config/test_loader.py, vocabularies in
conformer/test_tokenizer.py.
"""

import re

import numpy as np
import pytest

import conformer
import vision
import wav2vec2
from conformer.tokenizer import load_tokenizer
from tests.support.errors import refused
from tools.speech import audio
from tools.speech.corpus import read_corpus
from vision.annotations import read_annotations
from vision.classes import Classes, read_labelled
from vision.config import PreprocessingConfig
from vision.input_pipeline import Batches, read_image_folder

# What is left of each corpus: transcripts, or the error; and the reasons of what is left out.
TREES = {
    "missing_audio": (["SIX"], {"missing_audio"}),
    "empty_transcript": (["SIX"], {"empty_transcript"}),
    "empty_trans_file": ("no utterances found", set()),
    "no_trans_file": ("no utterances found", set()),
    "untranscribed_audio": (["SIX"], {"untranscribed_audio"}),
    "non_utf8_transcript": (["SIX"], {"not_text"}),
    "utf16_transcript": ("no usable utterances", set()),
    "bom_crlf": (["SIX", "SEVEN THREE"], set()),
    "duplicate_ids": (["SEVEN THREE"], {"duplicate_id"}),
    "unknown_characters": (["SIX, 42 \u20ac!", "SEVEN THREE"], set()),
    "tab_and_blank_lines": (["SIX", "SEVEN THREE"], set()),
    "id_mismatch": (["SEVEN THREE"], {"bad_id"}),
    "path_traversal_id": (["SEVEN THREE"], {"bad_id"}),
    "transcript_longer_than_audio": ("no usable utterances", set()),
    # The header of the damaged file is fine: reading finds it.
    "one_bad_of_three": (["SIX", "SEVEN THREE", "SEVEN ONE"], set()),
    "all_bad": ("no usable utterances", set()),
    "very_long_line": (["SEVEN THREE"], {"long_line"}),
}
TABLES = {
    "good": ["SIX", "SEVEN THREE"],
    "empty": "no utterances found in",
    "header_only": "no utterances found in",
    "no_header": ["SIX", "SEVEN THREE"],
    "wrong_header": "wrong_header.tsv:1",
    "missing_column": "missing_column.tsv:2",
    "ragged": ["SIX"],
    "comma_instead_of_tab": "comma_instead_of_tab.tsv:1",
    "bad_duration": "bad_duration.tsv:2",
    "wrong_duration": ["SIX", "SEVEN THREE"],
    "path_not_found": "/nonexistent/dir/utt.flac",
    "path_traversal": "passwd",
    "unbalanced_quote": ['"SIX', "SEVEN THREE"],
    "non_utf8": "non_utf8.tsv:2",
    "nul_bytes": "nul_bytes.tsv:2",
    "bom_crlf": ["SIX"],
}
LABELS = {
    "val_label_good": {"a": 0, "b": 999},
    "val_label_bad_values": "val_label_bad_values.txt, line 1",
    "val_label_blank_crlf": {"a": 0, "b": 5},
    "val_label_space_in_name": {"my photo": 7},
}
VOCABULARIES = ("vocab_empty", "vocab_duplicates")
CONFIGS = {"config_not_yaml": "line 2", "config_empty": "the sections data, "}
IMAGE_TREES = (
    "one_corrupt", "empty_class", "no_images", "junk_files", "flat", "classes_differ",
    "upper_case_suffix",
)  # fmt: skip


@pytest.fixture(scope="module")
def bad_inputs(shared_data):
    return shared_data / "bad_inputs"


@pytest.fixture(scope="module")
def entries(bad_inputs):
    """The entries of each section of the MANIFEST."""
    sections = re.split(r"^## (\w+)/.*$", (bad_inputs / "MANIFEST.md").read_text(), flags=re.M)
    found = zip(sections[1::2], sections[2::2], strict=True)
    return {name: re.findall(r"^\| `(.*?)/?` \|", text, flags=re.M) for name, text in found}


def test_every_entry_of_the_manifest_has_a_test(entries, bad_inputs):
    files = [f"{name}.tsv" for name in TABLES] + ["junk.csv"]
    files += [f"{name}.txt" for name in (*LABELS, *VOCABULARIES)]
    files += [f"{name}.yml" for name in CONFIGS]
    for section, tested in (
        ("librispeech_trees", TREES),
        ("image_trees", IMAGE_TREES),
        ("tables", files),
    ):
        assert sorted(entries[section]) == sorted(tested)
        assert {x.name for x in (bad_inputs / section).iterdir()} == {*tested}


@pytest.mark.parametrize("name", TREES)
def test_corpora(bad_inputs, name):
    expected, reasons = TREES[name]
    folder = bad_inputs / "librispeech_trees" / name
    if isinstance(expected, str):
        with refused(match=rf"{expected}.*{folder}"):
            read_corpus(folder, progress=False)
        return
    manifest = read_corpus(folder, progress=False)
    assert [utterance.transcript for utterance in manifest.utterances] == expected
    # A line that cannot be used leaves a sound without a transcript.
    assert reasons <= set(manifest.skipped) <= reasons | {"untranscribed_audio"}
    assert all(str(folder) in line for lines in manifest.skipped.values() for line in lines)


def test_a_damaged_file_of_a_corpus_is_found_by_reading(bad_inputs):
    manifest = read_corpus(bad_inputs / "librispeech_trees" / "one_bad_of_three", progress=False)
    bad = 0
    for utterance in manifest.utterances:
        try:
            samples = audio.read(utterance.path)
            assert len(samples) and np.isfinite(samples).all()
        except audio.AudioError as error:
            bad += 1
            assert utterance.path in str(error)
    assert bad == 1


@pytest.mark.parametrize("name", TABLES)
def test_tables(bad_inputs, name):
    path, expected = bad_inputs / "tables" / f"{name}.tsv", TABLES[name]
    if isinstance(expected, str):
        with refused(expected) as caught:
            read_corpus(path, progress=False)
        assert "root:" not in str(caught.value), "the content of a file outside"
        return
    manifest = read_corpus(path, progress=False)
    assert [utterance.transcript for utterance in manifest.utterances] == expected
    assert sum(utterance.num_samples for utterance in manifest.utterances) < 16000 * 60


def test_random_bytes(bad_inputs):
    with refused("junk.csv"):
        read_corpus(bad_inputs / "tables" / "junk.csv", progress=False)


@pytest.mark.parametrize("name", LABELS)
def test_lists_of_labels(bad_inputs, name):
    path, expected = bad_inputs / "tables" / f"{name}.txt", LABELS[name]
    if isinstance(expected, str):
        with refused(expected):
            read_annotations(path)
    else:
        assert read_annotations(path) == expected


@pytest.mark.parametrize("name", VOCABULARIES)
def test_vocabularies(bad_inputs, name):
    path = bad_inputs / "tables" / f"{name}.txt"
    with refused(f"a vocabulary in {path}"):
        load_tokenizer(path)


@pytest.mark.parametrize("family", [conformer, vision, wav2vec2], ids=lambda x: x.__name__)
@pytest.mark.parametrize("name", CONFIGS)
def test_configs(bad_inputs, family, name):
    path = bad_inputs / "tables" / f"{name}.yml"
    with refused(match=rf"{path}.*"):
        family.load_config(path, {})
    if family is not vision:  # whose sections have another order
        with refused(CONFIGS[name]):
            family.load_config(path, {})


@pytest.mark.parametrize(("name", "message"), [
    ("flat", "class folders in"), ("no_images", "images in the class folders of"),
])  # fmt: skip
def test_image_trees_without_images(bad_inputs, name, message):
    folder = bad_inputs / "image_trees" / name / "train"
    with refused(f"{message} {folder}"):
        read_image_folder(folder)


@pytest.mark.parametrize("name", ["junk_files", "upper_case_suffix"])
def test_image_trees_that_are_fine(bad_inputs, name):
    assert read_image_folder(bad_inputs / "image_trees" / name / "train").labels == [0, 1]


def test_classes_keep_their_numbers(bad_inputs):
    trees = bad_inputs / "image_trees"
    found = read_image_folder(trees / "empty_class" / "train")
    assert found.labels == [0]
    assert found.remarks == [(str(trees / "empty_class" / "train" / "paper"), "no images")]
    training = read_image_folder(trees / "classes_differ" / "train")
    classes = Classes(list(training.classes.values()))
    found = read_labelled(trees / "classes_differ" / "val", classes, 2)
    assert found.labels == [1]
    assert [folder.rsplit("/", 1)[1] for folder, _ in found.remarks] == ["wood"]


def test_a_damaged_image_is_left_out_and_named(bad_inputs):
    found = read_image_folder(bad_inputs / "image_trees" / "one_corrupt" / "train")
    batches = Batches(found.paths, PreprocessingConfig(), 4)
    assert [len(indices) for indices, _ in batches] == [4, 1]
    assert len(batches.reasons) == 1
