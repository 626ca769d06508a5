"""The scripts that start vision training and evaluation, on programs that tell of their calls."""

import shutil

import pytest

TELL = '#!/bin/sh\necho "devices=$CUDA_VISIBLE_DEVICES" "$(basename "$0")" "$@"\n'


@pytest.fixture(scope="module")
def clone(project, tmp_path_factory):
    """The scripts alone, without an environment that would come before the made-up programs."""
    root = tmp_path_factory.mktemp("clone")
    (root / "run_scripts").mkdir()
    (root / "bin").mkdir()
    shutil.copy(project / "env.sh", root)
    for pattern in ("*train*.sh", "run_eval_gpu.sh", "help.sh"):
        for path in project.glob(f"run_scripts/{pattern}"):
            shutil.copy(path, root / "run_scripts")
    for name in ("python", "horovodrun"):
        (root / "bin" / name).write_text(TELL)
        (root / "bin" / name).chmod(0o755)
    return root


@pytest.fixture
def start(clone, run_script):
    def run(script, *arguments, gpus=0):
        smi = clone / "bin" / "nvidia-smi"
        smi.write_text("#!/bin/sh\n" + "echo GPU\n" * gpus)
        smi.chmod(0o755)
        return run_script(clone, script, arguments, CUDA_VISIBLE_DEVICES="")

    return run


@pytest.mark.parametrize("script", ["run_standalone_train_gpu.sh", "run_standalone_train.sh"])
def test_one_process(start, clone, script):
    program = f"python {clone}/vision/train.py --config a.yml"
    assert start(script, "a.yml").stdout == f"devices= {program}\n"
    found = start(
        script, "a.yml", "--device", "2", "--checkpoint", "c d", "--extra", "--amp_level", "O1"
    )
    assert found.stdout == f"devices=2 {program} --checkpoint c d --amp_level O1\n"


@pytest.mark.parametrize("script", ["run_distribute_train_gpu.sh", "run_distribute_train.sh"])
@pytest.mark.parametrize(
    ("arguments", "number", "devices"),
    [
        (["--num_devices", "4", "--device_ids", "0,1,2,3"], 4, "0,1,2,3"),
        (["--device_ids", "5,7"], 2, "5,7"),
        (["--num_devices", "8"], 8, ""),
        ([], 3, ""),
    ],
)
def test_several_processes(start, clone, script, arguments, number, devices):
    found = start(script, *arguments, "a.yml", "--extra", "--batch_size", "48", gpus=3)
    program = f"python {clone}/vision/train.py --config a.yml --batch_size 48"
    assert found.stdout == f"devices={devices} horovodrun -np {number} {program}\n"


def test_evaluation_leaves_the_data_to_the_config(start):
    given = ["a.yml", "--device", "1", "--checkpoint", "c d", "--extra", "--val_dir", "v"]
    told = "-m vision.eval --config a.yml --visible_devices 1 --checkpoint c d --val_dir v\n"
    assert start("run_eval_gpu.sh", *given).stdout.endswith(told)
    assert start("run_eval_gpu.sh", "a.yml").stdout.endswith("-m vision.eval --config a.yml\n")


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("run_standalone_train_gpu.sh", [], "Expected a CONFIG"),
        ("run_standalone_train_gpu.sh", ["a", "b"], "a and b"),
        ("run_standalone_train_gpu.sh", ["a", "--num_devices", "2"], "--num_devices"),
        ("run_standalone_train_gpu.sh", ["a", "--device"], "a value after --device"),
        ("run_standalone_train_gpu.sh", ["a", "--device", "x"], "Received: x"),
        ("run_distribute_train_gpu.sh", ["a"], "--num_devices, since no GPU was found"),
        ("run_distribute_train_gpu.sh", ["a", "--num_devices", "0"], "Received: 0"),
        (
            "run_distribute_train_gpu.sh",
            ["a", "--num_devices", "2", "--device_ids", "0"],
            "Expected 2 device_ids. Received: 0",
        ),
        ("run_distribute_train_gpu.sh", ["a", "--batch_size", "4"], "after --extra"),
        ("train_vision.sh", ["a"], "distribute|standalone"),
        ("run_eval_gpu.sh", [], "usage"),
        ("run_eval_gpu.sh", ["a", "b"], "usage"),
    ],
)
def test_bad_arguments_are_told(start, script, arguments, message):
    found = start(script, *arguments)
    assert found.returncode == 2
    assert found.stdout == ""
    assert message in found.stderr
