"""Training in `-math bf16` learns what fp32 learns: LeNet on the digits that ship with the project."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from netc.backends.cpu import CpuBackend
from netc.proto import netc_pb2 as pb
from netc.runtime import OutputValue
from netc.schema.net import read_net
from netc.schema.text import format_text
from netc.solver import Hook, Solver

pytestmark = pytest.mark.skipif(not CpuBackend().forms, reason="oneDNN is not installed")
MODELS = Path(__file__).parents[2] / "models"
BATCH = {pb.TRAIN: 32, pb.TEST: 71}  # five of 71 are the test set
SOLVER = """
net: "net.prototxt" type: "SGD" base_lr: 0.01 momentum: 0.9 weight_decay: 0.0005 lr_policy: "fixed"
test_iter: 5 test_interval: 200 test_initialization: false max_iter: 200
snapshot_after_train: false random_seed: 1 solver_mode: CPU
"""


def write_digits(folder: Path) -> None:
    """The shipped digits as 28 x 28 images in 0..1, each split in a file of HDF5 and a list of that file."""
    images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    with tarfile.open(MODELS / "digits" / "digits.tar.xz") as archive:
        for member in archive:
            split, digit, _ = member.name.split("/")
            file = archive.extractfile(member)
            assert file is not None
            image = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_GRAYSCALE)
            images[split].append(cv2.resize(image, (28, 28))[None] / np.float32(256))
            labels[split].append(int(digit))
    for split, given in images.items():
        order = np.random.default_rng(1).permutation(len(given))
        with h5py.File(folder / f"{split}.h5", "w") as file:
            file["data"] = np.stack(given)[order]
            file["label"] = np.array(labels[split], np.float32)[order]
        (folder / f"{split}.txt").write_text(f"{folder / split}.h5\n")


def lenet_on_digits() -> str:
    """LeNet of the zoo, with the digits in the place of its databases."""
    net = read_net(MODELS / "lenet" / "train_val.prototxt").message
    for layer in net.layer:
        if layer.type == "Data":
            phase = layer.include[0].phase
            layer.type = "HDF5Data"
            layer.ClearField("data_param")
            layer.ClearField("transform_param")
            layer.hdf5_data_param.source = f"{pb.Phase.Name(phase).lower()}.txt"
            layer.hdf5_data_param.batch_size = BATCH[phase]
    return format_text(net)


class Course(Hook):
    """The losses of a training, and what its last test gave."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.accuracy = 0.0

    def on_iteration(self, solver: Solver) -> None:
        self.losses.append(float(solver.loss))

    def on_test(self, solver: Solver, test_net_index: int, results: Sequence[OutputValue]) -> None:
        (self.accuracy,) = (float(result.data) for result in results if result.name == "accuracy")


def train(math: str) -> Course:
    course = Course()
    Solver("solver.prototxt", backend=CpuBackend(math), hooks=[course]).solve()
    return course


@pytest.mark.slow
def test_lenet_learns_the_digits_in_bf16_as_in_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path)
    (tmp_path / "net.prototxt").write_text(lenet_on_digits())
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    found, expected = train("bf16"), train("fp32")
    assert found.losses != expected.losses
    # Small differences grow with every update: at the end losses are as far apart as after weights that
    # begin a thousandth apart.
    np.testing.assert_allclose(found.losses[:5], expected.losses[:5], rtol=2e-3)
    assert np.mean(found.losses[-20:]) == pytest.approx(np.mean(expected.losses[-20:]), rel=0.3)
    assert expected.accuracy > 0.9
    assert found.accuracy == pytest.approx(expected.accuracy, abs=0.02)
