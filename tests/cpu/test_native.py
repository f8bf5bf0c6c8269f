"""Native calls: chains of them do what each does by itself, stop at what fails, and say what that was."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from netc.backends.cpu import CpuBackend, loops
from netc.backends.cpu.chain import in_sequence
from netc.backends.cpu.layout import descriptor_of
from netc.backends.cpu.native import Chain, Dealt, chained
from netc.backends.cpu.onednn import Routine, describe, kinds
from netc.backends.cpu.onednn.product import Product
from netc.backends.cpu.threads import one_thread
from netc.backends.form import Run
from netc.backends.step import ArenaForm, Step
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text
from tests.cpu.form_case import build, engine
from tests.cpu.test_update import team_of

pytest.importorskip("numba", reason="native calls are made by a loop, which needs numba (netc[cpu])")

INVALID = 5, 5, 5  # the sizes that a broken product says it has


def relu(source: np.ndarray, target: np.ndarray) -> Run:
    """A primitive."""
    opened = engine()
    values = descriptor_of(opened, source.shape)
    routine = Routine(opened)
    arguments = (kinds.FORWARD_INFERENCE, kinds.RELU, values, values, 0.0, 0.0)
    names = {kinds.SOURCE: routine.operand("x", values), kinds.DESTINATION: routine.operand("y", values)}
    routine.add_as_given(describe(opened, "eltwise_forward", *arguments), names)
    return routine.bind({"x": source, "y": target}, {})


def rounding(source: np.ndarray, target: np.ndarray) -> Run:
    """A loop, in all threads."""
    from netc.backends.cpu.bf16 import round_floats

    return round_floats(source.reshape(-1), target.reshape(-1))


def broken() -> Product:
    """A product that oneDNN refuses: its rows are longer than they lie apart."""
    square = np.zeros((5, 5), np.float32)
    product = Product(engine(), square, square, square)
    flags, sizes = product._arguments[:2], product._arguments[2:5]
    assert sizes == INVALID
    product._arguments = (*flags, 5, 5, 7, *product._arguments[5:])
    return product


def matrices(count: int, side: int = 40) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.standard_normal((side, side)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("add", [False, True])
def test_a_chain_does_what_its_parts_do(threads: int, add: bool) -> None:
    with team_of(threads):
        x, y, z, total = matrices(4)
        expected = np.maximum(x, 0).astype(np.float32)
        rounded = expected.copy()
        rounding(expected, rounded)()
        expected_total = rounded @ x.T + (total if add else 0)
        parts = [relu(x, y), rounding(y, z), Product(engine(), z, x.T, total, add=add)]
        run = in_sequence(parts)
        assert isinstance(run, Chain)
        run()
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(z, rounded)
    np.testing.assert_allclose(total, expected_total, rtol=1e-5, atol=1e-5)


def test_chains_of_chains_are_run_as_one() -> None:
    x, y, z = matrices(3)
    inner = in_sequence([relu(x, y), rounding(y, z)])
    calls: list[str] = []
    runs = chained([inner, relu(z, x), lambda: calls.append("python"), inner, inner])
    assert [type(run) for run in runs] == [Chain, type(lambda: None), Chain]
    for run in runs:
        run()
    assert calls == ["python"]
    np.testing.assert_array_equal(x, z)


def test_a_chain_stops_at_what_fails() -> None:
    x, y, z = matrices(3)
    before = z.copy()
    run = in_sequence([in_sequence([relu(x, y), broken()]), relu(x, z)])
    with pytest.raises(NetcError, match="dnnl_sgemm failed"):
        run()
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(z, before)


def test_a_chain_runs_again_after_it_failed() -> None:
    x, y = matrices(2)
    square = np.eye(5, dtype=np.float32)
    product = Product(engine(), square, square, square)
    sound, product._arguments = product._arguments, broken()._arguments
    run = in_sequence([product, relu(x, y)])
    with pytest.raises(NetcError):
        run()
    product._arguments = sound
    repaired = in_sequence([product, relu(x, y)])
    repaired()
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def alone(source: np.ndarray, target: np.ndarray) -> list[Run]:
    """The same as `relu`, of one thread, with a product before it that leaves the source as it is."""
    with one_thread():
        run = relu(source, target)
    return [Product(engine(), np.eye(len(source), dtype=np.float32), source.copy(), source), run]


@pytest.mark.parametrize("team", [1, 2, 5])
def test_every_share_is_run_whatever_the_team(team: int) -> None:
    pairs = [matrices(2, side) for side in (3, 30, 300)]
    with team_of(team):
        run = Dealt([Chain(alone(x, y)) for x, y in pairs])
        for _ in range(3):
            run()
    for x, y in pairs:
        np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_a_share_that_fails_is_an_error_and_the_others_are_run() -> None:
    (x, y), (u, v) = matrices(2), matrices(2)
    with team_of(3):
        run = in_sequence([Dealt([Chain(alone(x, y)), Chain([*alone(u, v), broken()])]), relu(x, u)])
        untouched = u.copy()
        with pytest.raises(NetcError, match="dnnl_sgemm failed"):
            run()
    np.testing.assert_array_equal(y, np.maximum(x, 0))
    np.testing.assert_array_equal(v, np.maximum(untouched, 0))
    np.testing.assert_array_equal(u, untouched)


RELUS = "".join(f'layer {{ name: "r{i}" type: "ReLU" bottom: "x{i}" top: "y{i}" }}\n' for i in range(2))


def test_neighbouring_native_steps_become_one_and_errors_name_the_layer() -> None:
    nodes = [node for node in build(RELUS, (2, 3), (2, 3)).nodes if node.type == "ReLU"]
    x, y = matrices(2)
    forms = [ArenaForm("test") for _ in nodes]
    for form, node in zip(forms, nodes, strict=True):
        form.nodes = (node,)
    python = Step(forms[0], "forward", lambda: None)
    good, bad = Step(forms[0], "forward", relu(x, y)), Step(forms[1], "forward", broken())
    recorded = CpuBackend().record([good, bad, python, good])
    assert [step.run for step in recorded[1:]] == [python.run, good.run]
    assert isinstance(recorded[0].run, Chain)
    with pytest.raises(NetcError) as caught:
        recorded[0].run()
    assert caught.value.layer == "r1 (ReLU)"
    np.testing.assert_array_equal(y, np.maximum(x, 0))


NET = """
name: "n" force_backward: true
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 12 dim: 12 } } }
layer { name: "c1" type: "Convolution" bottom: "x" top: "c1" convolution_param {
  num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "p1" type: "Pooling" bottom: "c1" top: "p1" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "c2" type: "Convolution" bottom: "p1" top: "c2" convolution_param {
  num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "i" type: "InnerProduct" bottom: "c2" top: "i" inner_product_param {
  num_output: 5 weight_filler { type: "xavier" } } }
"""


def passes(backend: CpuBackend) -> tuple[int, list[np.ndarray]]:
    """The steps of both passes, and what they give."""
    message = parse_text(NET, pb.NetParameter, "test.prototxt").message
    net = Net(message, pb.TRAIN, keep="outputs", seed=1, backend=backend)
    net.blobs["x"].data[...] = np.random.default_rng(3).standard_normal((4, 3, 12, 12))
    net.forward()
    net.blobs["i"].diff[...] = 1
    net.backward()
    arrays = [blob.diff.copy() for blobs in net.params.values() for blob in blobs]
    steps = sum(len(net.program._unwatched[way]) for way in ("forward", "backward"))
    return steps, [net.blobs["i"].data.copy(), *arrays]


class StepByStep(CpuBackend):
    """Records nothing."""

    def record(self, steps):  # type: ignore[no-untyped-def]
        return steps


def test_a_net_gives_the_same_bits_in_fewer_steps() -> None:
    engine()
    (fewer, found), (more, expected) = passes(CpuBackend()), passes(StepByStep())
    assert fewer < more
    for here, there in zip(found, expected, strict=True):
        np.testing.assert_array_equal(here, there)


def test_without_numba_every_run_is_called_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    loops.compiled.cache_clear()
    x, y, z = matrices(3)
    runs = [relu(x, y), relu(y, z)]
    assert chained(runs) == runs
    in_sequence(runs)()
    np.testing.assert_array_equal(z, np.maximum(x, 0))
    steps = [Step(ArenaForm("test"), "forward", run) for run in runs]
    assert CpuBackend().record(steps) == steps
