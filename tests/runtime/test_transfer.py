"""Weights go into a net by layer name, and every difference between file and net is named."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from netc.errors import NetcError, NetcErrors
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.net import parse_net

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }\n'


def inner_product(name: str, outputs: int, bias: bool = True) -> str:
    options = (
        f"num_output: {outputs} bias_term: {str(bias).lower()} weight_filler {{ type: 'gaussian' std: 1 }}"
    )
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "data" top: "{name}"'
        f" inner_product_param {{ {options} }} }}\n"
    )


def net_of(*layers: str) -> Net:
    return Net(parse_net(INPUT + "".join(layers)).message, pb.TEST, seed=1)


def saved(path: Path, *layers: str) -> str:
    net = net_of(*layers)
    net.parameters.data[...] = np.arange(len(net.parameters.data))
    net.save(path)
    return str(path)


@pytest.fixture(params=["w.caffemodel", "w.caffemodel.h5"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def test_missing_and_extra_layers_are_named_and_the_rest_is_loaded(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = saved(path, inner_product("both", 2), inner_product("extra", 4))
    net = net_of(inner_product("both", 2), inner_product("missing", 5))
    before = net.params["missing"][0].data.copy()
    with caplog.at_level(logging.INFO, "netc"):
        net.load_weights(file)
    lines = [record.getMessage() for record in caplog.records]
    assert "Ignoring source layer extra" in lines
    assert f"Layer missing is not in {file} and keeps its own parameters" in lines
    np.testing.assert_array_equal(net.params["both"][0].data.ravel(), np.arange(6))
    np.testing.assert_array_equal(net.params["missing"][0].data, before)


def test_every_shape_that_differs_is_named_and_nothing_is_changed(path: Path) -> None:
    file = saved(path, inner_product("fine", 2), inner_product("a", 2), inner_product("b", 3, bias=False))
    net = net_of(inner_product("fine", 2), inner_product("a", 7), inner_product("b", 3))
    before = net.parameters.data.copy()
    with pytest.raises(NetcErrors) as caught:
        net.load_weights(file)
    found = [(error.layer, error.expected, error.found) for error in caught.value.errors]
    assert found == [("a", [7, 3], [2, 3]), ("a", [7], [2]), ("b", 2, 1)]
    assert all(file in error.what for error in caught.value.errors)
    assert all(error.remedy == "rename the layer to learn it from scratch" for error in caught.value.errors)
    np.testing.assert_array_equal(net.parameters.data, before)


def test_a_file_of_which_nothing_fits_by_name_is_warned_of(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = saved(path, inner_product("old_name", 2))
    with caplog.at_level(logging.WARNING, "netc"):
        net_of(inner_product("new_name", 2)).load_weights(file)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "nothing was loaded" in line
    assert "old_name" in line
    assert "new_name" in line


def test_one_difference_is_one_error(path: Path) -> None:
    file = saved(path, inner_product("a", 2, bias=False))
    with pytest.raises(NetcError, match="another shape for parameter 0") as caught:
        net_of(inner_product("a", 3, bias=False)).load_weights(file)
    assert not isinstance(caught.value, NetcErrors)
