"""The arena plan: what is alive together never overlaps, and what is not shares bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netc.backends.cpu import CpuBackend
from netc.passes.memory import Buffer, place
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text

NET = """
name: "lenet"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 8 dim: 1 dim: 28 dim: 28 } shape { dim: 8 }
    data_filler { type: "gaussian" } data_filler { type: "constant" value: 3 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
  pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 50 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "LRN" bottom: "conv2" top: "norm" }
layer { name: "bn" type: "BatchNorm" bottom: "norm" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "bn" scale_param { bias_term: true } }
layer { name: "pool2" type: "Pooling" bottom: "bn" top: "pool2"
  pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
  inner_product_param { num_output: 100 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop" type: "Dropout" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "a" type: "TanH" bottom: "ip2" top: "a" }
layer { name: "b" type: "Sigmoid" bottom: "ip2" top: "b" }
layer { name: "cat" type: "Concat" bottom: "a" bottom: "b" top: "cat" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "cat" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "cat" bottom: "label" top: "accuracy" }
"""


def net(**options: object) -> Net:
    return Net(parse_text(NET, pb.NetParameter, "net.prototxt").message, pb.TRAIN, seed=1, **options)  # type: ignore[arg-type]


def train_step(net: Net) -> tuple[float, np.ndarray, np.ndarray]:
    net.clear_param_diffs()
    loss = net.forward()
    net.backward()
    return loss, net.parameters.grad.copy(), net.parameters.data.copy()


@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 20), st.integers(0, 20)), max_size=40))
def test_buffers_alive_together_never_overlap(rows: list[tuple[int, int, int]]) -> None:
    buffers = [Buffer(nbytes, min(a, b), max(a, b)) for nbytes, a, b in rows]
    total = place(buffers)
    for i, one in enumerate(buffers):
        assert one.offset >= 0
        assert one.offset + one.nbytes <= total
        for other in buffers[:i]:
            if one.overlaps(other):
                assert one.offset + one.nbytes <= other.offset or other.offset + other.nbytes <= one.offset


def test_buffers_that_never_meet_share_their_bytes() -> None:
    assert place([Buffer(100, 0, 1), Buffer(100, 2, 3), Buffer(60, 4, 5)]) == 100


def test_the_arena_saves_memory_in_training_and_far_more_in_scoring() -> None:
    plain = CpuBackend(fast=False)  # whose forms ask for no memory of their own
    training = net(keep="outputs", backend=plain).program.plan
    scoring = net(keep="outputs", backward=False, backend=plain).program.plan
    everything = net(keep="all", backend=plain).program.plan
    assert everything.arena_bytes == everything.unshared_bytes
    assert training.arena_bytes < 0.75 * training.unshared_bytes, str(training)
    assert scoring.arena_bytes < 0.60 * scoring.unshared_bytes, str(scoring)
    assert f"{training.arena_bytes:,} bytes" in str(training)


@pytest.mark.parametrize("backward", [True, False])
def test_nan_in_freed_memory_changes_no_result(backward: bool) -> None:
    plain = net(keep="outputs", backward=backward)
    poisoned = net(keep="outputs", poison=True, backward=backward)
    for _ in range(3):
        if backward:
            for expected, found in zip(train_step(plain), train_step(poisoned), strict=True):
                np.testing.assert_array_equal(found, expected)
        else:
            assert poisoned.forward() == plain.forward()
        assert [o.name for o in poisoned.output_values()] == ["accuracy", "loss"]
        assert poisoned.output_values()[1].data == plain.output_values()[1].data


def test_poison_reaches_memory_that_is_still_read_when_a_plan_is_wrong() -> None:
    """The check itself must be able to fail: a plan that frees too early is noticed."""
    broken = net(keep="outputs", poison=True)
    plan = broken.program.plan
    conv1 = next(value for value in broken.graph.values() if value.name == "pool1")
    pool1 = next(form for form in broken.program.forms if conv1.producer in form.nodes)
    plan.buffers[conv1, "data"].last = plan.schedule.forward_step[pool1] + 1
    loss, grad, _ = train_step(broken)
    assert np.isnan(grad).any() or np.isnan(loss)
