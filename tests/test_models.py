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

ROOT = Path(__file__).resolve().parents[1]
MODELS = sorted(path.parent for path in ROOT.glob("models/*/solver.prototxt"))
NAMES = [folder.name for folder in MODELS]
FILES = {"train_val.prototxt", "deploy.prototxt", "solver.prototxt", "readme.md"}
ONLY_TO_TRAIN = {"Data", "Dropout", "SoftmaxWithLoss", "Accuracy"}
ONLY_TO_USE = {"Input", "Softmax"}


def layers_for_use(folder: Path, file: str, left_out: set[str]) -> list[pb.LayerParameter]:
    """The layers of a net without those of the types left out, and without what only training looks at."""
    layers = [layer for layer in read_net(folder / file).message.layer if layer.type not in left_out]
    for layer in layers:
        layer.ClearField("param")
        for field in ("convolution_param", "inner_product_param"):
            if layer.HasField(field):
                getattr(layer, field).ClearField("weight_filler")
                getattr(layer, field).ClearField("bias_filler")
    return layers


@pytest.mark.parametrize("folder", MODELS, ids=NAMES)
def test_a_model_has_its_four_files(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} >= FILES


@pytest.mark.parametrize("folder", MODELS, ids=NAMES)
def test_deploy_is_the_trained_net_with_an_input_and_probabilities(folder: Path) -> None:
    trained = layers_for_use(folder, "train_val.prototxt", ONLY_TO_TRAIN)
    deployed = layers_for_use(folder, "deploy.prototxt", ONLY_TO_USE)
    assert [str(layer) for layer in deployed] == [str(layer) for layer in trained]


@pytest.mark.parametrize("folder", MODELS, ids=NAMES)
def test_a_solver_trains_the_net_beside_it_and_keeps_its_files_under_build(folder: Path) -> None:
    solver = read_solver(folder / "solver.prototxt").message
    assert ROOT / solver.net == folder / "train_val.prototxt"
    assert solver.snapshot_prefix.startswith("build/")


@pytest.mark.parametrize("folder", MODELS, ids=NAMES)
def test_the_stated_number_of_parameters_is_right(folder: Path) -> None:
    from netc.runtime.net import Net

    net = Net(folder / "deploy.prototxt", pb.TEST)
    count = f"{sum(blob.data.size for blobs in net.params.values() for blob in blobs):,} parameters"
    net.close()
    assert count in (folder / "readme.md").read_text(encoding="utf-8")
    assert count in (folder / "train_val.prototxt").read_text(encoding="utf-8")


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
