"""The benchmark's single layers: their nets, one direction at a time, and what they cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench import netc_layer_runner
from bench.job import Job
from bench.layer_table import CONVOLUTIONS, DIRECTIONS, MEMORY_BOUND, ConvolutionRow, MemoryRow
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.net import parse_net

SMALL = ConvolutionRow("small", 2, 4, 7, 6, 3, stride=2, pad=1, group=2)


def gradients_of(row: ConvolutionRow | MemoryRow, direction: str) -> tuple[bool, bool]:
    """Whether a gradient of the first bottom is computed, and one of any parameter."""
    net = Net(parse_net(row.text(direction)).message, pb.TRAIN, keep="outputs")
    node = net.graph.nodes[-1]
    return bool(node.input_needs_grad[0]), any(node.param_needs_grad)


@pytest.mark.parametrize(
    ("direction", "wanted"),
    [("forward", (False, False)), ("backward_data", (True, False)), ("backward_weights", (False, True))],
)
def test_a_direction_of_a_convolution_computes_that_gradient_alone(
    direction: str, wanted: tuple[bool, bool]
) -> None:
    assert gradients_of(SMALL, direction) == wanted


def test_a_convolutions_operations_are_those_of_its_output() -> None:
    net = Net(parse_net(SMALL.text("forward")).message)
    top = net.blobs["top"].data
    assert top.shape == (2, 6, SMALL.output, SMALL.output)
    assert SMALL.flops == 2 * top.size * (4 // 2) * 3 * 3


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_netc_runs_one_direction_over_and_over(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netc_layer_runner, "ROWS", {"small": SMALL})
    runner = netc_layer_runner.NetcLayerRunner(Job("netc", "", "layers", 0, 1, ""))
    loaded = runner.load("small", direction)
    runner.step()
    runner.wait()
    assert loaded["bytes"] == 4 * (2 * 4 * 7 * 7 + 2 * 6 * 4 * 4)
    blobs, weights = runner.net.blobs, runner.net.params["layer"][0]
    results = {"forward": blobs["top"].data, "backward_weights": weights.diff}
    if direction == "backward_data":
        results[direction] = blobs["bottom0"].diff
    assert np.abs(results[direction]).max() > 0


@pytest.mark.parametrize("row", MEMORY_BOUND, ids=[row.name for row in MEMORY_BOUND])
def test_a_row_that_memory_bounds_is_a_net_with_a_gradient_of_its_bottom(row: MemoryRow) -> None:
    bottoms = tuple((2, shape[1], *[7] * (len(shape) - 2)) for shape in row.bottoms)
    assert gradients_of(replace(row, bottoms=bottoms), "backward")[0]


def test_every_row_has_a_name_of_its_own() -> None:
    names = [row.name for row in (*CONVOLUTIONS, *MEMORY_BOUND)]
    assert len(set(names)) == len(names)
