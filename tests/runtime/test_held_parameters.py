"""A net for use keeps its parameters as primitives want them, and notices every change of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.backends.cpu import CpuBackend
from netc.proto import netc_pb2 as pb
from netc.runtime import Net

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 8 dim: 9 dim: 9 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a"
        convolution_param { num_output: 16 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "a" top: "bn" }
layer { name: "b" type: "Convolution" bottom: "bn" top: "b"
        convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "net.prototxt").write_text(NET)
    return str(tmp_path / "net.prototxt")


def make(model: str, **options: object) -> Net:
    return Net(model, pb.TEST, seed=1, backward=False, **options)  # type: ignore[arg-type]


def run(net: Net) -> np.ndarray:
    net.blobs["data"].data[...] = np.random.default_rng(1).standard_normal((1, 8, 9, 9))
    net.forward()
    return np.array(net.output_values()[0].data)


def agrees(net: Net, model: str, weights: str) -> None:
    plain = make(model, weights=weights, backend=CpuBackend(fast=False))
    wanted = run(plain)
    np.testing.assert_allclose(run(net), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def save(net: Net, path: Path) -> str:
    net.save(str(path))
    return str(path)


def test_loaded_weights_are_used_at_the_next_pass(model: str, tmp_path: Path) -> None:
    first = make(model, keep="outputs")
    agrees(first, model, save(first, tmp_path / "first.caffemodel"))
    other = Net(model, pb.TEST, seed=2, backward=False)
    weights = save(other, tmp_path / "other.caffemodel")
    first.load_weights(weights)
    agrees(first, model, weights)


def test_a_parameter_in_a_users_hand_may_change_at_any_time(model: str, tmp_path: Path) -> None:
    net = make(model, keep="outputs")
    run(net)
    filters = net.params["a"][0].data
    for factor in (2, 3):
        filters *= factor
        agrees(net, model, save(net, tmp_path / f"{factor}.caffemodel"))


def test_a_net_of_new_shapes_has_the_parameters_too(model: str, tmp_path: Path) -> None:
    net = make(model, keep="outputs")
    weights = save(net, tmp_path / "w.caffemodel")
    run(net)
    net.blobs["data"].reshape(2, 8, 11, 9)
    net.blobs["data"].data[...] = 1
    net.forward()
    plain = make(model, weights=weights, backend=CpuBackend(fast=False))
    plain.blobs["data"].reshape(2, 8, 11, 9)
    plain.blobs["data"].data[...] = 1
    plain.forward()
    np.testing.assert_allclose(
        net.output_values()[0].data, plain.output_values()[0].data, rtol=1e-4, atol=1e-6
    )


@pytest.mark.skipif(not CpuBackend().forms, reason="oneDNN is not installed")
def test_only_a_net_for_use_alone_holds_its_parameters(model: str) -> None:
    assert make(model, keep="outputs").demand.holds
    assert not make(model).demand.holds
    assert not Net(model, pb.TRAIN, keep="outputs").demand.holds
    assert not make(model, keep="outputs", share_with=make(model, keep="outputs")).demand.holds
