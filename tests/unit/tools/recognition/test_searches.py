"""Searches of exports: sessions refuse one that is not named; options have the flags' names."""

import importlib
import inspect
import json
import re

import pytest

import conformer
import wav2vec2
from tests.support.errors import refused
from tools.recognition.searches import check_search
from tools.recognition.session import SpeechSession

BOTH = {"listen": {"kinds": ["greedy", "beam"]}, "serve_bytes": {"kind": "greedy", "head": "ctc"}}


@pytest.mark.parametrize(
    "pipeline",
    [{}, {"searches": BOTH}, {"searches": {"serving_default": {"kind": "greedy"}}}],
)
def test_searches_that_an_export_names_and_exports_that_name_none_are_accepted(pipeline):
    for beam_width in (0, 8):
        check_search(pipeline, beam_width)


@pytest.mark.parametrize(
    ("kinds", "beam_width", "message"),
    [
        (["greedy"], 8, r"search of this export \(greedy\). Received: beam. Leave --beam_width"),
        (["beam"], 0, r"search of this export \(beam\). Received: greedy. Give --beam_width"),
    ],
)
def test_other_searches_are_refused_with_the_names_of_those_present(kinds, beam_width, message):
    with refused(match=message):
        check_search({"searches": BOTH | {"listen": {"kinds": kinds}}}, beam_width)


@pytest.mark.parametrize("family", [conformer, wav2vec2])
def test_sessions_check_the_search_before_they_load_the_model(family, tmp_path):
    described = {
        "family": family.__name__,
        "searches": {"serving_default": {"kinds": ["greedy"], "head": "ctc"}},
    }
    (tmp_path / "assets").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"no model")
    (tmp_path / "assets" / "pipeline.json").write_text(json.dumps(described))
    with refused("search of this export (greedy). Received: beam"):
        family.load(tmp_path, beam_width=4)


@pytest.mark.parametrize("family", [conformer, wav2vec2])
def test_options_of_the_search_have_the_names_of_the_flags_in_python(family):
    names = "beam_width n_best norm_score hotwords lm_path lm_weight word_bonus".split()
    program = importlib.import_module(f"{family.__name__}.infer").command_line().help_text()
    assert set(names) <= set(inspect.signature(family.load).parameters)
    assert {"timestamps", "channels"} <= set(inspect.signature(SpeechSession.transcribe).parameters)
    for name in (*names, "timestamps", "channels"):
        assert re.search(rf"^  --(\[no\])?{name}\b", program, re.MULTILINE), name
