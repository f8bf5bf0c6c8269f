"""A net of depthwise convolutions, shuffled channels and every kind of pooling computes the same in both
layouts, and its values stay as they lie from the first convolution to the last pooling."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format

from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.form import NHWC, PLAIN
from netc.backends.layout import Reorder
from netc.proto import netc_pb2 as pb
from netc.runtime.net import Net
from tests.cuda.layouts import LaidOut
from tests.cuda.one_chain import drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

FILLED = 'weight_filler { type: "msra" } bias_filler { type: "constant" value: 0.1 }'
TEXT = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 2 dim: 3 dim: 21 dim: 22 } shape { dim: 2 } } }
layer { name: "first" type: "Convolution" bottom: "data" top: "first"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 FILLED } }
layer { name: "first_relu" type: "ReLU" bottom: "first" top: "first" }
layer { name: "largest" type: "Pooling" bottom: "first" top: "largest"
  pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "wide" type: "Convolution" bottom: "largest" top: "wide"
  convolution_param { num_output: 16 kernel_size: 1 group: 2 FILLED } }
layer { name: "shuffle" type: "ShuffleChannel" bottom: "wide" top: "shuffled"
  shuffle_channel_param { group: 2 } }
layer { name: "filtered" type: "DepthwiseConvolution" bottom: "shuffled" top: "filtered"
  convolution_param { num_output: 16 group: 16 kernel_size: 3 pad: 1 FILLED } }
layer { name: "filtered_relu" type: "ReLU" bottom: "filtered" top: "filtered" }
layer { name: "drawn" type: "Pooling" bottom: "filtered" top: "drawn"
  pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 1 } }
layer { name: "norm" type: "LRN" bottom: "drawn" top: "norm" lrn_param { alpha: 0.3 } }
layer { name: "halved" type: "DepthwiseConvolution" bottom: "norm" top: "halved"
  convolution_param { num_output: 16 group: 16 kernel_size: 3 stride: 2 FILLED } }
layer { name: "mean" type: "Pooling" bottom: "halved" top: "mean"
  pooling_param { pool: AVE kernel_size: 3 stride: 1 pad: 1 } }
layer { name: "narrow" type: "Convolution" bottom: "mean" top: "narrow"
  convolution_param { num_output: 9 kernel_size: 1 FILLED } }
layer { name: "all" type: "Pooling" bottom: "narrow" top: "all"
  pooling_param { pool: AVE global_pooling: true } }
layer { name: "score" type: "InnerProduct" bottom: "all" top: "score"
  inner_product_param { num_output: 5 FILLED } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
"""


def passes(net: Net, count: int) -> list[np.ndarray]:
    """The losses of several passes over different inputs, and the last one's gradients."""
    results = []
    for step in range(count):
        net.blobs["data"].data[...] = drawn(2, 3, 21, 22, seed=step)
        net.blobs["label"].data[...] = np.random.default_rng(step).integers(0, 5, 2)
        net.clear_param_diffs()
        results.append(np.float32(net.forward()))
        net.backward()
    return results + [np.array(blob.diff) for blobs in net.params.values() for blob in blobs]


def test_both_layouts_agree_and_there_is_no_reorder(fast: EmulatedDevice) -> None:
    definition = text_format.Parse(TEXT.replace("FILLED", FILLED), pb.NetParameter())
    found = {}
    for layout in (PLAIN, NHWC):
        backend = LaidOut(fast, "tf32", layout=layout)
        net = Net(definition, phase=pb.TRAIN, keep="outputs", seed=3, poison=True, backend=backend)
        found[layout] = passes(net, 3)
        values = [value for value in net.program.graph.values() if len(value.shape) == 4]
        layouts = {value.name: value.layout for value in values if value.shape[2:] != (1, 1)}
        assert layouts.pop("data") == PLAIN
        assert len(layouts) >= 9  # those inside a chain of layers that run as one are not among them
        assert set(layouts.values()) == {layout}
        assert Reorder.type not in {form.node.type for form in net.program.forms}
    for got, wanted in zip(found[NHWC], found[PLAIN], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=2e-3 * np.abs(wanted).max())
