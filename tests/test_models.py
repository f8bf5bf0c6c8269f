"""The zoo: its files fit together, and the shipped sample's commands do what its readme says."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from netc.proto import netc_pb2 as pb
from netc.schema.net import read_net
from netc.schema.solver import read_solver
from netc.tools.cost import graph_costs
from netc.tools.deploy import make_deploy
from netc.tools.sketch import Request, sketch

ROOT = Path(__file__).resolve().parents[1]
MODELS = sorted(path.parent for path in ROOT.glob("models/*/solver.prototxt"))
NAMES = [folder.name for folder in MODELS]
FILES = {"train_val.prototxt", "deploy.prototxt", "solver.prototxt", "readme.md"}
ZOO = {
    "alexnet": "60,965,224",
    "cifar10_quick": "145,578",
    "digits": "",
    "googlenet": "6,998,552",
    "lenet": "431,080",
    "mnist_adam": "1,111,946",
    "mobilenet": "4,253,891",
    "resnet50": "25,610,269",
    "squeezenet": "1,235,496",
    "vgg16": "138,357,544",
}


def layers_without_dropout(net: pb.NetParameter) -> list[str]:
    """The layers as text; dropout does nothing in a net for use, which may leave it out."""
    return [str(layer) for layer in net.layer if layer.type != "Dropout"]


def test_the_zoo_has_these_models() -> None:
    assert set(NAMES) == set(ZOO)


@pytest.mark.parametrize("folder", MODELS, ids=NAMES)
def test_a_model_has_its_four_files(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} >= FILES


@pytest.mark.parametrize("folder", MODELS, ids=NAMES)
def test_deploy_is_the_trained_net_with_an_input_and_probabilities(folder: Path) -> None:
    deployed = read_net(folder / "deploy.prototxt").message
    image = tuple(deployed.layer[0].input_param.shape[0].dim)
    request = Request(pb.TEST, shapes={"data": image, "label": image[:1]})
    made = make_deploy(read_net(folder / "train_val.prototxt"), request).message
    assert layers_without_dropout(deployed) == layers_without_dropout(made)


@pytest.mark.parametrize("folder", MODELS, ids=NAMES)
def test_a_solver_trains_the_net_beside_it_and_keeps_its_files_under_build(folder: Path) -> None:
    solver = read_solver(folder / "solver.prototxt").message
    assert ROOT / solver.net == folder / "train_val.prototxt"
    assert solver.snapshot_prefix.startswith("build/")


@pytest.mark.parametrize("folder", MODELS, ids=NAMES)
def test_the_stated_number_of_parameters_is_right(folder: Path) -> None:
    graph = sketch(read_net(folder / "deploy.prototxt"), Request(pb.TEST)).graph
    count = f"{sum(cost.parameters for cost in graph_costs(graph).values()):,}"
    assert ZOO[folder.name] in ("", count)
    assert f"{count} parameters" in " ".join((folder / "readme.md").read_text(encoding="utf-8").split())
    assert f"{count} parameters" in (folder / "train_val.prototxt").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", MODELS, ids=NAMES)
def test_a_net_trains_from_images_of_the_deploy_nets_size(folder: Path) -> None:
    image = tuple(read_net(folder / "deploy.prototxt").message.layer[0].input_param.shape[0].dim)
    request = Request(pb.TRAIN, shapes={"data": image, "label": image[:1]})
    graph = sketch(read_net(folder / "train_val.prototxt"), request).graph
    learned = {param.layer for param in graph.params() if param.owner.lr_mult}
    assert {node.name for node in graph.nodes if node.needs_backward} >= learned != set()
    assert sum(value.loss_weight for value in graph.values()) >= 1


@pytest.mark.slow
def test_the_commands_of_the_digits_readme_train_a_net_to_97_percent(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "models" / "digits", tmp_path / "models" / "digits")
    (tmp_path / "build" / "demo").mkdir(parents=True)
    readme = (ROOT / "models" / "digits" / "readme.md").read_text(encoding="utf-8")
    programs = {"python": [sys.executable], "netc": [sys.executable, "-m", "netc"]}
    output = ""
    for line in re.search(r"```\n(.*?)```", readme, re.DOTALL)[1].splitlines():
        program, *arguments = shlex.split(line)
        ran = subprocess.run(
            [*programs[program], *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{line}\n{ran.stderr}"
        output += ran.stdout + ran.stderr
    accuracy = float(re.findall(r"\] accuracy = ([\d.]+)", output)[-1])
    assert accuracy >= 0.97
    assert (tmp_path / "build/demo/curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_demo_runs_the_commands_of_the_digits_readme() -> None:
    readme = (ROOT / "models" / "digits" / "readme.md").read_text(encoding="utf-8")
    written = re.search(r"```\n(.*?)```", readme, re.DOTALL)[1].splitlines()
    dry = subprocess.run(
        ["make", "--dry-run", "--always-make", "demo"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    run = [re.sub(r"^\S*/bin/", "", line) for line in dry.stdout.splitlines()]
    assert [line for line in run if line in written] == written
