"""What `netc train` loads: a library only where the net, its data or its files need it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from netc.data import read_flags
from netc.data.writer import writing_database
from netc.proto import netc_pb2 as pb

LIBRARIES = ("cv2", "h5py", "llvmlite", "lmdb", "matplotlib", "numba", "rich")
TRAIN = f"""import sys
from netc.cli.main import main
code = main(["train", "-solver", "solver.prototxt", "-quiet"])
print(*sorted(name for name in {LIBRARIES!r} if name in sys.modules))
sys.exit(code)
"""

NET = """
layer {{ name: "data" type: "{type}" top: "data" top: "label" {options} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 4 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param {{ num_output: 2 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" max_iter: 2
snapshot_prefix: "snap" snapshot_format: {snapshot_format} random_seed: 1 solver_mode: CPU
"""
SIDE = 40  # of images: smaller ones are mirrored a batch at a time, by NumPy
LIST = 'image_data_param { source: "list.txt" batch_size: 2 }'
MADE_UP = "dummy_data_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } shape { dim: 2 } }"
MIRRORED = "transform_param { mirror: true }"
ROWS = 'hdf5_data_param { source: "files.txt" batch_size: 2 }'


def records(folder: str, more: str = "") -> str:
    return f'data_param {{ source: "{folder}" batch_size: 2 backend: LMDB }} {more}'


# By what a run has: its data layer, that layer's options, its snapshots' format, the libraries loaded.
RUNS = {
    "numbers made up": ("DummyData", MADE_UP, "BINARYPROTO", ""),
    "raw records": ("Data", records("raw"), "BINARYPROTO", ""),
    "raw records, mirrored": ("Data", records("raw", MIRRORED), "BINARYPROTO", "cv2"),
    "encoded records": ("Data", records("encoded"), "BINARYPROTO", "cv2"),
    "image files": ("ImageData", LIST, "BINARYPROTO", "cv2"),
    "HDF5 files": ("HDF5Data", ROWS, "BINARYPROTO", "h5py"),
    "HDF5 snapshots": ("DummyData", MADE_UP, "HDF5", "h5py"),
}


@pytest.fixture
def material(tmp_path: Path) -> Path:
    """A folder with the same four images raw and encoded in databases, as files in a list, and in HDF5."""
    images = np.random.default_rng(2).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    with (
        writing_database(str(tmp_path / "raw")) as raw,
        writing_database(str(tmp_path / "encoded")) as encoded,
    ):
        for i, image in enumerate(images):
            planes = image.transpose(2, 0, 1).tobytes()
            datum = pb.Datum(channels=3, height=SIDE, width=SIDE, data=planes, label=i % 2)
            raw.put(f"{i}".encode(), datum.SerializeToString())
            png = cv2.imencode(".png", image)[1].tobytes()
            datum = pb.Datum(encoded=True, data=png, label=i % 2)
            encoded.put(f"{i}".encode(), datum.SerializeToString())
            cv2.imwrite(str(tmp_path / f"{i}.png"), image)
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path}/{i}.png {i % 2}\n" for i in range(4)))
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["data"] = images.transpose(0, 3, 1, 2).astype(np.float32)
        file["label"] = np.array([0, 1, 0, 1], np.float32)
    (tmp_path / "files.txt").write_text(f"{tmp_path}/rows.h5\n")
    return tmp_path


def train(folder: Path, environment: dict[str, str]) -> list[str]:
    """The libraries that a run in a folder has loaded at its end."""
    command = [sys.executable, "-c", TRAIN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("run", RUNS)
def test_a_run_loads_the_libraries_that_it_uses(
    run: str, material: Path, environment: dict[str, str]
) -> None:
    kind, options, snapshot_format, expected = RUNS[run]
    (material / "net.prototxt").write_text(NET.format(type=kind, options=options))
    (material / "solver.prototxt").write_text(SOLVER.format(snapshot_format=snapshot_format))
    loaded = train(material, environment)
    if "numba" in loaded:  # the first run of a machine compiles the loops, and keeps them
        loaded = train(material, environment)
    assert loaded == expected.split()
    assert list(material.glob("snap_iter_2.caffemodel*"))


def test_the_ways_to_read_an_image_have_opencvs_numbers() -> None:
    for name in ("IMREAD_UNCHANGED", "IMREAD_GRAYSCALE", "IMREAD_COLOR"):
        assert getattr(read_flags, name) == getattr(cv2, name)
