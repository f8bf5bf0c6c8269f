"""OpenCV's dnn module reads the nets and weights that netc writes, and computes what netc computes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.net import parse_net
from netc.schema.text import format_text

# Another program's arithmetic: not the tolerance of netc's own numbers.
RELATIVE = 2e-5


def layer(name: str, kind: str, bottom: str, options: str = "", top: str = "") -> str:
    bottoms = " ".join(f'bottom: "{blob}"' for blob in bottom.split())
    tops = " ".join(f'top: "{blob}"' for blob in (top or name).split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} {tops} {options} }}\n'


def data(*shape: int) -> str:
    dims = " ".join(f"dim: {n}" for n in shape)
    return f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n'


def convolution(outputs: int, kernel: int, more: str = "") -> str:
    fillers = 'weight_filler { type: "xavier" } bias_filler { type: "gaussian" std: 0.1 }'
    return f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} {fillers} {more} }}"


def inner_product(outputs: int) -> str:
    fillers = 'weight_filler { type: "xavier" } bias_filler { type: "gaussian" std: 0.1 }'
    return f"inner_product_param {{ num_output: {outputs} {fillers} }}"


POOL = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"

NETS = {
    "lenet": data(2, 1, 28, 28)
    + layer("conv1", "Convolution", "data", convolution(20, 5))
    + layer("pool1", "Pooling", "conv1", POOL)
    + layer("conv2", "Convolution", "pool1", convolution(50, 5))
    + layer("pool2", "Pooling", "conv2", POOL)
    + layer("ip1", "InnerProduct", "pool2", inner_product(50))
    + layer("relu1", "ReLU", "ip1", top="ip1")
    + layer("drop1", "Dropout", "ip1", top="ip1")
    + layer("ip2", "InnerProduct", "ip1", inner_product(10))
    + layer("prob", "Softmax", "ip2"),
    "batch_norm_and_scale": data(2, 3, 9, 11)
    + layer("conv", "Convolution", "data", convolution(6, 3, "pad: 1 bias_term: false"))
    + layer("bn", "BatchNorm", "conv", "batch_norm_param { use_global_stats: true }", top="conv")
    + layer(
        "scale",
        "Scale",
        "conv",
        'scale_param { bias_term: true filler { type: "gaussian" std: 1 } bias_filler { value: 0.3 } }',
        top="conv",
    )
    + layer("relu", "ReLU", "conv", "relu_param { negative_slope: 0.1 }", top="conv")
    + layer("pool", "Pooling", "conv", "pooling_param { pool: AVE global_pooling: true }"),
    "groups_and_lrn": data(1, 4, 13, 12)
    + layer("conv1", "Convolution", "data", convolution(8, 3, "group: 2 stride: 2 pad: 1"))
    + layer("norm", "LRN", "conv1", "lrn_param { local_size: 5 alpha: 0.05 beta: 0.75 }")
    + layer("pool", "Pooling", "norm", "pooling_param { pool: MAX kernel_size: 3 stride: 2 }")
    + layer("depthwise", "Convolution", "pool", convolution(8, 3, "group: 8 pad: 2 dilation: 2")),
    "branches": data(2, 3, 12, 12)
    + layer("a", "Convolution", "data", convolution(4, 1))
    + layer("b", "Convolution", "data", convolution(5, 3, "pad: 1"))
    + layer("c", "Pooling", "data", "pooling_param { pool: MAX kernel_size: 3 stride: 1 pad: 1 }")
    + layer("join", "Concat", "a b c")
    + layer("d", "Convolution", "join", convolution(12, 1))
    + layer("sum", "Eltwise", "join d", "eltwise_param { operation: SUM }")
    + layer("tanh", "TanH", "sum"),
    "deconvolution": data(1, 3, 7, 6)
    + layer("conv", "Convolution", "data", convolution(4, 3, "pad: 1"))
    + layer("prelu", "PReLU", "conv", top="conv")
    + layer("up", "Deconvolution", "conv", convolution(2, 4, "stride: 2 pad: 1"))
    + layer("sigmoid", "Sigmoid", "up"),
}


def net_with_weights(text: str) -> Net:
    """A net whose parameters are all at random, statistics included."""
    net = Net(parse_net(text).message, pb.TEST, seed=3)
    random = np.random.default_rng(5)
    for node in net.graph.nodes:
        if node.type == "BatchNorm":
            mean, variance, factor = net.params[node.name]
            mean.data[...] = random.normal(size=mean.shape)
            variance.data[...] = random.uniform(1, 3, variance.shape)
            factor.data[...] = 2
    for name in net.inputs:
        net.blobs[name].data[...] = random.normal(size=net.blobs[name].shape)
    return net


@pytest.mark.parametrize("name", NETS)
def test_opencv_computes_the_same_outputs_from_netcs_files(name: str, tmp_path: Path) -> None:
    net = net_with_weights(NETS[name])
    deploy, weights = tmp_path / "deploy.prototxt", tmp_path / "net.caffemodel"
    deploy.write_text(format_text(net.definition))
    net.save(weights)
    net.forward()

    other = cv2.dnn.readNetFromCaffe(str(deploy), str(weights))
    other.setInput(np.ascontiguousarray(net.blobs["data"].data))
    (output,) = net.outputs
    found, expected = other.forward(), net.blobs[output].data
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= RELATIVE * np.abs(expected).max()
    assert np.abs(expected).max() > 1e-3


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("suffix", [".caffemodel", ".caffemodel.h5"])
def test_netc_reads_its_own_files_bit_for_bit(name: str, suffix: str, tmp_path: Path) -> None:
    net = net_with_weights(NETS[name])
    net.save(tmp_path / f"net{suffix}")
    again = Net(net.definition, pb.TEST, seed=4, weights=str(tmp_path / f"net{suffix}"))
    again.save(tmp_path / f"again{suffix}")
    for layer_name, blobs in net.params.items():
        for blob, other in zip(blobs, again.params[layer_name], strict=True):
            assert blob.data.tobytes() == other.data.tobytes()
    if suffix == ".caffemodel":
        assert (tmp_path / f"net{suffix}").read_bytes() == (tmp_path / f"again{suffix}").read_bytes()
