"""A net in numbers: what every layer costs and sees, and the totals, as the tables of lectures show it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import numpy as np

from netc.backends.form import ReferenceForm
from netc.graph import Graph, Node
from netc.layer import Shape
from netc.passes.memory import plan_memory
from netc.proto import netc_pb2 as pb
from netc.tools.cost import Cost, graph_costs
from netc.tools.receptive_field import Field, receptive_fields
from netc.tools.sketch import Sketch

VALUE_BYTES: Final = 4


@dataclass(frozen=True)
class LayerSummary:
    """One layer. tops, params: names and shapes; field: what a cell of its first top sees."""

    name: str
    type: str
    tops: tuple[tuple[str, Shape], ...]
    params: tuple[Shape, ...]
    in_place: bool
    cost: Cost
    field: Field | None


@dataclass(frozen=True)
class Summary:
    """The layers of a net in one phase, for a batch of `batch` items, and their totals.

    forward_bytes, training_bytes: the activations as netc lays them out, where buffers that never meet share
    memory; the latter with gradients, None for a net without a loss.
    """

    net: str
    phase: str
    batch: int
    layers: tuple[LayerSummary, ...]
    total: Cost
    forward_bytes: int
    training_bytes: int | None
    guessed: tuple[str, ...] = ()


def summarize(sketched: Sketch) -> Summary:
    """The summary of a sketched net. Split layers, which netc puts in by itself, are left out."""
    graph = sketched.graph
    costs, fields = graph_costs(graph), receptive_fields(graph)
    layers = [
        LayerSummary(
            node.name,
            node.type,
            tuple((value.name, value.shape) for value in node.outputs),
            tuple(param.shape for param in node.params),
            node.layer.runs_in_place,
            costs[node],
            fields[node.outputs[0]] if node.outputs else None,
        )
        for node in graph.nodes
        if not _made_by_netc(node, graph)
    ]
    units = [ReferenceForm(node, np) for node in graph.nodes]
    plans = {
        backward: plan_memory(graph, units, backward=backward, keep_all=False, itemsize=VALUE_BYTES)
        for backward in (False, True)
    }
    trains = any(node.needs_backward for node in graph.nodes)
    return Summary(
        graph.name,
        pb.Phase.Name(graph.phase),
        sketched.batch,
        tuple(layers),
        _total(layer.cost for layer in layers),
        plans[False].arena_bytes,
        plans[True].arena_bytes if trains else None,
        sketched.guessed,
    )


def _made_by_netc(node: Node, graph: Graph) -> bool:
    return node.type == "Split" and all(layer.name != node.name for layer in graph.definition.layer)


def _total(costs: Any) -> Cost:
    names = Cost.__dataclass_fields__
    rows = list(costs)
    return Cost(**{name: sum(getattr(cost, name) for cost in rows) for name in names})


def as_json(summary: Summary) -> dict[str, Any]:
    """The summary as plain values. Sizes are in bytes of fp32; a field is null or "whole" or three pairs."""
    return {
        "net": summary.net,
        "phase": summary.phase,
        "batch": summary.batch,
        "layers": [_layer_json(layer) for layer in summary.layers],
        "totals": {
            **_cost_json(summary.total),
            "planned_forward_bytes": summary.forward_bytes,
            "planned_training_bytes": summary.training_bytes,
        },
        "guessed_inputs": list(summary.guessed),
    }


def _layer_json(layer: LayerSummary) -> dict[str, Any]:
    return {
        "name": layer.name,
        "type": layer.type,
        "tops": [{"name": name, "shape": list(shape)} for name, shape in layer.tops],
        "params": [list(shape) for shape in layer.params],
        "in_place": layer.in_place,
        **_cost_json(layer.cost),
        "receptive_field": _field_json(layer.field),
    }


def _cost_json(cost: Cost) -> dict[str, int]:
    return {
        "parameters": cost.parameters,
        "parameter_bytes": cost.parameters * VALUE_BYTES,
        "multiply_adds": cost.multiply_adds,
        "multiply_adds_with_backward": cost.multiply_adds + cost.backward_multiply_adds,
        "activation_values": cost.values,
        "activation_bytes": cost.values * VALUE_BYTES,
        "activation_bytes_with_backward": (cost.values + cost.gradient_values) * VALUE_BYTES,
    }


def _field_json(field: Field | None) -> Any:
    if field is None:
        return None
    if field.whole:
        return "whole"
    return {
        "size": [_plain(axis.size) for axis in field.axes],
        "stride": [_plain(axis.stride) for axis in field.axes],
        "centre": [_plain(axis.centre) for axis in field.axes],
    }


def _plain(number: Fraction) -> int | float:
    return int(number) if number.denominator == 1 else float(number)
