"""Nets that are too large say so at the layer that makes them so, before memory is asked for."""

from __future__ import annotations

import pytest

from netc.backends.cpu import CpuBackend
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.net import parse_net

NET = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 30 } } }
layer { name: "small" type: "InnerProduct" bottom: "data" top: "small"
  inner_product_param { num_output: 4 } }
layer { name: "large" type: "InnerProduct" bottom: "small" top: "large"
  inner_product_param { num_output: OUTPUTS } }
layer { name: "after" type: "ReLU" bottom: "large" top: "after" }
force_backward: true
"""


def error_of(text: str) -> NetcError:
    parsed = parse_net(text.replace("OUTPUTS", "2000"), "f")
    with pytest.raises(NetcError) as caught:
        Net(parsed.message, pb.TEST, seed=1, positions=parsed.positions)
    return caught.value


@pytest.mark.parametrize(("installed", "what"), [(40_000, "parameters"), (50_000, "blobs")])
def test_a_net_that_does_not_fit_names_its_largest_layer(
    monkeypatch: pytest.MonkeyPatch, installed: int, what: str
) -> None:
    """2,000 outputs make 40,496 bytes of parameters, and 64,000 bytes of blobs and their gradients."""
    monkeypatch.setattr(CpuBackend, "installed", installed)
    found = int(str(error_of(NET).found).partition(" ")[0].replace(",", ""))
    assert found > 60_000 if what == "blobs" else 40_000 < found < 45_000
    error = error_of(NET)
    assert "does not fit into this machine's memory" in error.what
    assert str(error.at) == "f:4:1"
    assert error.layer == "large (InnerProduct), the largest"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        (NET.replace("OUTPUTS", "4294967295").replace("dim: 2 ", "dim: 1000000 "), "f:4:1", "blob 'large'"),
        (NET.replace("dim: 30", "dim: 9000000000000000000"), "f:1:1", "blob 'data'"),
        (NET.replace("dim: 2 dim: 30", "dim: 4294967296 dim: 4294967296"), "f:1:1", "blob 'data'"),
        (
            NET.replace("dim: 2 dim: 30", "dim: 1 dim: 1000000000000").replace("4 }", "4000 }"),
            "f:2:1",
            "param",
        ),
    ],
)
def test_a_size_that_no_machine_has_is_a_slip_with_a_place(text: str, place: str, words: str) -> None:
    error = error_of(text)
    assert words in error.what
    assert "too large for any machine" in error.what
    assert str(error.at) == place
