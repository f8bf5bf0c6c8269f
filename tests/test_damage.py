"""Files of every kind, cut short or with bits flipped, either load or give a NetcError that names them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import h5py
import lmdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netc.data import open_source
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.solver import read_solver
from netc.schema.state import SolverState, read_state, write_state
from netc.schema.text import parse_text

NET = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.01 } } }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.01 momentum: 0.9 lr_policy: "step" gamma: 0.1 stepsize: 10
max_iter: 100 snapshot_prefix: "snap" solver_mode: CPU random_seed: 1
"""
DATABASE = 'data_param { source: "database" batch_size: 3 backend: LMDB }'
HDF5 = 'hdf5_data_param { source: "list.txt" batch_size: 3 }'
IMAGES = 'image_data_param { source: "images.txt" batch_size: 3 new_height: 6 new_width: 6 }'


def make_net(path: Path) -> None:
    path.write_text(NET)


def make_solver(path: Path) -> None:
    path.write_text(SOLVER)


def make_weights(path: Path) -> None:
    Net(parse_text(NET, pb.NetParameter, "net.prototxt").message, pb.TEST, seed=1).save(path)


def make_state(path: Path) -> None:
    history = [np.arange(12, dtype=np.float32).reshape(3, 4), np.zeros(5, np.float32)]
    write_state(
        path, SolverState(iteration=7, learned_net="snap_iter_7.caffemodel", history=history, current_step=1)
    )


def make_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["data"] = np.random.default_rng(0).standard_normal((7, 3, 5, 5)).astype(np.float32)
        file["label"] = np.arange(7, dtype=np.float32)
    (path.parent / "list.txt").write_text("data.h5\n")


def make_database(path: Path) -> None:
    path.parent.mkdir()
    environment = lmdb.open(str(path.parent), map_size=1 << 22, lock=False)
    with environment.begin(write=True) as transaction:
        for i in range(40):
            pixels = np.random.default_rng(i).integers(0, 256, 3 * 9 * 9, dtype=np.uint8).tobytes()
            datum = pb.Datum(channels=3, height=9, width=9, data=pixels, label=i % 4)
            transaction.put(f"{i:08d}".encode(), datum.SerializeToString())
    environment.close()


def make_image(path: Path) -> None:
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8))
    names = [path.name, "whole_1.png", "whole_2.png"]
    for name in names[1:]:
        cv2.imwrite(str(path.parent / name), np.full((8, 8, 3), 7, np.uint8))
    (path.parent / "images.txt").write_text("".join(f"{name} {i}\n" for i, name in enumerate(names)))


def load_net(path: Path) -> None:
    Net(path, pb.TRAIN, seed=1)


def load_weights(path: Path) -> None:
    Net(parse_text(NET, pb.NetParameter, "net.prototxt").message, pb.TEST, seed=2).load_weights(path)


def read_batches(kind: str, options: str) -> Callable[[Path], None]:
    """Reads a whole epoch through the layer's source."""

    def load(path: Path) -> None:
        spec = parse_text(
            f'name: "d" type: "{kind}" top: "data" top: "label" {options}', pb.LayerParameter, "net"
        )
        source = open_source(spec.message, pb.TRAIN, seed=1, locate=lambda *place: None)
        try:
            for _ in range(14):
                source.next()
        finally:
            source.close()

    return load


# Each kind of file: its name, how a whole one is made, and how a user comes to read it.
KINDS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], object]]] = {
    "net": ("net.prototxt", make_net, load_net),
    "solver": ("solver.prototxt", make_solver, read_solver),
    "caffemodel": ("w.caffemodel", make_weights, load_weights),
    "HDF5 weights": ("w.caffemodel.h5", make_weights, load_weights),
    "solverstate": ("s.solverstate", make_state, read_state),
    "HDF5 solverstate": ("s.solverstate.h5", make_state, read_state),
    "LMDB": ("database/data.mdb", make_database, read_batches("Data", DATABASE)),
    "HDF5 data": ("data.h5", make_hdf5, read_batches("HDF5Data", HDF5)),
    "JPEG": ("image.jpg", make_image, read_batches("ImageData", IMAGES)),
    "PNG": ("image.png", make_image, read_batches("ImageData", IMAGES)),
}


@pytest.fixture(params=list(KINDS))
def whole(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, bytes, Callable]]:
    """A whole file in the working directory, its bytes, and how to load it."""
    monkeypatch.chdir(tmp_path)
    name, make, load = KINDS[request.param]
    path = tmp_path / name
    make(path)
    yield path, path.read_bytes(), load
    shutil.rmtree(tmp_path, ignore_errors=True)


def error_of(load: Callable[[Path], object], path: Path) -> NetcError | None:
    """What is wrong with a file, None where it loads; any other exception is the test's failure."""
    try:
        load(path)
    except NetcError as error:
        return error
    return None


def test_the_whole_files_load(whole) -> None:
    path, _, load = whole
    load(path)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_a_damaged_file_loads_or_is_named(whole, data: st.DataObject) -> None:
    path, pristine, load = whole
    damaged = bytearray(pristine)
    if data.draw(st.booleans(), "cut"):
        del damaged[data.draw(st.integers(0, len(damaged) - 1), "kept") :]
    for position, bit in data.draw(
        st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 7)), max_size=12)
    ):
        if damaged:
            damaged[position % len(damaged)] ^= 1 << bit
    path.write_bytes(damaged)
    error = error_of(load, path)
    assert error is None or path.stem in str(error) or path.parent.name in str(error), error
