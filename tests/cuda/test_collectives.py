"""Emulated devices exchange what they hold, and what would hang on GPUs is an error on all of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from functools import partial
from itertools import permutations

import numpy as np
import pytest
from google.protobuf import text_format

from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.device.collectives import Collective
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.emulator.findings import KernelFault
from netc.backends.cuda.gpu import CupyDevice
from netc.backends.cuda.join import join
from netc.backends.cuda.launching import fill
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime.net import Net
from tests.cuda.arrays import get, planted, put, room
from tests.cuda.ranks import at_once, errors_of, given, ranks

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


def reduced(collective: Collective, *values: float, operation: str = "sum") -> np.ndarray:
    memory = given(collective, *values)
    collective.all_reduce(memory, operation)
    collective.finish()
    return get(collective.device, memory)


# ---- what they compute ----
@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize(("operation", "wanted"), [("sum", [6, 60, 600]), ("mean", [2, 20, 200])])
def test_every_rank_gets_the_sum_or_the_mean(check: bool, operation: str, wanted: list[float]) -> None:
    group = ranks(3, check=check)
    found = at_once(
        *(partial(reduced, one, n, 10 * n, 100 * n, operation=operation) for n, one in enumerate(group, 1))
    )
    np.testing.assert_array_equal(found, [wanted] * 3)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_types_that_are_summed(dtype: str) -> None:
    group = ranks(2)
    memories = [put(one.device, np.array([2**20 + 1, -7], dtype)) for one in group]
    for one, memory in zip(group, memories, strict=True):
        one.all_reduce(memory, dtype=dtype)
    for one, memory in zip(group, memories, strict=True):
        np.testing.assert_array_equal(get(one.device, memory, dtype=dtype), [2**21 + 2, -14])


@pytest.mark.parametrize("late", list(permutations(range(3))))
def test_the_sum_does_not_depend_on_who_comes_last(late: tuple[int, ...]) -> None:
    """(2^24 + 1) + 1 stays 2^24 in float32; 1 + 1 first would make 2^24 + 2."""
    group = ranks(3)

    def come(rank: int) -> float:
        time.sleep(0.02 * late[rank])
        return float(reduced(group[rank], 2.0**24 if rank == 0 else 1)[0])

    assert at_once(*(partial(come, rank) for rank in range(3))) == [2.0**24] * 3


@pytest.mark.parametrize("root", [0, 1, 2])
def test_every_rank_gets_the_bytes_of_one(root: int) -> None:
    group = ranks(3, check=True)
    memories = [room(one.device, 5, np.uint8, name="seed") for one in group]
    group[root].device.upload(memories[root], np.arange(5, dtype=np.uint8))
    for one, memory in zip(group, memories, strict=True):
        one.broadcast(memory, root)
    for one, memory in zip(group, memories, strict=True):
        np.testing.assert_array_equal(get(one.device, memory, dtype=np.uint8), np.arange(5))


def test_one_rank_alone_and_arrays_without_elements() -> None:
    (one,) = ranks(1)
    np.testing.assert_array_equal(reduced(one, 3, operation="mean"), [3])
    one.all_reduce(one.device.allocate(0))
    one.finish()


def test_one_thread_can_ask_for_all_ranks() -> None:
    """A call returns at once, so that several in turn for each device need no thread to wait."""
    group = ranks(2)
    first, second = ([given(one, n, name=f"part {n}") for n in (1, 2)] for one in group)
    for one, memories in zip(group, (first, second), strict=True):
        for memory in memories:
            one.all_reduce(memory)
    assert [get(one.device, memory) for one in group for memory in (first, second)[one.rank]] == [2, 4, 2, 4]


def test_calls_are_captured_and_replayed() -> None:
    group = ranks(2, check=True)

    def run(one: Collective) -> list[float]:
        x, y = given(one, one.rank + 1, name="x"), room(one.device, 1, name="y")
        fill.copy(one.device, x, y)
        with one.device.capture() as graphs:
            one.all_reduce(x)
            fill.copy(one.device, x, y)
            one.broadcast(x, 1)
        assert get(one.device, x) == one.rank + 1  # nothing has run yet
        found = []
        for _ in range(3):
            graphs[0].replay()
            found.append(float(get(one.device, y)[0]))
        one.close()
        return found

    assert at_once(*(partial(run, one) for one in group)) == [[3, 6, 12]] * 2


# ---- mistakes that would hang GPUs, or mix up their arrays ----
def asking(*calls: Callable[[Collective], None]) -> list[NetcError]:
    """The errors that ranks get which each do one of these."""
    group = ranks(len(calls), patience=5)

    def run(one: Collective, call: Callable[[Collective], None]) -> None:
        with one:
            reduced(one, 1)  # a call that is right
            call(one)

    errors = errors_of(*(partial(run, one, call) for one, call in zip(group, calls, strict=True)))
    assert all(isinstance(error, NetcError) for error in errors)
    return errors  # type: ignore[return-value]


def sums(count: int = 4, name: str = "gradients", **options: str) -> Callable[[Collective], None]:
    return lambda one: one.all_reduce(given(one, *[0.0] * count, name=name), **options)


def copies(count: int = 4, root: int = 0) -> Callable[[Collective], None]:
    return lambda one: one.broadcast(given(one, *[0.0] * count), root)


@pytest.mark.parametrize(
    ("ours", "theirs", "first", "second"),
    [
        (sums(4), sums(3), "sum of gradients, 4 float32", "sum of gradients, 3 float32"),
        (sums(4), sums(4, dtype="int32"), "sum of gradients, 4 float32", "sum of gradients, 4 int32"),
        (sums(4), sums(8, dtype="float64"), "sum of gradients, 4 float32", "sum of gradients, 4 float64"),
        (sums(), sums(operation="mean"), "sum of gradients, 4 float32", "mean of gradients, 4 float32"),
        (sums(), copies(), "sum of gradients, 4 float32", "copy of rank 0's gradients, 16 bytes"),
        (copies(), copies(root=1), "copy of rank 0's gradients, 16", "copy of rank 1's gradients, 16"),
        (sums(name="conv1"), sums(name="conv2"), "sum of conv1, 4 float32", "sum of conv2, 4 float32"),
    ],
    ids=["size", "type", "type of other size", "operation", "kind", "root", "order"],
)
def test_ranks_that_ask_for_different_things(
    ours: Callable[[Collective], None], theirs: Callable[[Collective], None], first: str, second: str
) -> None:
    for error in asking(ours, theirs):
        assert error.what == "the ranks ask for different things in call 2"
        assert re.search(f"rank 0: {first}.*; rank 1: {second}", str(error.found))
        assert "same calls in the same order" in str(error.remedy)


def test_a_rank_that_never_comes() -> None:
    group = ranks(3, patience=0.2)
    for one in group:
        one.all_reduce(given(one, 1))
    for one in group[::2]:
        one.all_reduce(given(one, 1, name="weights"))
    begun = time.monotonic()
    errors = errors_of(group[0].finish, group[2].finish)
    assert time.monotonic() - begun < 5
    for error in errors:
        assert isinstance(error, NetcError)
        assert error.what == "rank 1 did not come to call 2 within 0.2 s"
        assert error.expected == "every rank: sum of weights, 1 float32"
        assert error.found == "ranks 0, 2 came; rank 1 came to call 1 last"
    with pytest.raises(NetcError, match="rank 1 did not come to call 2"):  # rank 1, late, gets the same
        group[1].all_reduce(given(group[1], 1))


GONE = "rank 1 did not come to call 1 before it left"


def test_a_rank_that_leaves_while_another_waits() -> None:
    stays, leaves = ranks(2)
    stays.all_reduce(given(stays, 1))
    leaves.close()
    with pytest.raises(NetcError, match=GONE):
        stays.finish()


def test_a_rank_that_has_left_is_not_waited_for() -> None:
    stays, leaves = ranks(2)
    leaves.close()
    with pytest.raises(NetcError, match=GONE) as caught:
        stays.all_reduce(given(stays, 1))
    assert caught.value.found == "rank 0 came; rank 1 came to no call"


def test_a_rank_that_fails_tells_the_others() -> None:
    """The others wait in a call that it never comes to; they know at once, and why."""
    group = ranks(3, check=True)

    def run(one: Collective) -> None:
        with one:
            if one.rank == 1:
                device, y = one.device, room(one.device, 64)
                device.launch(device.load(planted("bounds.cu", "reads_null")), (1,), (64,), (None, y))
            reduced(one, 1)

    first, second, third = errors_of(*(partial(run, one) for one in group))
    assert isinstance(second, KernelFault)
    for error in (first, third):
        assert isinstance(error, NetcError)
        assert "rank 1 (emulated device 1) failed" in error.what
        assert "kernel reads_null: out of bounds" in error.what
        assert error.__cause__ is second


def test_a_rank_whose_work_fails_as_it_leaves_tells_the_others() -> None:
    """Its kernel waits in line behind the first call, to which the other comes late."""
    group = ranks(2, check=True)

    def come_late() -> None:
        with group[0] as one:
            time.sleep(0.2)
            one.all_reduce(given(one, 1))
            reduced(one, 1)

    def fail() -> None:
        with group[1] as one:
            one.all_reduce(given(one, 1))
            kernel = one.device.load(planted("bounds.cu", "reads_null"))
            one.device.launch(kernel, (1,), (1,), (None, given(one, 1)))

    first, second = errors_of(come_late, fail)
    assert isinstance(second, KernelFault)
    assert "rank 1 (emulated device 1) failed: " in str(first)


def test_after_an_error_no_rank_goes_on() -> None:
    first, second = ranks(2)
    first.abort(ValueError("the disk is full"))
    for one in (first, second):
        with pytest.raises(NetcError, match=r"rank 0 \(emulated device 0\) failed: the disk is full"):
            one.all_reduce(given(one, 1))
    assert get(second.device, given(second, 4)) == 4  # its device is as it was


def test_a_rank_gives_what_nothing_has_written() -> None:
    group = ranks(2, check=True)
    whole = room(group[1].device, 3, name="gradients")
    group[1].device.fill(whole.part(0, 8))
    group[0].all_reduce(given(group[0], 1, 2, 3))
    with pytest.raises(NetcError, match="rank 1 gives to call 1 what nothing has written") as caught:
        group[1].all_reduce(whole)
    assert caught.value.found == "gradients+8 of emulated device 1"
    with pytest.raises(NetcError, match="rank 1 gives to call 1"):
        group[0].finish()


def test_memory_that_was_freed_after_a_capture() -> None:
    (one,) = ranks(1)
    memory = given(one, 1)
    with one.device.capture() as graphs:
        one.all_reduce(memory)
    one.device.free(memory)
    with pytest.raises(NetcError, match="cannot share gradients: it has been freed"):
        graphs[0].replay()


# ---- what is refused before anything is asked for ----
@pytest.mark.parametrize(
    ("options", "what", "expected"),
    [
        ({"operation": "max"}, "there is no such all-reduce", "sum or mean"),
        ({"dtype": "float16"}, "cannot be of this type", "float32 or float64 or int32 or int64"),
        ({"dtype": "int32", "operation": "mean"}, "cannot be of this type", "float32 or float64"),
        ({"dtype": "float64"}, "gradients is no array of float64", "a multiple of 8 bytes"),
    ],
)
def test_what_cannot_be_summed(options: dict[str, str], what: str, expected: str) -> None:
    (one,) = ranks(1)
    with pytest.raises(NetcError, match=what) as caught:
        one.all_reduce(given(one, 1, 2, 3), **options)
    assert caught.value.expected == expected


@pytest.mark.parametrize("root", [-1, 2])
def test_a_copy_from_no_rank(root: int) -> None:
    one, _ = ranks(2)
    with pytest.raises(NetcError, match="there is no rank to copy gradients from") as caught:
        one.broadcast(given(one, 1), root)
    assert (caught.value.expected, caught.value.found) == ("0 to 1", root)


def test_memory_of_another_device() -> None:
    one, other = ranks(2)
    with pytest.raises(NetcError, match="cannot all-reduce gradients: it is another device's memory"):
        one.all_reduce(given(other, 1))
    with pytest.raises(NetcError, match="cannot broadcast gradients: it is another device's memory"):
        one.broadcast(given(other, 1))


def test_devices_that_cannot_join() -> None:
    device = EmulatedDevice()
    with pytest.raises(NetcError, match="every rank needs a device of its own"):
        join([])
    with pytest.raises(NetcError, match="every rank needs a device of its own") as caught:
        join([device, device])
    assert caught.value.found == "emulated device 0, emulated device 0"
    gpu = CupyDevice.__new__(CupyDevice)
    gpu.properties = device.properties
    with pytest.raises(NetcError, match="devices of different kinds cannot work together"):
        join([device, gpu])


# ---- a net on two devices ----
FILLED = 'weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.1 }'
NET = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: COUNT dim: 3 dim: 12 dim: 12 } shape { dim: COUNT } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 8 kernel_size: 3 FILLED } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param { num_output: 10 FILLED } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
BATCH = 8


def make_net(device: EmulatedDevice, count: int, seed: int) -> Net:
    text = NET.replace("COUNT", str(count)).replace("FILLED", FILLED)
    definition = text_format.Parse(text, pb.NetParameter())
    return Net(definition, phase=pb.TRAIN, seed=seed, backend=CudaBackend(device))


def run_pass(net: Net, images: np.ndarray, labels: np.ndarray) -> None:
    net.blobs["data"].data[...] = images
    net.blobs["label"].data[...] = labels
    net.clear_param_diffs()
    net.forward_backward()


def test_gradients_of_half_batches_on_two_devices_make_those_of_the_whole() -> None:
    """The parameters go from rank 0 to rank 1, the mean of the gradients to both. The second of two passes
    is recorded."""
    rng = np.random.default_rng(1)
    images = rng.standard_normal((2, BATCH, 3, 12, 12)).astype(np.float32)
    labels = rng.integers(0, 10, (2, BATCH)).astype(np.float32)
    whole = make_net(EmulatedDevice(), BATCH, seed=3)
    wanted = []
    for step in range(2):
        run_pass(whole, images[step], labels[step])
        wanted.append(whole.backend.read(whole.parameters.grad))

    def train(one: Collective) -> list[np.ndarray]:
        half = slice(one.rank * BATCH // 2, (one.rank + 1) * BATCH // 2)
        found = []
        with one:
            net = make_net(one.device, BATCH // 2, seed=3 + one.rank)
            memory_of = one.device.memory_of
            one.broadcast(memory_of(net.parameters.data, "parameters"))
            for step in range(2):
                run_pass(net, images[step, half], labels[step, half])
                one.all_reduce(memory_of(net.parameters.grad, "gradients"), "mean")
                found.append(net.backend.read(net.parameters.grad))
        return found

    first, second = at_once(*(partial(train, one) for one in ranks(2)))
    np.testing.assert_array_equal(first, second)  # to the bit
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(first, wanted, rtol=0, atol=1e-6)
