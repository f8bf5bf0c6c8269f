"""What the log says of a net: how it was built, and with `debug_info` what every step leaves behind."""

from __future__ import annotations

import logging

import numpy as np

from netc.backends.step import Step
from netc.graph import Graph
from netc.layer import Array, Buffers
from netc.layer.base import count

log = logging.getLogger(__name__)


def log_graph(graph: Graph) -> None:
    """The lines that Caffe writes while it builds a net, in its words, for programs that read logs."""

    def say(source: str, message: str, *args: object) -> None:
        log.info(message, *args, extra={"source": source})

    elements = 0
    for node in graph.nodes:
        say("net.cpp:86", "Creating Layer %s", node.name)
        for value in node.inputs:
            say("net.cpp:408", "%s <- %s", node.name, value.name)
        for value in node.outputs:
            in_place = " (in-place)" if any(value.name == read.name for read in node.inputs) else ""
            say("net.cpp:382", "%s -> %s%s", node.name, value.name, in_place)
        say("net.cpp:124", "Setting up %s", node.name)
        for value in node.outputs:
            shape = "".join(f"{n} " for n in value.shape)
            say("net.cpp:131", "Top shape: %s(%d)", shape, count(value.shape))
            if value.loss_weight:
                say("net.cpp:134", "    with loss weight %g", value.loss_weight)
            elements += count(value.shape)
        say("net.cpp:139", "Memory required for data: %d", elements * 4)
    for node in reversed(graph.nodes):
        if node.needs_backward:
            say("net.cpp:200", "%s needs backward computation.", node.name)
        else:
            say("net.cpp:202", "%s does not need backward computation.", node.name)
    for value in graph.outputs:
        say("net.cpp:244", "This network produces output %s", value.name)
    say("net.cpp:257", "Network initialization done.")


def log_step(step: Step, buffers: Buffers) -> None:
    """The mean magnitude of what a step made: tops and parameters forward, their gradients backward."""
    layer = step.node.layer

    def say(source: str, message: str, *args: object) -> None:
        log.info(message, *args, extra={"source": source})

    if step.direction == "forward":
        for value, top in zip(step.node.outputs, buffers.tops, strict=True):
            say(
                "net.cpp:566",
                "    [Forward] Layer %s, top blob %s data: %g",
                layer.name,
                value.name,
                _mean(top),
            )
        for index, param in enumerate(buffers.params):
            say(
                "net.cpp:578",
                "    [Forward] Layer %s, param blob %d data: %g",
                layer.name,
                index,
                _mean(param),
            )
        return
    for value, grad in zip(step.node.inputs, buffers.bottom_grads, strict=True):
        if grad is not None:
            say(
                "net.cpp:594",
                "    [Backward] Layer %s, bottom blob %s diff: %g",
                layer.name,
                value.name,
                _mean(grad),
            )
    for index, grad in enumerate(buffers.param_grads):
        if grad is not None:
            say(
                "net.cpp:605",
                "    [Backward] Layer %s, param blob %d diff: %g",
                layer.name,
                index,
                _mean(grad),
            )


def log_norms(data: Array, grad: Array) -> None:
    """The norms of all parameters and of their gradients, after a backward pass."""
    log.info(
        "    [Backward] All net params (data, diff): L1 norm = (%g, %g); L2 norm = (%g, %g)",
        np.abs(data).sum(),
        np.abs(grad).sum(),
        np.sqrt((data * data).sum()),
        np.sqrt((grad * grad).sum()),
        extra={"source": "net.cpp:544"},
    )


def _mean(array: Array) -> float:
    return float(abs(array).sum() / max(array.size, 1))
