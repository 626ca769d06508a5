"""The files for deployment: they can be parsed, and what they name exists."""

import ast
import configparser
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import conformer
import vision
from tools.cli import serve
from tools.serving import model_config, publishing

SERVER_FILES = {
    f"/models/{name}"
    for name in (
        model_config.MODELS_CONFIG,
        publishing.BATCHING_CONFIG,
        publishing.MONITORING_CONFIG,
    )
}
# Flags of tensorflow_model_server 2.16, from its `main.cc`.
TENSORFLOW_SERVING = {
    "model_config_file",
    "enable_batching",
    "batching_parameters_file",
    "monitoring_config_file",
}


@pytest.fixture(scope="module")
def folder(project):
    return project / "configs" / "serving"


@pytest.fixture(scope="module")
def manifests(folder):
    """The Kubernetes objects of each file by kind."""
    return {
        path.stem: {one["kind"]: one for one in yaml.safe_load_all(path.read_text())}
        for path in folder.glob("kubernetes*.yml")
    }


@pytest.fixture(scope="module")
def dockerfile(project):
    """The instructions of the target `serving`, as pairs of a word and the rest."""
    text = (project / "DOCKERFILE").read_text().replace("\\\n", "")
    stage = text.split(" AS serving\n")[1].split("\nFROM ")[0]
    lines = (line for line in stage.splitlines() if line and not line.startswith("#"))
    return [tuple(line.split(" ", 1)) for line in lines]


def accepted(arguments):
    """Whether the program takes the flags."""
    values, rest = serve.command_line().parse(arguments)
    return values if not rest else None


def flags_of(arguments):
    return {word[2:].partition("=")[0] for word in arguments}


def test_compose(folder, project):
    services = yaml.safe_load((folder / "compose.yml").read_text())["services"]
    assert services.keys() == {"built_in", "tensorflow_serving"}
    build = services["built_in"]["build"]
    root = (folder / build["context"]).resolve()
    assert root == project.resolve() and (root / build["dockerfile"]).is_file()
    assert f" AS {build['target']}\n" in (root / build["dockerfile"]).read_text()
    other = services["tensorflow_serving"]
    assert flags_of(other["command"]) == TENSORFLOW_SERVING
    assert {word.partition("=")[2] for word in other["command"]} - {""} == SERVER_FILES
    for service in services.values():
        assert "8501:8501" in service["ports"]
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}


def test_kubernetes(manifests):
    assert manifests.keys() == {"kubernetes", "kubernetes_tensorflow_serving"}
    for objects in manifests.values():
        template = objects["Deployment"]["spec"]["template"]
        (container,) = template["spec"]["containers"]
        assert container["resources"].keys() == {"requests", "limits"}
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for name in ("livenessProbe", "readinessProbe", "startupProbe"):
            probe = container[name]
            assert probe.get("httpGet", probe.get("tcpSocket"))["port"] in ports
        service = objects["Service"]["spec"]
        labels = template["metadata"]["labels"]
        assert service["selector"] == labels
        assert objects["Deployment"]["spec"]["selector"]["matchLabels"] == labels
        assert {x["targetPort"] for x in service["ports"]} <= ports.keys()
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        scraped = template["metadata"].get("annotations", {}).get("prometheus.io/port")
        assert scraped in (None, str(ports["http"]))


def test_flags_and_addresses_in_kubernetes_exist(manifests, project):
    template = manifests["kubernetes"]["Deployment"]["spec"]["template"]["spec"]
    (container,) = template["containers"]
    values = accepted(container["args"])
    assert values.host == "0.0.0.0" and values.api_key_file
    assert template["terminationGracePeriodSeconds"] > values.drain_seconds
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {
        values.model_root,
        str(Path(values.api_key_file).parent),
    }
    source = (project / "tools/serving/app.py").read_text()
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        assert f'"{container[name]["httpGet"]["path"]}"' in source
    other = manifests["kubernetes_tensorflow_serving"]["Deployment"]["spec"]["template"]
    arguments = other["spec"]["containers"][0]["args"]
    assert flags_of(arguments) == TENSORFLOW_SERVING


def test_systemd(folder, project):
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(folder / "conformer-zoo.service")
    service = unit["Service"]
    command = shlex.split(service["ExecStart"])
    assert (project / command[2]).is_file()
    values = accepted(command[3:])
    assert int(service["TimeoutStopSec"]) > values.drain_seconds
    name, _, value = service["Environment"].partition("=")
    assert value.startswith(service["WorkingDirectory"])
    assert f"${{{name}:" in (project / command[2]).read_text()


def test_the_image_has_the_flags_and_files_that_it_names(dockerfile, project):
    instructions = dict(dockerfile)
    assert ast.literal_eval(instructions["ENTRYPOINT"])[-1] == "tools.cli.serve"
    values = accepted(ast.literal_eval(instructions["CMD"]))
    assert values.api_key_file and values.rest_api_port == int(instructions["EXPOSE"])
    for word, rest in dockerfile:
        if word == "COPY":
            for name in rest.split()[:-1]:
                assert (project / name).exists()
    assert "horovod" not in str(dockerfile).lower() and "setup.sh" not in str(dockerfile)
    assert instructions["USER"] != "root"


def test_the_image_installs_what_the_server_needs(dockerfile, project):
    (command,) = (rest for word, rest in dockerfile if word == "RUN" and "tomllib" in rest)
    program = shlex.split(command)[2]
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=project, capture_output=True, text=True, check=True
    )
    names = [line.partition("==")[0] for line in found.stdout.splitlines()]
    document = tomllib.loads((project / "pyproject.toml").read_text())
    assert names == document["tool"]["conformer-zoo"]["serving"]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in found.stdout.splitlines())
    assert not {"tensorflow", "keras", "horovod", "librosa", "nncf", "tf2onnx"} & set(names)


WITHOUT_OTHERS = """
import importlib.metadata, sys
from importlib.machinery import PathFinder
allowed, models = set(sys.argv[1].split(",")), sys.argv[2:]
owners = importlib.metadata.packages_distributions()

class Finder:
    find_distributions = staticmethod(PathFinder.find_distributions)

    def find_spec(self, name, path=None, target=None):
        names = {x.lower().replace("_", "-") for x in owners.get(name.partition(".")[0], ())}
        if not names or names & allowed:
            return PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder()
from tools import families
from tools.cli import serve
from tools.inference.options import RunnerOptions
from tools.serving import app, http_server, workers
from tools.serving.batching import BatchingOptions
from tools.serving.metrics import Metrics
from tools.serving.repository import Repository
from tools.serving.served_model import ServedModel

for folder, file in (models[:2], models[2:]):
    session = families.open_session(folder, RunnerOptions(batch_size=16))
    model = ServedModel("model", 1, session, BatchingOptions())
    read, size = model.kind.read(open(file, "rb").read())
    items = [read]
    if model.kind.task == "transcribe":
        items.append(read._replace(hot_words=("SEVEN",)))
    for item in items:
        (found,) = model.submit_files([(item, size)])
        print(model.kind.task, found.result(60))
    model.close()
"""


def test_the_server_runs_with_the_packages_of_the_image(project):
    document = tomllib.loads((project / "pyproject.toml").read_text())
    names = document["tool"]["conformer-zoo"]["serving"]
    for family in (conformer, vision):  # convert once, as for the tests of the server
        family.load(batch_size=16).close()
    models = ("conformer/pretrained/digits", "conformer/pretrained/digits/sample.flac")
    models += ("vision/pretrained/photos", "vision/pretrained/photos/curve.png")
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_OTHERS, ",".join([*names, "conformer-zoo"]), *models],
        cwd=project,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    texts = [line for line in found.stdout.splitlines() if "ONE SEVEN NINE ZERO" in line]
    assert len(texts) == 2 and "classify" in found.stdout


def test_client_examples_name_what_exists(project):
    text = (project / "docs" / "serve.md").read_text()
    for path in re.findall(r"file=@(\S+)", text):
        assert (project / path).is_file()
    for path in re.findall(r"configs/serving/[\w.-]+", text):
        assert (project / path).is_file()


@pytest.mark.parametrize("runs", [True, False])
def test_serve_sh_starts_tensorflow_serving_where_docker_runs(project, tmp_path, runs):
    (tmp_path / "models.config").touch()
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\n[ "$1" != info ] || exit {int(not runs)}\necho "$@"\n')
    docker.chmod(0o755)
    paths = f"{docker.parent}:/usr/bin:/bin"
    found = subprocess.run(
        ["bash", "run_scripts/serve.sh", "--engine=tensorflow_serving", "--flag=1"],
        cwd=project,
        env={"PATH": paths, "MODEL_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if not runs:
        assert found.returncode == 2 and not found.stdout
        assert found.stderr.count("\n") == 1 and "a running Docker engine" in found.stderr
        return
    assert found.returncode == 0, found.stderr
    words = found.stdout.split()
    assert words[0] == "run" and f"{tmp_path}:/models:ro" in words and words[-1] == "--flag=1"
    assert flags_of([x for x in words if "/models/" in x or "batching" in x]) == TENSORFLOW_SERVING
