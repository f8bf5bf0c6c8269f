"""Solvers step by step: the nets at hand, snapshots, callbacks, loops of one's own."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

import netc
from netc import NetcError
from netc.solver import Hook
from netc.solver import Solver as TrainingLoop

NET = """
name: "fit"
layer { name: "x" type: "DummyData" top: "x" top: "t"
  dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 1 }
    data_filler { type: "constant" value: 1 } data_filler { type: "constant" value: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 1 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "step" gamma: 0.5 stepsize: 2 max_iter: 6
test_iter: 1 test_interval: 1000 test_initialization: false
snapshot_prefix: "fit" snapshot_after_train: false solver_mode: CPU random_seed: 1 type: "{type}"
"""


@pytest.fixture
def definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER.format(type="SGD"))
    return "solver.prototxt"


def test_a_step_is_one_update(definition: str) -> None:
    solver = netc.SGDSolver(definition)
    solver.step(1)
    # y = 0, so the loss is (0 - 2)^2 / 2 and dy is -2 / 4 for each of 4 items: every weight gets 0.1 * 2.
    assert (solver.iter, solver.lr, solver.loss) == (1, pytest.approx(0.1), pytest.approx(2))
    assert float(solver.net.blobs["loss"].data) == pytest.approx(2)
    np.testing.assert_allclose(solver.net.params["ip"][0].data, [[0.2, 0.2, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(solver.net.params["ip"][1].data, [0.2], rtol=1e-6)
    solver.step(2)
    assert (solver.iter, solver.lr) == (3, pytest.approx(0.05))


def test_the_nets_are_at_hand_between_steps(definition: str) -> None:
    solver = netc.get_solver(definition)
    assert isinstance(solver.net, netc.Net)
    assert (solver.net.phase, len(solver.test_nets), solver.test_nets[0].phase) == (netc.TRAIN, 1, netc.TEST)
    solver.net.params["ip"][1].data[...] = 5
    assert float(solver.test_nets[0].forward()["loss"]) == pytest.approx((5 - 2) ** 2 / 2)
    assert np.shares_memory(solver.test_nets[0].params["ip"][1].data, solver.net.params["ip"][1].data)
    assert solver.net is solver.net
    solver.test_nets[0].share_with(solver.net)  # as programs for old Caffes do; it is so already
    assert solver.test_nets[0].blobs["y"].data[0, 0] == 5


def test_solve_trains_to_the_end(definition: str) -> None:
    solver = netc.SGDSolver(definition)
    solver.solve()
    assert solver.iter == solver.max_iter == solver.param.max_iter == 6
    # Every update takes 4 times the rate off the error of 2; the rates are 0.1, 0.1, 0.05, 0.05, 0.025.
    assert solver.loss == pytest.approx((2 * 0.6 * 0.6 * 0.8 * 0.8 * 0.9) ** 2 / 2)
    assert solver.smoothed_loss == pytest.approx(solver.loss)


@pytest.mark.parametrize("name", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_each_type_has_a_class(definition: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "typed.prototxt").write_text(SOLVER.format(type=name))
    found = netc.get_solver("typed.prototxt")
    named = getattr(netc, f"{name}Solver")(definition)  # whatever the definition says
    assert type(found) is type(named)
    assert found.param.type == named.param.type == name
    for solver in (found, named):
        solver.step(2)
    np.testing.assert_array_equal(found.net.params["ip"][0].data, named.net.params["ip"][0].data)


def test_a_run_goes_on_from_its_snapshot(definition: str) -> None:
    solver = netc.SGDSolver(definition)
    solver.step(3)
    state = solver.snapshot()
    assert state == "fit_iter_3.solverstate"
    solver.step(3)
    for restore in (lambda other: other.restore(state), lambda other: other.solve(state)):
        other = netc.SGDSolver(definition)
        restore(other)
        other.step(6 - other.iter)
        np.testing.assert_array_equal(other.net.params["ip"][0].data, solver.net.params["ip"][0].data)


def test_the_nets_in_hand_follow_a_restore_with_another_seed(definition: str, tmp_path: Path) -> None:
    text = (tmp_path / "solver.prototxt").read_text().replace("random_seed: 1", "")
    (tmp_path / "solver.prototxt").write_text(text)
    first = netc.SGDSolver(definition)
    first.step(1)
    state = first.snapshot()
    other = netc.SGDSolver(definition)
    net, test_net = other.net, other.test_nets[0]
    old = net.params["ip"][0].data
    assert old.sum() == 0
    other.restore(state)
    assert net is other.net
    assert not np.shares_memory(net.params["ip"][0].data, old)  # its nets were built anew
    np.testing.assert_array_equal(net.params["ip"][0].data, first.net.params["ip"][0].data)
    other.step(1)
    assert net.params["ip"][0].data.sum() > first.net.params["ip"][0].data.sum()
    assert test_net.params["ip"][0].data is net.params["ip"][0].data


def test_callbacks_come_before_forward_and_before_the_update(definition: str) -> None:
    solver = netc.SGDSolver(definition)
    weight = solver.net.params["ip"][0]
    seen: list[tuple[str, float, float]] = []
    solver.add_callback(
        lambda: seen.append(("start", weight.data[0, 0], weight.diff[0, 0])),
        lambda: seen.append(("gradients", weight.data[0, 0], weight.diff[0, 0])),
    )
    solver.step(1)
    assert seen == [("start", 0, 0), ("gradients", 0, -2)]
    assert weight.data[0, 0] == pytest.approx(0.2)


def test_a_callback_may_change_the_gradients(definition: str) -> None:
    solver = netc.SGDSolver(definition)
    solver.add_callback(lambda: None, lambda: solver.net.params["ip"][0].diff.fill(0))
    solver.step(1)
    assert not solver.net.params["ip"][0].data.any()
    assert solver.net.params["ip"][1].data.any()


def test_the_trained_nets_callbacks_are_told_in_a_step(definition: str) -> None:
    solver = netc.SGDSolver(definition)
    layers: list[int] = []
    solver.net.after_backward(layers.append)
    solver.step(1)
    assert layers == [2, 1]


def test_a_hook_hears_of_iterations(definition: str) -> None:
    class Count(Hook):
        count = 0

        def on_iteration(self, solver: TrainingLoop) -> None:
            self.count += 1

    solver, hook = netc.SGDSolver(definition), Count()
    solver.add_hook(hook)
    solver.step(4)
    assert hook.count == 4


def test_a_loop_of_ones_own_gives_the_same_numbers(definition: str) -> None:
    solver, by_hand = netc.SGDSolver(definition), netc.SGDSolver(definition)
    solver.step(1)
    by_hand.net.clear_param_diffs()
    by_hand.net.forward()
    by_hand.net.backward()
    by_hand.apply_update()
    assert by_hand.iter == 0
    np.testing.assert_array_equal(by_hand.net.params["ip"][0].data, solver.net.params["ip"][0].data)


def test_another_net_may_use_the_trained_ones_weights(definition: str) -> None:
    solver = netc.SGDSolver(definition)
    other = netc.Net("net.prototxt", netc.TEST)
    solver.share_weights(other)
    solver.step(1)
    np.testing.assert_allclose(other.params["ip"][0].data, [[0.2, 0.2, 0.2]], rtol=1e-6)
    with pytest.raises(NetcError, match="has to keep its own parameters"):
        solver.net.share_with(other)


def test_weights_to_start_from_can_be_given(definition: str) -> None:
    net = netc.Net("net.prototxt", netc.TEST)
    net.params["ip"][1].data[...] = 2
    net.save("start.caffemodel")
    solver = netc.get_solver(definition, weights="start.caffemodel")
    solver.step(1)
    assert solver.loss == 0


def test_the_random_seed_is_the_solvers_unless_the_definition_has_one(
    definition: str, tmp_path: Path
) -> None:
    text = (tmp_path / "solver.prototxt").read_text()
    netc.set_random_seed(77)
    assert netc.SGDSolver(definition).param.random_seed == 1
    (tmp_path / "solver.prototxt").write_text(text.replace("random_seed: 1", ""))
    netc.set_random_seed(77)
    assert netc.SGDSolver(definition).param.random_seed == 77


def test_a_net_outlives_the_solver_that_nobody_has(definition: str) -> None:
    solver = netc.SGDSolver(definition)
    solver.add_callback(lambda solver=solver: solver.net)  # a cycle
    net, test_net = solver.net, solver.test_nets[0]
    watch = weakref.ref(solver)
    del solver
    gc.collect()
    assert net.forward()["loss"] == test_net.forward()["loss"]
    del net, test_net
    gc.collect()
    assert watch() is None


def test_a_definition_without_sense_is_an_exception(definition: str, tmp_path: Path) -> None:
    (tmp_path / "solver.prototxt").write_text(SOLVER.format(type="SGDD"))
    with pytest.raises(NetcError, match="SGD"):
        netc.get_solver(definition)
    with pytest.raises(NetcError, match=r"nowhere\.prototxt"):
        netc.get_solver("nowhere.prototxt")
