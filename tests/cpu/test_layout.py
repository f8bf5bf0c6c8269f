"""The sizes of values in each layout, and where a layout must give way to what lies in one place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from netc.backends.cpu import CpuBackend
from netc.backends.cpu.layout import descriptor_of, elements_of
from netc.backends.form import BLOCKED, NHWC
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.net import parse_net
from tests.cpu.form_case import LAYOUTS, engine


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 16, 2, 2), (3, 24, 1, 1), (1, 1, 1, 1)])
def test_values_take_what_onednn_says(layout: str, shape: tuple[int, ...]) -> None:
    opened = engine()
    assert 4 * elements_of(shape, layout, opened.block) == descriptor_of(opened, shape, layout).nbytes


class OneLayout(CpuBackend):
    """The CPU with no other layout than this."""

    def __init__(self, layout: str) -> None:
        super().__init__()
        self.layout = layout

    def layouts(self, keep_all: bool) -> Sequence[str]:
        return (self.layout,)


def filter_gradient(net: str, backend: CpuBackend) -> np.ndarray:
    """Of the first layer of a net, whose loss is the sum of squares of its last blob."""
    made = Net(parse_net(net).message, pb.TRAIN, seed=1, backend=backend, keep="outputs")
    made.blobs["x"].data[...] = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    made.forward()
    made.clear_param_diffs()
    made.backward()
    return made.params["c"][0].diff.copy()


@pytest.mark.parametrize("layout", [NHWC, BLOCKED])
@pytest.mark.parametrize("second", ["BNLL", "Sigmoid", "Dropout"])
@pytest.mark.parametrize("first", ["TanH", "ELU", "ReLU"])
def test_backward_reads_what_later_layers_have_written_in_place(first: str, second: str, layout: str) -> None:
    net = f"""
    layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 dim: 8 dim: 8 }} }} }}
    layer {{ name: "c" type: "Convolution" bottom: "x" top: "c"
             convolution_param {{ num_output: 8 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
    layer {{ name: "first" type: "{first}" bottom: "c" top: "c" }}
    layer {{ name: "second" type: "{second}" bottom: "c" top: "c" }}
    layer {{ name: "l" type: "Reduction" bottom: "c" top: "l" loss_weight: 1
             reduction_param {{ operation: SUMSQ }} }}"""
    wanted = filter_gradient(net, CpuBackend(fast=False))
    found = filter_gradient(net, OneLayout(layout))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * abs(wanted).max())
