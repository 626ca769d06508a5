"""The scripts around vision's programs for evaluation and inference: what they call, where."""

import pytest

SCRIPTS = {
    "run_infer_gpu.sh": ("vision.infer",),
    "run_infer_onnx.sh": ("vision.infer_onnx", "--onnx_path", "conformer_tiny.onnx"),
    "run_eval_onnx.sh": ("vision.eval_onnx", "--onnx_path", "conformer_tiny.onnx"),
}


@pytest.fixture(scope="module")
def clone(make_clone, tell):
    return make_clone("run_*.sh", python=tell)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_path_of_the_arguments_replaces_the_default(run_script, clone, told, script):
    given = ["/my images", "--onnx_path", "x.onnx", "--output", "o.json"]
    found = run_script(clone, script, given)
    assert found.stdout == told("python", "-m", SCRIPTS[script][0], *given)
    assert found.returncode == 0
    found = run_script(clone, script, [given[0], "--output=o", "--onnx"])
    assert found.stdout == told("python", "-m", *SCRIPTS[script], given[0], "--output=o", "--onnx")


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_program_is_there_and_its_exit_code_comes_back(run_script, make_clone, project, script):
    assert (project / f"{SCRIPTS[script][0].replace('.', '/')}.py").is_file()
    clone = make_clone("run_*.sh", python="#!/bin/sh\nexit 5\n")
    assert run_script(clone, script, []).returncode == 5
