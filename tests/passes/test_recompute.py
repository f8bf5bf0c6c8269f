"""What is computed again: every choice of it gives the same bits, and a limit is met or refused."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from netc.backends.backend import Backend
from netc.backends.cpu import CpuBackend
from netc.backends.cuda.emulator.compiler import why_unavailable
from netc.backends.open import open_backend
from netc.errors import NetcError
from netc.graph import Graph
from netc.passes.memory import MemoryPlan, Unit, plan_memory
from netc.passes.recompute import find_groups, run_again
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.runtime.demand import Demand
from netc.runtime.program import plan_program
from netc.schema.net import read_net
from netc.schema.text import parse_text
from netc.tools.sketch import Request, sketch

DATA = """
layer {{ name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param {{
    shape {{ dim: {batch} dim: {channels} dim: {side} dim: {side} }} shape {{ dim: {batch} }}
    data_filler {{ type: "gaussian" std: 1 }} data_filler {{ type: "uniform" min: 0 max: 4.9 }} }} }}
"""
XAVIER = 'weight_filler { type: "xavier" }'


def conv(name: str, bottom: str, outputs: int, size: int = 3, more: str = "pad: 1") -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}"'
        f" convolution_param {{ num_output: {outputs} kernel_size: {size} {more} {XAVIER} }} }}\n"
    )


def layer(type_: str, name: str, bottom: str, top: str = "", options: str = "") -> str:
    bottoms = " ".join(f'bottom: "{blob}"' for blob in bottom.split())
    return f'layer {{ name: "{name}" type: "{type_}" {bottoms} top: "{top or name}" {options} }}\n'


def dense(name: str, bottom: str, outputs: int) -> str:
    return layer(
        "InnerProduct", name, bottom, options=f"inner_product_param {{ num_output: {outputs} {XAVIER} }}"
    )


POOL = "pooling_param { kernel_size: 3 stride: 2 }"
DRAWN = "pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }"
LRN = "lrn_param { local_size: 3 }"
LOSS = layer("SoftmaxWithLoss", "loss", "last label")

# Like AlexNet: LRN before pooling, ReLU and Dropout in place.
ALEXNET = (
    DATA.format(batch=4, channels=3, side=23)
    + conv("conv1", "data", 8, 5, "stride: 2")
    + layer("ReLU", "relu1", "conv1", "conv1")
    + layer("LRN", "norm1", "conv1", options=LRN)
    + layer("Pooling", "pool1", "norm1", options=POOL)
    + conv("conv2", "pool1", 8, 3, "pad: 1 group: 2")
    + layer("ReLU", "relu2", "conv2", "conv2")
    + layer("LRN", "norm2", "conv2", options=LRN)
    + layer("Pooling", "pool2", "norm2", options=DRAWN)
    + dense("fc6", "pool2", 24)
    + layer("ReLU", "relu6", "fc6", "fc6")
    + layer("Dropout", "drop6", "fc6", "fc6")
    + dense("last", "fc6", 5)
    + LOSS
)


def block(name: str, bottom: str, top: str) -> str:
    """Two convolutions with batch norm in place around a shortcut."""
    text, below = "", bottom
    for part in ("a", "b"):
        made = f"{name}{part}"
        text += conv(made, below, 8) + layer("BatchNorm", f"bn_{made}", made, made)
        text += layer("Scale", f"scale_{made}", made, made, "scale_param { bias_term: true }")
        text += layer("ReLU", f"relu_{made}", made, made) if part == "a" else ""
        below = made
    return text + layer("Eltwise", top, f"{bottom} {below}") + layer("ReLU", f"relu_{top}", top, top)


RESNET8 = (
    DATA.format(batch=4, channels=3, side=12)
    + conv("conv0", "data", 8)
    + layer("BatchNorm", "bn0", "conv0", "res0")  # not in place
    + layer("ReLU", "relu0", "res0", "res0")
    + "".join(block(f"block{i}", f"res{i}", f"res{i + 1}") for i in range(3))
    + layer("Pooling", "pool", "res3", options="pooling_param { pool: AVE global_pooling: true }")
    + dense("last", "pool", 5)
    + LOSS
)

# Branches that join, views, a reader of what a later layer overwrites, and a shared parameter.
BRANCHES = (
    DATA.format(batch=3, channels=2, side=10)
    + conv("stem", "data", 6)
    + layer("TanH", "left", "stem")
    + layer("Power", "right", "stem", options="power_param { scale: 0.5 shift: 0.1 }")
    + layer("ReLU", "relu_right", "right", "right")
    + layer("Concat", "both", "left right")
    + layer("Slice", "cut", "both", "low", 'top: "high" slice_param { slice_point: 4 }')
    + layer("Sigmoid", "gate", "high")
    + layer("Pooling", "seen", "gate", options="pooling_param { kernel_size: 2 stride: 2 }")
    + layer("Flatten", "flat", "low")
    + layer("Flatten", "flat2", "seen")
    + layer("Concat", "joined", "flat flat2")
    + dense("last", "joined", 5)
    + LOSS
)
NETS = {"alexnet": ALEXNET, "resnet8": RESNET8, "branches": BRANCHES}
BACKENDS: dict[str, Callable[[], Backend]] = {
    "fast": lambda: CpuBackend(deterministic=True),
    "plain": lambda: CpuBackend(fast=False),
}


def parsed(text: str) -> pb.NetParameter:
    return parse_text(text, pb.NetParameter, "net.prototxt").message


def from_zoo(model: str, channels: int, side: int) -> pb.NetParameter:
    """A net of the zoo on drawn data."""
    net = parsed(DATA.format(batch=4, channels=channels, side=side))
    layers = read_net(f"models/{model}/train_val.prototxt").message.layer
    net.layer.extend(layer for layer in layers if layer.type != "Data")
    return net


@dataclass
class Outcome:
    """What some iterations have come to: their losses, the parameters and the states after them."""

    losses: list[float]
    params: np.ndarray
    states: list[np.ndarray]
    plan: MemoryPlan


def train(net: pb.NetParameter, backend: Backend, iterations: int = 3, poison: bool = False) -> Outcome:
    made = Net(net, pb.TRAIN, seed=5, keep="outputs", backend=backend, poison=poison, fresh=True)
    losses = []
    for _ in range(iterations):
        made.clear_param_diffs()
        losses.append(made.forward_backward())
        made.parameters.data[...] -= made.parameters.data.dtype.type(0.05) * made.parameters.grad
    params = np.array(backend.read(made.parameters.data))
    states = [np.array(backend.read(state)) for state in made.states.values()]
    outcome = Outcome(losses, params, states, made.program.plan)
    made.close()
    return outcome


def assert_same(found: Outcome, expected: Outcome) -> None:
    assert np.isfinite(expected.losses).all()
    assert found.losses == expected.losses
    np.testing.assert_array_equal(found.params, expected.params)
    for one, other in zip(found.states, expected.states, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def drop(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, int], None]:
    """Lets this share of all groups run again, drawn by a seed, whatever the limit says."""

    def choose(share: float, seed: int) -> None:
        def chosen(
            graph: Graph, units: Sequence[Unit], plan: MemoryPlan, limit: int, itemsize: int, **_: bool
        ) -> MemoryPlan:
            draw = random.Random(seed)
            groups = [group for group in find_groups(graph, units, itemsize) if draw.random() < share]
            again = run_again(units, groups)
            return plan_memory(graph, units, backward=True, keep_all=False, itemsize=itemsize, again=again)

        monkeypatch.setattr("netc.runtime.program.fit_memory", chosen)

    return choose


@pytest.mark.parametrize("place", BACKENDS)
@pytest.mark.parametrize("name", NETS)
def test_whatever_is_computed_again_gives_the_same_bits(
    name: str, place: str, drop: Callable[[float, int], None]
) -> None:
    net, backend = parsed(NETS[name]), BACKENDS[place]()
    expected = train(net, backend)
    backend.memory_limit = 1
    for seed, share in enumerate((1.0, 0.7, 0.5, 0.3)):
        drop(share, seed)
        found = train(net, backend, poison=seed % 2 == 0)  # NaN in all that is free at the time
        assert found.plan.schedule.again_step, "nothing was computed again"
        assert_same(found, expected)


@pytest.mark.parametrize("place", BACKENDS)
@pytest.mark.parametrize(("model", "channels", "side"), [("lenet", 1, 28), ("cifar10_quick", 3, 32)])
def test_nets_of_the_zoo_keep_their_bits(
    model: str, channels: int, side: int, place: str, drop: Callable[[float, int], None]
) -> None:
    net, backend = from_zoo(model, channels, side), BACKENDS[place]()
    expected = train(net, backend)
    backend.memory_limit = 1
    for seed in range(2):
        drop(0.6, seed)
        assert_same(train(net, backend, poison=True), expected)


@pytest.mark.skipif(why_unavailable() is not None, reason=f"no emulator: {why_unavailable()}")
@pytest.mark.parametrize("name", ["alexnet", "resnet8"])
def test_it_gives_the_same_bits_on_the_device(name: str, drop: Callable[[float, int], None]) -> None:
    net, backend = parsed(NETS[name]), open_backend("emulated", deterministic=True)
    expected = train(net, backend)
    backend.memory_limit = 1
    drop(1.0, 0)
    assert_same(train(net, backend), expected)  # its third iteration is a replay of what was recorded


def test_a_plan_that_forgets_what_states_were_is_noticed(
    drop: Callable[[float, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison itself must be able to fail: dropout that draws anew changes the gradients."""
    net, backend = parsed(ALEXNET), CpuBackend(fast=False)
    expected = train(net, backend)
    backend.memory_limit = 1
    drop(1.0, 0)
    monkeypatch.setattr("netc.runtime.binding.copy_all", lambda pairs: None)
    assert train(net, backend).losses != expected.losses


def test_running_statistics_taken_in_twice_are_noticed(
    drop: Callable[[float, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    net, backend = parsed(RESNET8), CpuBackend(fast=False)
    expected = train(net, backend)
    backend.memory_limit = 1
    drop(1.0, 0)
    monkeypatch.setattr("netc.passes.memory.params_unused", lambda unit: {})
    found = train(net, backend)
    assert found.losses == expected.losses
    assert (found.params != expected.params).any()


@pytest.mark.parametrize("place", BACKENDS)
def test_a_limit_is_met_with_the_same_bits(place: str) -> None:
    net, backend = parsed(RESNET8), BACKENDS[place]()
    expected = train(net, backend)
    limit = int(0.85 * expected.plan.arena_bytes)
    backend.memory_limit = limit
    found = train(net, backend, poison=True)
    assert found.plan.arena_bytes <= limit
    assert found.plan.bytes_without == expected.plan.arena_bytes
    assert 0 <= found.plan.extra_work < 0.5
    assert f"{expected.plan.arena_bytes:,} bytes without that" in str(found.plan)
    assert_same(found, expected)


def test_a_limit_that_is_met_anyhow_changes_nothing() -> None:
    net, backend = parsed(RESNET8), CpuBackend(fast=False)
    expected = train(net, backend, 1)
    backend.memory_limit = expected.plan.arena_bytes
    found = train(net, backend, 1)
    assert not found.plan.schedule.again_step
    assert str(found.plan) == str(expected.plan)


def plan_of(model: str, batch: int, limit: int | None, without: frozenset[str] = frozenset()) -> MemoryPlan:
    """The plan of a published net by the layers' own meaning."""
    shapes = {"data": (batch, 3, 224, 224), "label": (batch,)}
    graph = sketch(
        read_net(f"models/{model}/train_val.prototxt"), Request(pb.TRAIN, batch=batch, shapes=shapes)
    ).graph
    backend = CpuBackend(fast=False)
    backend.memory_limit = limit
    return plan_program(graph, Demand(keep_all=False, fresh=True, without=without), backend)[1]


@pytest.mark.parametrize(
    ("model", "batch", "share", "most_work"),
    [("alexnet", 16, 0.8, 0.01), ("vgg16", 4, 0.7, 0.01), ("googlenet", 8, 0.6, 0.02)],
)
def test_published_nets_get_smaller_for_little_work(
    model: str, batch: int, share: float, most_work: float
) -> None:
    whole = plan_of(model, batch, None).arena_bytes
    plan = plan_of(model, batch, int(share * whole))
    assert plan.arena_bytes <= share * whole
    assert plan.extra_work <= most_work


def test_a_limit_that_cannot_be_met_is_refused_before_memory_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, backend = parsed(RESNET8), CpuBackend(fast=False)
    taken: list[int] = []
    allocate = backend.allocate
    monkeypatch.setattr(
        backend, "allocate", lambda nbytes, *name: taken.append(nbytes) or allocate(nbytes, *name)
    )
    backend.memory_limit = 1000
    with pytest.raises(NetcError, match="memory limit") as refused:
        Net(net, pb.TRAIN, seed=1, keep="outputs", backend=backend)
    assert not any(taken)
    smallest = int(str(refused.value.found).split()[0].replace(",", ""))
    assert "where nothing is computed again" in str(refused.value.found)
    assert "batch_size" in str(refused.value.remedy)
    backend.memory_limit = smallest  # what the message promises can be had
    Net(net, pb.TRAIN, seed=1, keep="outputs", backend=backend).close()


@pytest.mark.parametrize("left", ["recompute", "memory"])
def test_without_the_pass_the_limit_stands(left: str) -> None:
    whole = plan_of("alexnet", 2, None, frozenset({left})).arena_bytes
    with pytest.raises(NetcError, match="memory limit"):
        plan_of("alexnet", 2, whole - 1, frozenset({left}))


def test_where_every_blob_stays_readable_nothing_is_dropped() -> None:
    backend = CpuBackend(fast=False)
    backend.memory_limit = 1000
    with pytest.raises(NetcError, match="memory limit") as refused:
        Net(parsed(RESNET8), pb.TRAIN, seed=1, keep="all", backend=backend)
    assert 'keep="outputs"' in str(refused.value.remedy)


STATEFUL = (
    DATA.format(batch=4, channels=1, side=3)
    + layer("Reshape", "steps", "data", options="reshape_param { shape { dim: 4 dim: 1 dim: 9 } }")
    + layer("Reshape", "cont", "label", options="reshape_param { shape { dim: 4 dim: 1 } }")
    + layer("TanH", "squeezed", "steps")
    + layer(
        "LSTM",
        "lstm",
        "squeezed cont",
        options=f"recurrent_param {{ num_output: 6 {XAVIER} }}",
    )
    + layer("Sigmoid", "shown", "lstm")
    + layer("Split", "copies", "shown", "copy", 'top: "out"')
    + dense("last", "copy", 5)
    + LOSS.replace("label", "cont")
)


def test_what_may_not_run_twice_does_not() -> None:
    """Data, layers whose states are more than counts of draws, and what users see."""
    net = Net(parsed(STATEFUL), pb.TRAIN, seed=1, keep="outputs", backend=CpuBackend(fast=False))
    groups = find_groups(net.graph, net.program.forms, 4)
    assert [unit.nodes[0].name for group in groups for unit in group.units] == ["squeezed", "last"]
    net.close()
