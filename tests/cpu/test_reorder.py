"""Reorders between layouts, of values and of gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from netc.backends.cpu.reorder import ReorderForm
from netc.layer import Buffers
from tests.cpu.form_case import LAYOUTS, aligned, allocate, build, engine, pack, unpack


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(LAYOUTS, 2)))
@pytest.mark.parametrize("shape", [(2, 16, 4, 5), (3, 5, 4, 1), (1, 1, 1, 1)])
def test_there_and_back(source: str, target: str, shape: tuple[int, ...]) -> None:
    opened = engine()
    graph = build('layer { name: "r" type: "ReLU" bottom: "x0" top: "y" }', shape)
    node = graph.nodes[1]
    node.inputs[0].layout, node.outputs[0].layout = source, target
    form = ReorderForm(node, graph.nodes[0], opened)
    assert form.served is graph.nodes[0]
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    blank = np.full(shape, np.nan, np.float32)
    x, y = aligned(pack(values, source, opened.block)), aligned(pack(blank, target, opened.block))
    b = Buffers(bottoms=[x], tops=[y], workspace=allocate(form.forward_workspace))
    form.forward(b)()
    np.testing.assert_array_equal(unpack(y, shape, target, opened.block), values)
    gradient = aligned(pack(blank, source, opened.block))
    b = Buffers(bottom_grads=[gradient], top_grads=[y], workspace=allocate(form.backward_workspace))
    run = form.backward(b)
    assert run is not None
    run()
    np.testing.assert_array_equal(unpack(gradient, shape, source, opened.block), values)
