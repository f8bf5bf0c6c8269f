"""Training a net with layers of one name: its test net shares their parameters, snapshots hold them all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.schema.layer_keys import Namesake
from netc.solver import Solver
from netc.solver.side_file import read_side_state
from tests.solver.small_run import NET, make_small_run

SECOND = Namesake("ip", 2)
HIDDEN = """
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "hidden"
  inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "hidden" top: "hidden" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In it, the small run's net has a second layer called "ip" and a second one called "drop"."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(folder: Path, **options: object) -> Path:
    path = make_small_run(folder, **options)
    before, after = NET.split('layer { name: "ip"')
    after = after.replace('bottom: "conv"', 'bottom: "hidden"', 1)
    (folder / "net.prototxt").write_text(before + HIDDEN + 'layer { name: "ip"' + after)
    return path


def solved(path: Path, resume: str | None = None) -> Solver:
    solver = Solver(path)
    if resume:
        solver.restore(resume)
    solver.solve()
    return solver


@pytest.mark.parametrize("options", [{}, {"type": "Adam", "iter_size": 2}], ids=str)
def test_a_resumed_run_ends_bit_identical_to_an_unbroken_one(
    folder: Path, options: dict[str, object]
) -> None:
    path = make_run(folder, max_iter=12, **options)
    first = Solver(path).net.parameters.data.copy()
    whole = solved(path)
    resumed = solved(path, resume="snap_iter_5.solverstate")
    segments = whole.net.parameters.segments
    assert [segment.name for segment in segments] == ["conv/0", "conv/1", "ip/0", "ip/1", "ip/0#2", "ip/1#2"]
    for segment in segments:
        learnt = whole.net.parameters.view(whole.net.parameters.data, segment)
        assert not np.array_equal(learnt, whole.net.parameters.view(first, segment))
    np.testing.assert_array_equal(resumed.net.parameters.data, whole.net.parameters.data)
    for mine, theirs in zip(resumed._updater.history, whole._updater.history, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert resumed.net.states.keys() == {"drop/draw", "drop/draw#2"}
    states = read_side_state(folder / "snap_iter_5.netcstate").nets[0].states
    assert states.keys() == resumed.net.states.keys()


def test_the_test_net_shares_the_first_with_the_first_and_the_second_with_the_second(folder: Path) -> None:
    solver = Solver(make_run(folder))
    (test_net,) = solver.test_nets
    for layer, shape in (("ip", (7, 108)), (SECOND, (3, 7))):
        assert solver.net.params[layer][0].shape == shape
        assert np.shares_memory(test_net.params[layer][0].data, solver.net.params[layer][0].data)


def test_snapshot_diff_stores_the_gradients_of_both(folder: Path) -> None:
    path = make_run(folder, max_iter=1)
    path.write_text(path.read_text() + "snapshot_diff: true")
    solver = solved(path)
    stored = pb.NetParameter()
    stored.ParseFromString((folder / "snap_iter_1.caffemodel").read_bytes())
    first, second = [layer for layer in stored.layer if layer.name == "ip"]
    for layer, key in ((first, "ip"), (second, SECOND)):
        blob = solver.net.params[key][0]
        np.testing.assert_array_equal(np.float32(layer.blobs[0].data), blob.data.ravel())
        np.testing.assert_array_equal(np.float32(layer.blobs[0].diff), blob.diff.ravel())


def test_an_hdf5_snapshot_is_refused_and_leaves_nothing(folder: Path) -> None:
    options = {"snapshot": 0, "snapshot_format": "HDF5"}
    path = make_run(folder, **options)
    path.write_text(path.read_text() + "snapshot_after_train: false")
    with pytest.raises(NetcError, match="two layers of one name") as caught:
        Solver(path).snapshot()
    assert "BINARYPROTO" in str(caught.value.remedy)
    assert not [file for file in folder.iterdir() if "snap" in file.name]


def test_hdf5_snapshots_are_refused_before_training(folder: Path) -> None:
    with pytest.raises(NetcError, match="two layers of one name"):
        Solver(make_run(folder, snapshot_format="HDF5"))
