"""Updates of large inner products on the way back: each piece of the gradient is used at once."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format

from netc.backends.cpu import CpuBackend
from netc.backends.cpu.threads import set_threads
from netc.cores import thread_count
from netc.proto import netc_pb2 as pb
from netc.solver import Solver
from netc.solver.hooks import Hook
from netc.solver.rules import RULES

pytest.importorskip("numba", reason="numba compiles the loops of the update")

# Neither are the outputs whole tiles of 6 rows nor the columns of 16; 1100 x 1205 weights are enough.
NET = """
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: {rows} dim: 1205 }} }} }}
layer {{ name: "large" type: "InnerProduct" bottom: "data" top: "large" param {{ lr_mult: 2 decay_mult: 0.5 }}
         inner_product_param {{ num_output: 1100 weight_filler {{ type: "gaussian" std: 0.03 }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "large" top: "large" }}
layer {{ name: "small" type: "InnerProduct" bottom: "large" top: "small"
         inner_product_param {{ num_output: 3 weight_filler {{ type: "gaussian" std: 0.1 }} }} }}
layer {{ name: "loss" type: "EuclideanLoss" bottom: "small" bottom: "goal" top: "loss" }}
"""
GOAL = 'layer {{ name: "goal" type: "Input" top: "goal" input_param {{ shape {{ dim: {rows} dim: 3 }} }} }}'
SHARED = """
layer {{ name: "other" type: "InnerProduct" bottom: "data" top: "other" param {{ name: "weights" }}
         inner_product_param {{ num_output: 1100 bias_term: false }} }}
layer {{ name: "silence" type: "Silence" bottom: "other" }}
"""
MOMENTUM = {"SGD": 0.9, "Nesterov": 0.9, "Adam": 0.9, "AdaDelta": 0.9}
BY_LOOPS, BY_PRODUCTS = 5, 20  # rows of a batch, of whose gradients loops or oneDNN give the pieces


@pytest.fixture(autouse=True)
def _with_onednn() -> None:
    if not CpuBackend().forms:
        pytest.skip("oneDNN is not installed: its form gives the pieces")


class Waiting(Hook):
    """Wants to see the gradients, which then exist as a whole."""

    def on_gradients(self, solver: Solver) -> None:
        assert solver.net.parameters.grad.any()


def solver_of(
    rows: int, type_: str = "SGD", options: str = "", net: str = GOAL + NET, **settings: object
) -> Solver:
    momentum = f"momentum: {MOMENTUM[type_]}" if type_ in MOMENTUM else ""
    definition = text_format.Parse(
        f'type: "{type_}" base_lr: 0.01 lr_policy: "fixed" max_iter: 9 weight_decay: 0.01 random_seed: 3 '
        "snapshot_after_train: false solver_mode: CPU "
        f"{momentum} {options}",
        pb.SolverParameter(),
    )
    text_format.Parse(net.format(rows=rows), definition.net_param)
    solver = Solver(definition, **settings)  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    for name in solver.net.inputs:
        blob = solver.net.blobs[name].data
        blob[...] = rng.standard_normal(blob.shape)
    return solver


def gradient_of_the_large(solver: Solver) -> np.ndarray:
    diff = solver.net.params["large"][0].diff
    assert diff is not None
    return diff


@pytest.mark.parametrize("type_", RULES)
def test_pieces_give_the_parameters_and_the_history_of_whole_gradients(type_: str) -> None:
    in_pieces, whole = solver_of(BY_LOOPS, type_), solver_of(BY_LOOPS, type_, hooks=[Waiting()])
    for solver in (in_pieces, whole):
        solver.step(3)
    assert not gradient_of_the_large(in_pieces).any(), "the gradient has been somewhere as a whole"
    assert gradient_of_the_large(whole).any()
    assert in_pieces.loss == whole.loss
    for flat, expected in zip(
        (in_pieces.net.parameters.data, *in_pieces._updater.history),
        (whole.net.parameters.data, *whole._updater.history),
        strict=True,
    ):
        np.testing.assert_array_equal(flat, expected)


def test_pieces_of_products_give_the_same_within_their_rounding() -> None:
    """Products of another size may sum in another order."""
    in_pieces, whole = solver_of(BY_PRODUCTS), solver_of(BY_PRODUCTS, hooks=[Waiting()])
    for solver in (in_pieces, whole):
        solver.step(3)
    assert not gradient_of_the_large(in_pieces).any()
    assert_near(in_pieces.net.parameters.data, whole.net.parameters.data)


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_what_needs_whole_gradients_has_them() -> None:
    """Clipping needs their norm, iter_size their sum, debug_info their mean, and where all blobs stay the
    user."""
    for options, settings in (("clip_gradients: 100", {}), ("iter_size: 2", {}), ("", {"keep": "all"})):
        solver = solver_of(BY_LOOPS, "SGD", options, **settings)
        solver.step(2)
        assert gradient_of_the_large(solver).any(), options or settings
    solver = solver_of(BY_LOOPS, "SGD", "debug_info: true display: 1")
    solver.step(1)
    assert gradient_of_the_large(solver).any()


def test_iterations_that_are_watched_and_others_go_on_from_each_other() -> None:
    mixed, plain = solver_of(BY_LOOPS, "Adam", "debug_info: true display: 2"), solver_of(BY_LOOPS, "Adam")
    for solver in (mixed, plain):
        solver.step(5)
    np.testing.assert_array_equal(mixed.net.parameters.data, plain.net.parameters.data)


def test_shared_weights_are_updated_when_all_have_read_them() -> None:
    net = (GOAL + NET).replace("lr_mult: 2", 'name: "weights" lr_mult: 2') + SHARED
    solver, expected = solver_of(BY_LOOPS, net=net), solver_of(BY_LOOPS, net=net, hooks=[Waiting()])
    for each in (solver, expected):
        each.step(2)
    assert gradient_of_the_large(solver).any()
    np.testing.assert_array_equal(solver.net.parameters.data, expected.net.parameters.data)


def test_another_batch_is_another_program_whose_pieces_update_the_same_history() -> None:
    solvers = solver_of(BY_LOOPS), solver_of(BY_LOOPS, hooks=[Waiting()])
    rng = np.random.default_rng(2)
    for rows in (5, 7, 5):
        numbers = rng.standard_normal((rows, 1208))
        for solver in solvers:
            solver.net.reshape_input("data", (rows, 1205))
            solver.net.reshape_input("goal", (rows, 3))
            solver.net.blobs["data"].data[...] = numbers[:, :1205]
            solver.net.blobs["goal"].data[...] = numbers[:, 1205:]
            solver.step(2)
    in_pieces, whole = solvers
    assert not gradient_of_the_large(in_pieces).any()
    np.testing.assert_array_equal(in_pieces.net.parameters.data, whole.net.parameters.data)


def test_any_number_of_threads_shares_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for threads in (1, 3):
        monkeypatch.setattr("netc.backends.cpu.backend.thread_count", lambda threads=threads: threads)
        try:
            solver = solver_of(BY_LOOPS)
            solver.step(2)
            assert not gradient_of_the_large(solver).any()
        finally:
            set_threads(thread_count())
        found.append(solver.net.parameters.data)
    assert_near(*found)
