"""A net of every kind of convolution agrees with the CPU on the device, fused, recorded and replayed."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format

from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.convolution import form as conv_form
from netc.backends.cuda.emulator import EmulatedDevice
from netc.proto import netc_pb2 as pb
from netc.runtime.net import Net
from tests.cuda.one_chain import drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

FILLED = 'weight_filler { type: "gaussian" std: 0.2 } bias_filler { type: "constant" value: 0.1 }'
TEXT = """
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 3 dim: 13 dim: 12 } shape { dim: 4 } } }
layer { name: "first" type: "Convolution" bottom: "data" top: "first"
  convolution_param { num_output: 8 kernel_size: 5 stride: 2 pad: 2 FILLED } }
layer { name: "relu" type: "ReLU" bottom: "first" top: "first" }
layer { name: "grouped" type: "Convolution" bottom: "first" top: "grouped"
  convolution_param { num_output: 12 kernel_size: 3 pad: 1 group: 2 FILLED } }
layer { name: "leaky" type: "ReLU" bottom: "grouped" top: "rectified" relu_param { negative_slope: 0.1 } }
layer { name: "channels" type: "DepthwiseConvolution" bottom: "rectified" top: "channels"
  convolution_param { num_output: 12 group: 12 kernel_size: 3 pad: 1 stride: 2 FILLED } }
layer { name: "points" type: "Convolution" bottom: "channels" top: "points"
  convolution_param { num_output: 16 kernel_size: 1 FILLED } }
layer { name: "points_relu" type: "ReLU" bottom: "points" top: "points" }
layer { name: "large" type: "Deconvolution" bottom: "points" top: "large"
  convolution_param { num_output: 6 kernel_size: 4 stride: 2 pad: 1 FILLED } }
layer { name: "large_relu" type: "ReLU" bottom: "large" top: "large" }
layer { name: "score" type: "Convolution" bottom: "large" top: "score"
  convolution_param { num_output: 5 kernel_h: 8 kernel_w: 6 FILLED } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
"""


def passes(net: Net, count: int) -> list[np.ndarray]:
    """The losses and the last gradients of several passes over different inputs."""
    results = []
    for step in range(count):
        net.blobs["data"].data[...] = drawn(4, 3, 13, 12, seed=step)
        net.blobs["label"].data[...] = np.random.default_rng(step).integers(0, 5, 4)
        net.clear_param_diffs()
        results.append(np.float32(net.forward()))
        net.backward()
    return results + [np.array(blob.diff) for blobs in net.params.values() for blob in blobs]


@pytest.mark.parametrize("keep", ["all", "outputs"])
def test_the_net_agrees_with_the_cpu(fast: EmulatedDevice, keep: str) -> None:
    definition = text_format.Parse(TEXT.replace("FILLED", FILLED), pb.NetParameter())
    options = {"phase": pb.TRAIN, "keep": keep, "seed": 3, "poison": keep == "outputs"}
    wanted = passes(Net(definition, **options), 3)
    net = Net(definition, backend=CudaBackend(fast), **options)
    got = passes(net, 3)
    kinds = {type(form) for form in net.program.forms if form.node.type in conv_form.TYPES}
    assert kinds == {conv_form.Convolution, conv_form.Deconvolution}
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * max(1e-3, np.abs(other).max()))
