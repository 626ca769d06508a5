"""The scripts that start speech training, on programs that tell of their calls."""

import shutil

import pytest

RECIPES = {
    "Conformer_Float32_50E_1GPU.sh": (1, "--mxp=False"),
    "Horovod_Conformer_Float32_50E_8GPUs.sh": (8, "--mxp=False"),
    "Horovod_Conformer_AMP_50E_8GPUs.sh": (8, "--mxp=True"),
}
WHOLE = "train-clean-100"


@pytest.fixture(scope="module")
def clone(make_clone, tell, project):
    root = make_clone("*.sh", python=tell, horovodrun=tell)
    shutil.copytree(project / "run_scripts" / "ci", root / "run_scripts" / "ci")
    for family in ("conformer", "wav2vec2"):
        (root / family).mkdir()
        (root / family / "train.py").touch()
    return root


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "corpus" / WHOLE).mkdir(parents=True)
    return tmp_path / "corpus"


def command(clone, corpus, config="configs/conformer/conformer_s_100h.yml"):
    config = config if config.startswith("/") else f"{clone}/{config}"
    return [f"{clone}/conformer/train.py", "--config", config, "--data_dir", str(corpus)]


@pytest.mark.parametrize("script", RECIPES)
def test_a_recipe_has_its_precision_and_its_processes(run_script, clone, told, corpus, script):
    number, precision = RECIPES[script]
    arguments = [*command(clone, corpus), precision, "--set", "a b=1"]
    launch = ["python"] if number == 1 else ["horovodrun", "-np", str(number), "python"]
    found = run_script(clone, script, ["--set", "a b=1"], DATA_DIR=str(corpus))
    assert (found.returncode, found.stdout) == (0, told(*launch, *arguments))


@pytest.mark.parametrize("script", RECIPES)
def test_np_changes_the_number_of_processes(run_script, clone, told, corpus, script):
    for number, launch in (("1", ["python"]), ("3", ["horovodrun", "-np", "3", "python"])):
        found = run_script(clone, script, [], DATA_DIR=str(corpus), NP=number)
        assert found.stdout == told(*launch, *command(clone, corpus), RECIPES[script][1])


@pytest.mark.parametrize(
    ("name", "number", "precision"),
    [("1GPU", 1, "False"), ("Horovod_Float32", 4, "False"), ("Horovod_AMP", 4, "True")],
)
def test_ten_steps_test_an_installation(run_script, clone, told, corpus, name, number, precision):
    for variables, steps in (({}, "10"), ({"STEPS": "3"}, "3")):
        found = run_script(
            clone, f"ci/Conformer_Train_{name}.sh", ["--x"], DATA_DIR=str(corpus), **variables
        )
        launch = ["python"] if number == 1 else ["horovodrun", "-np", str(number), "python"]
        arguments = [*command(clone, corpus), "--steps", steps, f"--mxp={precision}", "--x"]
        assert found.stdout == told(*launch, *arguments)


def test_variables_become_flags(run_script, clone, told, corpus):
    variables = {"STEPS": "7", "OUTPUT_DIR": "/o o", "CONFIG": "/c.yml", "NP": "1"}
    found = run_script(clone, "train_with_horovod.sh", [], DATA_DIR=str(corpus), **variables)
    more = ["--steps", "7", "--output_dir", "/o o"]
    assert found.stdout == told("python", *command(clone, corpus, "/c.yml"), *more)


def test_a_missing_default_data_set_is_one_line_before_any_process(run_script, clone):
    found = run_script(clone, "Horovod_Conformer_Float32_50E_8GPUs.sh", [])
    assert (found.returncode, found.stdout) == (2, "")
    line = found.stderr.splitlines()[-1]  # behind that of env.sh
    assert line.startswith(f"Error: Expected a data set in DATA_DIR. Received: {clone}/data/")
    assert line.endswith(" Set the variable DATA_DIR, or change its default in env.sh.")
    for flags in (["--data_dir=/own"], ["--resume", "--output_dir=/o"]):
        found = run_script(clone, "train_with_horovod.sh", flags)
        assert found.returncode == 0 and found.stdout.startswith("[horovodrun]")


@pytest.mark.parametrize(("name", "value"), [("NP", "two"), ("NP", "0"), ("STEPS", "-1")])
def test_numbers_are_checked_before_anything_starts(run_script, clone, corpus, name, value):
    start = {"DATA_DIR": str(corpus), name: value}
    found = run_script(clone, "train_with_horovod.sh", [], **start)
    assert (found.returncode, found.stdout) == (2, "")
    message = found.stderr.splitlines()[-1]  # behind that of env.sh
    assert message.startswith(f"Error: Expected {name}, ")
    assert message.endswith(f" Received: {value}. Correct the number.")


def test_a_corpus_of_digits_is_trained_on_in_characters(run_script, clone, told, tmp_path):
    (tmp_path / "train-clean").mkdir()
    settings = ["--set", "data.train_splits=train-clean", "--set", "tokenizer.kind=characters"]
    start = {"DATA_DIR": str(tmp_path), "NP": "1"}
    found = run_script(clone, "train_with_horovod.sh", [], **start)
    assert found.stdout == told("python", *command(clone, tmp_path), *settings)
    assert "no train-clean-100" in found.stderr
    # A config of one's own names its splits; and the whole corpus goes first.
    found = run_script(clone, "train_with_horovod.sh", [], CONFIG="/c.yml", **start)
    assert found.stdout == told("python", *command(clone, tmp_path, "/c.yml"))
    (tmp_path / WHOLE).mkdir()
    found = run_script(clone, "train_with_horovod.sh", [], **start)
    assert found.stdout == told("python", *command(clone, tmp_path))


def test_a_resumed_run_keeps_its_config_and_its_corpus(run_script, clone, told, corpus):
    start = {"DATA_DIR": str(corpus), "NP": "1", "OUTPUT_DIR": "/o"}
    program = ["python", f"{clone}/conformer/train.py"]
    for flag in ("--resume", "--resume=true"):
        found = run_script(clone, "train_with_horovod.sh", [flag], **start)
        assert found.stdout == told(*program, "--output_dir", "/o", flag)
    found = run_script(clone, "train_with_horovod.sh", ["--resume"], CONFIG="/c.yml", **start)
    assert found.stdout == told(*program, "--config", "/c.yml", "--output_dir", "/o", "--resume")


def test_another_program_wants_a_config(run_script, clone, told, corpus):
    start = {"DATA_DIR": str(corpus), "PROGRAM": "wav2vec2/train.py"}
    found = run_script(clone, "train_with_horovod.sh", [], **start)
    assert found.returncode != 0
    assert found.stdout == ""
    assert "CONFIG" in found.stderr
    found = run_script(clone, "train_with_horovod.sh", ["--x"], CONFIG="/c.yml", **start)
    program = [f"{clone}/wav2vec2/train.py", "--config", "/c.yml", "--data_dir", str(corpus)]
    assert found.stdout == told("horovodrun", "-np", "8", "python", *program, "--x")


def test_the_exit_code_is_that_of_the_program(run_script, make_clone, corpus):
    ending = "#!/bin/sh\nexit {}\n"
    clone = make_clone("*.sh", python=ending.format(3), horovodrun=ending.format(4))
    (clone / "conformer").mkdir()
    (clone / "conformer" / "train.py").touch()
    for number, code in (("1", 3), ("2", 4)):
        for script in RECIPES:
            found = run_script(clone, script, [], DATA_DIR=str(corpus), NP=number)
            assert found.returncode == code


def test_flags_take_precedence_over_variables(run_script, clone, told, corpus):
    variables = {"STEPS": "7", "OUTPUT_DIR": "/o", "CONFIG": "/c.yml", "DATA_DIR": str(corpus)}
    given = ["--steps=3", "--output_dir", "/p", "--config=/d.yml", "--data_dir=/e", "--nomxp"]
    found = run_script(clone, "Horovod_Conformer_AMP_50E_8GPUs.sh", given, **variables)
    program = ("horovodrun", "-np", "8", "python", f"{clone}/conformer/train.py")
    assert found.stdout == told(*program, *given)


def test_a_program_that_is_not_there_is_one_line(run_script, clone, corpus):
    start = {"DATA_DIR": str(corpus), "PROGRAM": "conformer/trian.py", "CONFIG": "/c.yml"}
    found = run_script(clone, "train_with_horovod.sh", [], **start)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.splitlines()[-1].endswith("Received: conformer/trian.py. Correct PROGRAM.")
