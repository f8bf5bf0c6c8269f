"""Measures what every layer of a net takes, forward and backward."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from netc.graph import Node
from netc.layer import SourceLayer
from netc.passes.work import FLOPS_PER_MULTIPLY_ADD, backward_multiply_adds, multiply_adds
from netc.runtime import Net


@dataclass
class Times:
    """The seconds that one direction of one layer took, run by run, and its multiply-adds."""

    seconds: list[float] = field(default_factory=list)
    multiply_adds: int = 0

    @property
    def least(self) -> float:
        return min(self.seconds, default=0.0)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds) if self.seconds else 0.0

    @property
    def most(self) -> float:
        return max(self.seconds, default=0.0)

    @property
    def mean(self) -> float:
        return statistics.fmean(self.seconds) if self.seconds else 0.0

    @property
    def gigaflops(self) -> float:
        """10^9 floating-point operations a second, by the median; 0 where nothing is counted."""
        flops = FLOPS_PER_MULTIPLY_ADD * self.multiply_adds
        return flops / self.median / 1e9 if self.median else 0.0


@dataclass
class LayerTimes:
    """One layer's times."""

    name: str
    type: str
    forward: Times
    backward: Times


@dataclass
class NetTimes:
    """The times of all layers, and of whole passes."""

    layers: list[LayerTimes]
    forward: Times = field(default_factory=Times)
    backward: Times = field(default_factory=Times)

    @property
    def both(self) -> Times:
        """Forward and backward together."""
        sums = [f + b for f, b in zip(self.forward.seconds, self.backward.seconds, strict=True)]
        return Times(sums, self.forward.multiply_adds + self.backward.multiply_adds)


def measure(net: Net, iterations: int, on_iteration: Callable[[int, float], None]) -> NetTimes:
    """Runs `iterations` passes layer by layer; a data layer's time is what the net waits for its batch.

    on_iteration(number, seconds) is called after each. Layers that netc puts in (Split) are measured too.
    """
    times = NetTimes([_layer_times(node) for node in net.graph.nodes])
    for total in (times.forward, times.backward):
        rows = [layer.forward if total is times.forward else layer.backward for layer in times.layers]
        total.multiply_adds = sum(row.multiply_adds for row in rows)
    for iteration in range(1, iterations + 1):
        forward = [_clock(_forward(net, i)) for i in range(len(times.layers))]
        backward = [_clock(_backward(net, i)) for i in reversed(range(len(times.layers)))][::-1]
        _note(times, forward, backward)
        on_iteration(iteration, sum(forward) + sum(backward))
    return times


def _note(times: NetTimes, forward: Sequence[float], backward: Sequence[float]) -> None:
    for layer, seconds, back in zip(times.layers, forward, backward, strict=True):
        layer.forward.seconds.append(seconds)
        layer.backward.seconds.append(back)
    times.forward.seconds.append(sum(forward))
    times.backward.seconds.append(sum(backward))


def _layer_times(node: Node) -> LayerTimes:
    return LayerTimes(
        node.name,
        node.type,
        Times(multiply_adds=multiply_adds(node)),
        Times(multiply_adds=backward_multiply_adds(node)),
    )


def _forward(net: Net, index: int) -> Callable[[], object]:
    """One layer's forward; through the net where it may change shapes, else without that detour."""
    node = net.graph.nodes[index]
    if isinstance(node.layer, SourceLayer) or node.layer.shapes_by_value:
        return lambda: net.forward_layers(index, index)
    return lambda: net.program.forward([node])


def _backward(net: Net, index: int) -> Callable[[], object]:
    node = net.graph.nodes[index]
    return lambda: net.program.backward([node])


def _clock(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
