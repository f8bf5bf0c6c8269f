"""The nets of the zoo compute with oneDNN: what is left to the layers' own meaning is a short list."""

from __future__ import annotations

import importlib.util
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from netc.backends.cpu import CpuBackend
from netc.backends.form import BLOCKED, NHWC, PLAIN, Mode
from netc.backends.layout import is_shown
from netc.backends.selection import select_forms
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.net import read_net
from netc.tools.sketch import Request, sketch

pytestmark = pytest.mark.skipif(not CpuBackend().forms, reason="oneDNN is not installed")
MODELS = Path(__file__).parent.parent.parent / "models"
NETS = sorted(path.parent.name for path in MODELS.glob("*/train_val.prototxt"))
LEFT = {"Data", "Input", "Split", "Flatten"}
if importlib.util.find_spec("numba") is None:
    LEFT |= {"Accuracy", "Dropout", "LRN"}
DATA_SHAPES = {
    "lenet": {"data": (2, 1, 28, 28), "label": (2,)},
    "digits": {"data": (2, 1, 16, 16), "label": (2,)},
    "mnist_adam": {"data": (2, 1, 28, 28), "label": (2,)},
    "cifar10_quick": {"data": (2, 3, 32, 32), "label": (2,)},
}


@pytest.mark.parametrize("layout", [NHWC, BLOCKED])
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
@pytest.mark.parametrize("name", NETS)
def test_a_net_of_the_zoo_computes_with_onednn(name: str, phase: str, layout: str) -> None:
    parsed = read_net(str(MODELS / name / "train_val.prototxt"))
    request = Request(pb.Phase.Value(phase), batch=2, shapes=DATA_SHAPES.get(name, {}))
    graph = sketch(parsed, request).graph
    mode = Mode(backward=phase == "TRAIN", fresh=phase == "TRAIN", layout=layout)
    forms = select_forms(graph, CpuBackend(), mode, fuse=True)
    left = {form.node.type for form in forms if form.variant == "reference"}
    assert left <= LEFT, left - LEFT
    assert not any(value.lies_plain for value in graph.values() if not is_shown(graph, value))


@pytest.mark.parametrize("layout", [NHWC, BLOCKED])
@pytest.mark.parametrize("name", NETS)
def test_what_a_net_puts_out_lies_plain(name: str, layout: str) -> None:
    parsed = read_net(str(MODELS / name / "deploy.prototxt"))
    graph = sketch(parsed, Request(pb.TEST, batch=2)).graph
    select_forms(graph, CpuBackend(), Mode(backward=False, layout=layout), fuse=True)
    assert {value.layout for value in graph.outputs} == {PLAIN}


NET = """
layer { name: "data" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 8 dim: 1 dim: 28 dim: 28 } shape { dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
        pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
        convolution_param { num_output: 50 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool2" type: "Pooling" bottom: "conv2" top: "pool2"
        pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
        inner_product_param { num_output: 500 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
        inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
SMALL = 4096  # bytes: the scalars of a loss, not the rows of a blob


def test_an_iteration_allocates_no_arrays(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    net = Net(str(tmp_path / "net.prototxt"), pb.TRAIN, seed=1, keep="outputs", fresh=True)
    arena = net.arena.memory
    for _ in range(3):
        net.forward_backward()
    numpys = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    tracemalloc.start(10)
    try:
        before = tracemalloc.take_snapshot().filter_traces([numpys])
        tracemalloc.reset_peak()
        net.forward_backward()
        _, peak = tracemalloc.get_traced_memory()
        after = tracemalloc.take_snapshot().filter_traces([numpys])
    finally:
        tracemalloc.stop()
    kept = sum(difference.size_diff for difference in after.compare_to(before, "lineno"))
    assert kept <= SMALL
    assert peak < 64 * 1024  # Python's own objects and NumPy's together; the smallest blob has 8 * 10 floats
    assert net.arena.memory is arena
