"""What a process keeps: mode, seed, solvers; the log; the stopwatch."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import netc
from netc import NetcError
from netc.backends.cuda.emulator.compiler import why_unavailable
from tests.pycaffe.own_process import run_python

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 2 weight_filler { type: "constant" value: 2 } } }
"""


def run_net(tmp_path: Path) -> netc.Net:
    (tmp_path / "net.prototxt").write_text(NET)
    net = netc.Net(str(tmp_path / "net.prototxt"), netc.TEST)
    net.blobs["data"].data[...] = [[1, 2, 3]]
    net.forward()
    np.testing.assert_array_equal(net.blobs["ip"].data, [[12, 12]])
    net.params["ip"][0].data[0] = 1
    np.testing.assert_array_equal(net.forward()["ip"], [[6, 12]])
    return net


@pytest.mark.skipif(why_unavailable() is not None, reason=f"no emulator: {why_unavailable()}")
def test_nets_run_on_the_cpu_or_on_the_device_that_is_set(tmp_path: Path) -> None:
    try:
        netc.set_device("emulated")
        assert run_net(tmp_path)._net.backend.name == "cpu"
        netc.set_mode_gpu()
        assert run_net(tmp_path)._net.backend.name == "emulated device 0"
        netc.set_device("emulated:1")
        assert run_net(tmp_path)._net.backend.name == "emulated device 1"
        netc.set_mode_cpu()
        assert run_net(tmp_path)._net.backend.name == "cpu"
    finally:
        netc.set_mode_cpu()
        netc.set_device(0)


def test_a_device_that_does_not_exist_is_refused_when_it_is_turned_to() -> None:
    netc.set_device(99)
    try:
        with pytest.raises(NetcError):
            netc.set_mode_gpu()
    finally:
        netc.set_device(0)


def test_layer_types_are_listed() -> None:
    types = netc.layer_type_list()
    assert types == sorted(types)
    assert {"Convolution", "InnerProduct", "Pooling", "SoftmaxWithLoss"} <= set(types)


def test_several_gpus_are_refused_clearly() -> None:
    assert netc.has_nccl() is False
    with pytest.raises(NetcError, match="several GPUs"):
        netc.NCCL(None, "uid")
    with pytest.raises(NetcError, match="several GPUs"):
        netc.NCCL.new_uid()


def test_the_place_among_solvers_is_noted() -> None:
    netc.set_solver_count(3)
    netc.set_solver_rank(2)
    netc.set_multiprocess(True)
    try:
        assert (netc.solver_count(), netc.solver_rank()) == (3, 2)
        with pytest.raises(NetcError, match="1 or more"):
            netc.set_solver_count(0)
    finally:
        netc.set_solver_count(1)
        netc.set_solver_rank(0)


LOGGING = """
import netc
netc.log("not yet")
netc.init_log({level})
netc.log("hello")
netc.set_logging_disabled()
netc.log("silence")
netc.set_logging_disabled(False)
netc.log("again")
"""


@pytest.mark.parametrize(("level", "said"), [(0, ["hello", "again"]), (1, [])])
def test_the_log_speaks_when_it_is_turned_on(level: int, said: list[str]) -> None:
    done = run_python(LOGGING.format(level=level))
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert [line.split("] ")[1] for line in lines] == said
    assert all(line.startswith("I") and "<string>:" in line for line in lines)


def test_a_timer_tells_how_long_it_ran() -> None:
    timer = netc.Timer()
    assert timer.ms == 0
    timer.start()
    time.sleep(0.01)
    timer.stop()
    first = timer.ms
    assert first >= 10
    time.sleep(0.001)
    assert timer.ms == first == timer.seconds * 1e3 == pytest.approx(timer.us / 1e3)
