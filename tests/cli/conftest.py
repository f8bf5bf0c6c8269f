"""The `netc` program as a user starts it, and the tiny job that the end-to-end tests do with it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import netc

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment() -> dict[str, str]:
    """One thread, and netc importable from any folder."""
    root = str(Path(netc.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture
def run_netc(environment: dict[str, str], tmp_path: Path) -> Run:
    """Runs `netc` with these arguments in the test's folder, and waits for it."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "netc", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env=environment,
        )

    return run


NET = """
name: "tiny"
layer {
  name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { mean_file: "mean.binaryproto" scale: 0.01 }
  data_param { source: "train_lmdb" batch_size: 8 backend: LMDB }
}
layer {
  name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { mean_file: "mean.binaryproto" scale: 0.01 }
  data_param { source: "train_lmdb" batch_size: 10 backend: LMDB }
}
layer {
  name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } }
}
layer {
  name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST }
}
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "net.prototxt"
test_iter: 4
test_interval: 20
base_lr: 0.05
momentum: 0.9
lr_policy: "step"
gamma: 0.5
stepsize: 30
display: 10
max_iter: {max_iter}
snapshot_prefix: "snap"
random_seed: 7
solver_mode: CPU
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two classes, 20 images each: bright above, and bright below."""
    rng = np.random.default_rng(3)
    for label, rows in (("above", slice(0, 6)), ("below", slice(6, 12))):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(20):
            image = rng.integers(0, 100, (12, 10, 3))
            image[rows] += 120
            cv2.imwrite(str(tmp_path / "images" / label / f"{number}.png"), image.astype(np.uint8))
    return tmp_path / "images"


@pytest.fixture
def job(images: Path, run_netc: Run, tmp_path: Path) -> Callable[[int], None]:
    """Makes the database, the mean, the net and a solver of so many iterations in the test's folder."""

    def prepare(max_iter: int) -> None:
        for arguments in (
            (
                "convert_imageset",
                "-resize_height=8",
                "-resize_width=8",
                "-shuffle",
                "-seed=1",
                "images",
                "train_lmdb",
            ),
            ("compute_image_mean", "train_lmdb", "mean.binaryproto"),
        ):
            done = run_netc(*arguments)
            assert done.returncode == 0, done.stderr
        (tmp_path / "net.prototxt").write_text(NET)
        (tmp_path / "solver.prototxt").write_text(SOLVER.replace("{max_iter}", str(max_iter)))

    return prepare
