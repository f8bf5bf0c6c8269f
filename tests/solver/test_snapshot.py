"""Snapshots: a resume continues to the same bits; what is not whole is refused by name, or passed over."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import OutputValue
from netc.schema.state import SolverState, read_state
from netc.solver import Hook, Solver, latest
from netc.solver.side_file import read_side_state
from netc.solver.snapshot import side_path
from tests.solver.golden_case import load
from tests.solver.small_run import make_small_run


class Figures(Hook):
    """Every displayed figure and every test result, by iteration."""

    def __init__(self) -> None:
        self.shown: dict[int, tuple[float, float, float]] = {}
        self.tests: dict[int, list[float]] = {}

    def on_display(self, solver: Solver) -> None:
        self.shown[solver.iter] = (solver.loss, solver.smoothed_loss, solver.lr)

    def on_test(self, solver: Solver, test_net_index: int, results: Sequence[OutputValue]) -> None:
        self.tests[solver.iter] = [float(result.data) for result in results]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(path: Path, resume: str | None = None) -> tuple[Solver, Figures]:
    figures = Figures()
    solver = Solver(path, hooks=[figures])
    if resume:
        solver.restore(resume)
    solver.solve()
    return solver, figures


def assert_same_end(mine: Solver, theirs: Solver) -> None:
    np.testing.assert_array_equal(mine.net.parameters.data, theirs.net.parameters.data)
    for a, b in zip(mine._updater.history, theirs._updater.history, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"type": "Adam", "iter_size": 3},
        {"type": "AdaDelta", "snapshot_format": "HDF5"},
        {"type": "RMSProp", "momentum": 0, "random_seed": -1},
    ],
    ids=["SGD", "Adam iter_size", "AdaDelta HDF5", "RMSProp drawn seed"],
)
def test_a_resumed_run_ends_bit_identical_to_an_unbroken_one(
    folder: Path, options: dict[str, object]
) -> None:
    path = make_small_run(folder, **options)
    whole, whole_figures = run(path)
    suffix = ".h5" if options.get("snapshot_format") == "HDF5" else ""
    weights, side = Path(f"snap_iter_20.caffemodel{suffix}"), Path("snap_iter_20.netcstate")
    kept = weights.read_bytes(), replace(read_side_state(side), files=[])
    for iteration in (5, 10):
        resumed, figures = run(path, f"snap_iter_{iteration}.solverstate{suffix}")
        assert_same_end(resumed, whole)
        assert figures.shown == {k: v for k, v in whole_figures.shown.items() if k >= iteration}
        assert figures.tests == {k: v for k, v in whole_figures.tests.items() if k >= iteration}
        assert (weights.read_bytes(), replace(read_side_state(side), files=[])) == kept


def test_a_shuffled_hdf5_run_resumes_to_the_same_bits(train_folder: Path) -> None:
    net = Path("train_net.prototxt")
    net.write_text(net.read_text().replace("batch_size: 8", "batch_size: 7 shuffle: true"))
    path = Path("train_solver.prototxt")
    path.write_text(path.read_text() + "random_seed: 4 ")
    whole, whole_figures = run(path)
    resumed, figures = run(path, "snap_iter_10.solverstate")
    assert_same_end(resumed, whole)
    assert figures.tests == {k: v for k, v in whole_figures.tests.items() if k >= 10}


def test_a_stop_during_a_test_resumes_to_the_same_bits(folder: Path) -> None:
    whole, figures = run(make_small_run(folder, snapshot=100))
    solver = Solver("solver.prototxt")
    solver.step(6)
    forward = solver.test_nets[0].forward

    def interrupted() -> float:
        solver.request_stop()
        return forward()

    solver.test_nets[0].forward = interrupted  # type: ignore[method-assign, assignment]
    solver.solve()
    assert solver.iter == 6
    resumed, later = run(folder / "solver.prototxt", "snap_iter_6.solverstate")
    assert_same_end(resumed, whole)
    assert later.tests == {k: v for k, v in figures.tests.items() if k >= 6}


def test_a_snapshot_can_be_moved_as_a_whole(folder: Path) -> None:
    path = make_small_run(folder)
    whole, _ = run(path)
    moved = folder / "elsewhere"
    moved.mkdir()
    for name in list(folder.glob("snap_iter_10.*")):
        shutil.move(name, moved)
    resumed, _ = run(path, "elsewhere/snap_iter_10.solverstate")
    assert_same_end(resumed, whole)


def test_side_file_holds_what_caffe_forgets(folder: Path) -> None:
    run(make_small_run(folder, max_iter=10))
    side = read_side_state(Path("snap_iter_10.netcstate"))
    assert (side.iteration, side.seed) == (10, 11)
    assert side.threads >= 1
    assert side.loss_window["count"] == 10
    assert [list(net.sources) for net in side.nets] == [["data"], ["data"]]
    assert [mark.name for mark in side.files] == ["snap_iter_10.caffemodel", "snap_iter_10.solverstate"]


def test_without_its_side_file_a_snapshot_resumes_with_a_word_on_what_is_unknown(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_small_run(folder)
    Solver(path).solve()
    os.unlink("snap_iter_10.netcstate")
    solver = Solver(path)
    with caplog.at_level(logging.INFO, "netc"):
        solver.restore("snap_iter_10.solverstate")
    assert solver.iter == 10
    assert any("no side file (Caffe writes none)" in message for message in caplog.messages)


def flip(name: str, position: int = -20) -> None:
    content = bytearray(Path(name).read_bytes())
    content[position] ^= 0x10
    Path(name).write_bytes(content)


@pytest.mark.parametrize("suffix", ["caffemodel", "solverstate", "netcstate"])
@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
def test_a_damaged_snapshot_is_refused_by_name(folder: Path, suffix: str, damage: str) -> None:
    path = make_small_run(folder, max_iter=10)
    run(path)
    name = f"snap_iter_10.{suffix}"
    content = Path(name).read_bytes()
    if damage == "flipped":
        flip(name, len(content) // 2)
    else:
        Path(name).write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    solver = Solver(path)
    before = solver.net.parameters.data.copy()
    with pytest.raises(NetcError) as caught:
        solver.restore("snap_iter_10.solverstate")
    assert "snap_iter_10" in str(caught.value)
    np.testing.assert_array_equal(solver.net.parameters.data, before)
    assert latest("snap") == "snap_iter_5.solverstate"


def test_missing_weights_are_named_with_where_they_were_looked_for(folder: Path) -> None:
    path = make_small_run(folder, max_iter=5)
    run(path)
    os.unlink("snap_iter_5.caffemodel")
    with pytest.raises(NetcError, match=r"the weights snap_iter_5\.caffemodel"):
        Solver(path).restore("snap_iter_5.solverstate")


def test_a_side_file_of_a_later_version_is_refused(folder: Path) -> None:
    run(make_small_run(folder, max_iter=5))
    side = Path("snap_iter_5.netcstate")
    outer = json.loads(side.read_text())
    side.write_text(json.dumps({**outer, "version": 99}))
    with pytest.raises(NetcError, match="written by a later netc"):
        read_side_state(side)


def test_a_side_file_beside_a_state_of_the_other_format_is_not_its_own(folder: Path) -> None:
    path = make_small_run(folder, max_iter=5)
    run(path)
    run(make_small_run(folder, max_iter=5, snapshot_format="HDF5"))
    solver = Solver(path)
    solver.restore("snap_iter_5.solverstate")
    assert solver.iter == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "Adam"}, "does not fit this net and solver"),
        ({"net": ("num_output: 3 kernel_size: 3", "num_output: 4 kernel_size: 3")}, "another shape"),
    ],
    ids=["another type", "another net"],
)
def test_another_solver_or_net_is_refused_and_nothing_changes(
    folder: Path, change: dict[str, object], words: str
) -> None:
    run(make_small_run(folder, max_iter=5))
    replacement = change.pop("net", None)
    path = make_small_run(folder, **change)
    if replacement:
        net = folder / "net.prototxt"
        net.write_text(net.read_text().replace(*replacement))  # type: ignore[misc]
    solver = Solver(path)
    before = solver.net.parameters.data.copy()
    with pytest.raises(NetcError, match=words):
        solver.restore("snap_iter_5.solverstate")
    assert solver.iter == 0
    np.testing.assert_array_equal(solver.net.parameters.data, before)


def test_another_thread_count_is_warned_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_small_run(folder, max_iter=5)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    run(path)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    Solver(path).restore("snap_iter_5.solverstate")
    assert any("used 1 threads, this one uses 7" in message for message in caplog.messages)


def test_latest_is_the_newest_whole_snapshot(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert latest("snap") is None
    run(make_small_run(folder))
    assert latest("snap") == "snap_iter_20.solverstate"
    assert latest(folder / "snap") == str(folder / "snap_iter_20.solverstate")
    Path("snap_iter_20.solverstate").write_bytes(Path("snap_iter_20.solverstate").read_bytes()[:-9])
    os.unlink("snap_iter_15.caffemodel")
    assert latest("snap") == "snap_iter_10.solverstate"
    named = " ".join(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "snap_iter_20.solverstate is not a whole snapshot" in named
    assert "snap_iter_15.solverstate is not a whole snapshot" in named


def test_latest_takes_caffes_snapshots_too(train_folder: Path) -> None:
    assert latest("snap") == "snap_iter_25.solverstate"


def test_latest_takes_only_its_own_prefix(folder: Path) -> None:
    run(make_small_run(folder, max_iter=5))
    for name in ("snap2_iter_9.solverstate", "snap_iter_9.solverstate.bak", "my_snap_iter_9.solverstate"):
        shutil.copy("snap_iter_5.solverstate", name)
    assert latest("snap") == "snap_iter_5.solverstate"


def test_latest_in_a_folder_that_is_not_there_is_none(folder: Path) -> None:
    assert latest("nowhere/snap") is None


def test_the_state_is_caffes(folder: Path) -> None:
    run(make_small_run(folder, max_iter=10))
    state = read_state("snap_iter_10.solverstate")
    assert (state.iteration, state.learned_net, state.current_step) == (10, "snap_iter_10.caffemodel", 1)
    assert [array.shape for array in state.history] == [(3, 1, 3, 3), (3,), (3, 108), (3,)]


def test_side_path_belongs_to_both_formats() -> None:
    assert side_path("a/b_iter_3.solverstate") == Path("a/b_iter_3.netcstate")
    assert side_path("a/b_iter_3.solverstate.h5") == Path("a/b_iter_3.netcstate")


@pytest.mark.parametrize("prefix", ["no_such_folder/snap", "train.txt/snap"])
def test_a_prefix_that_cannot_be_written_is_refused_before_training(folder: Path, prefix: str) -> None:
    path = make_small_run(folder)
    path.write_text(path.read_text().replace('snapshot_prefix: "snap"', f'snapshot_prefix: "{prefix}"'))
    with pytest.raises(NetcError, match="snapshots cannot be written") as caught:
        Solver(path)
    assert prefix in str(caught.value)


def test_a_snapshot_that_cannot_be_written_leaves_the_earlier_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    solver = Solver(make_small_run(folder, max_iter=5))
    solver.solve()
    before = {path.name: path.read_bytes() for path in folder.glob("*snap*")}

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("netc.solver.snapshot.write_side_state", full)
    with pytest.raises(NetcError, match="No space left"):
        solver.snapshot()
    assert {path.name: path.read_bytes() for path in folder.glob("*snap*")} == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_snapshot_diff_stores_the_gradients_with_the_weights(folder: Path) -> None:
    path = make_small_run(folder, max_iter=5)
    path.write_text(path.read_text() + "snapshot_diff: true")
    solver, _ = run(path)
    net = pb.NetParameter.FromString(Path("snap_iter_5.caffemodel").read_bytes())
    stored = next(layer for layer in net.layer if layer.name == "ip").blobs[0]
    np.testing.assert_array_equal(np.float32(stored.diff), solver.net.params["ip"][0].diff.ravel())


@pytest.mark.parametrize("snapshot_format", ["BINARYPROTO", "HDF5"])
def test_shared_parameters_come_back(solvers_folder: Path, snapshot_format: str) -> None:
    text = str(load("Adam__shared")["solver"])
    path = solvers_folder / "solver.prototxt"
    path.write_text(text.replace("BINARYPROTO", snapshot_format).replace("snapshot_after_train: false", ""))
    whole = Solver(path, weights="shared_init.caffemodel")
    whole.step(5)
    state = whole.snapshot()
    resumed = Solver(path)
    resumed.restore(state)
    np.testing.assert_array_equal(resumed.net.parameters.data, whole.net.parameters.data)
    whole.step(5)
    resumed.step(5)
    assert_same_end(resumed, whole)


@pytest.mark.parametrize("snapshot_format", ["BINARYPROTO", "HDF5"])
def test_weights_too_large_for_protobuf_are_refused_before_training(
    folder: Path, monkeypatch: pytest.MonkeyPatch, snapshot_format: str
) -> None:
    monkeypatch.setattr("netc.schema.weights.LARGEST_MESSAGE", 1000)
    path = make_small_run(folder, snapshot_format=snapshot_format)
    if snapshot_format == "HDF5":
        Solver(path)
        return
    with pytest.raises(NetcError, match="too large for protobuf") as caught:
        Solver(path)
    assert "snapshot_format: HDF5" in str(caught.value.remedy)


def test_a_missing_snapshot_is_named(folder: Path) -> None:
    with pytest.raises(NetcError, match=r"nowhere\.solverstate"):
        Solver(make_small_run(folder)).restore("nowhere.solverstate")


@pytest.mark.parametrize("suffix", ["caffemodel", "solverstate", "netcstate"])
@pytest.mark.parametrize("with_side", [True, False])
def test_any_mutation_of_a_snapshot_loads_or_gives_a_netc_error(
    train_folder: Path, suffix: str, with_side: bool
) -> None:
    solver = Solver("train_solver.prototxt")
    solver.step(10)
    target, side, rng = Path(f"snap_iter_10.{suffix}"), Path("snap_iter_10.netcstate"), random.Random(1)
    if not with_side and target != side:
        side.unlink()
    good, refused = target.read_bytes(), 0
    for _ in range(60):
        bad = bytearray(good)
        if rng.random() < 0.3:
            del bad[rng.randrange(len(bad)) :]
        else:
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        target.write_bytes(bad)
        try:
            solver.restore("snap_iter_10.solverstate")
        except NetcError:
            refused += 1
    # With a side file every change is noticed; without one, a flipped bit of a weight is a weight.
    assert refused == 60 if side.exists() else 0 < refused < 60


def test_a_side_file_without_its_end_or_of_no_version_is_noticed(train_folder: Path) -> None:
    Solver("train_solver.prototxt").step(10)
    side = Path("snap_iter_10.netcstate")
    good = side.read_text()
    for bad in (good[:-1], good.replace('"version": 1', '"version": 0')):
        assert bad != good
        side.write_text(bad)
        with pytest.raises(NetcError, match="side file cannot be read"):
            Solver("train_solver.prototxt").restore("snap_iter_10.solverstate")


def net_of_layers(layers: int, outputs: int, inputs: int) -> str:
    shape = f"shape {{ dim: 1 dim: {inputs} }}"
    text = f'layer {{ name: "x" type: "DummyData" top: "x" dummy_data_param {{ {shape} }} }}\n'
    for n in range(layers):
        text += (
            f'layer {{ name: "ip{n}" type: "InnerProduct" bottom: "x" top: "y{n}" inner_product_param {{'
            f' num_output: {outputs} bias_term: false weight_filler {{ type: "uniform" }} }} }}\n'
        )
    return text


@pytest.mark.parametrize("snapshot_format", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("side", [True, False], ids=["with a side file", "without one"])
def test_weights_are_read_one_parameter_after_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch, snapshot_format: str, side: bool
) -> None:
    layers, outputs, inputs = 8, 256, 1024
    parameter = outputs * inputs * 4
    (folder / "net.prototxt").write_text(net_of_layers(layers, outputs, inputs))
    (folder / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 1 lr_policy: "fixed" random_seed: 1 snapshot_prefix: "snap"'
        f" snapshot_format: {snapshot_format} solver_mode: CPU"
    )
    solver = Solver("solver.prototxt")
    path = solver.snapshot()
    if not side:
        side_path(path).unlink()
    other = Solver("solver.prototxt")
    other.net.parameters.data[...] = 0
    held = 0

    def read_the_history(path: str) -> SolverState:
        nonlocal held
        state = read_state(path)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        return state

    monkeypatch.setattr("netc.solver.snapshot.read_state", read_the_history)
    tracemalloc.start()
    try:
        other.restore(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert layers * parameter < held < peak < held + 4 * parameter
    np.testing.assert_array_equal(other.net.parameters.data, solver.net.parameters.data)
