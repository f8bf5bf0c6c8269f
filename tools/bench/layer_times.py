"""What every layer of netc's net takes, and how near it comes to the machine's matrix product."""

from __future__ import annotations

from typing import Any

from bench.netc_runner import NetcRunner
from netc.runtime import Net
from netc.tools.timing import LayerTimes, Times, measure


def time_layers(runner: NetcRunner, iterations: int) -> list[dict[str, Any]]:
    """One row for every layer that takes time: name, type and, for each direction, milliseconds and GFLOP/s.

    A chain of layers that run as one is counted where it starts.
    """
    net: Net = runner.net
    times = measure(net, iterations, lambda number, seconds: None)
    return [_row(layer) for layer in times.layers if layer.forward.median + layer.backward.median > 0]


def _row(layer: LayerTimes) -> dict[str, Any]:
    return {
        "name": layer.name,
        "type": layer.type,
        "forward": _times(layer.forward),
        "backward": _times(layer.backward),
    }


def _times(times: Times) -> dict[str, float]:
    return {
        "median_ms": 1e3 * times.median,
        "min_ms": 1e3 * times.least,
        "max_ms": 1e3 * times.most,
        "gflops": times.gigaflops,
    }
