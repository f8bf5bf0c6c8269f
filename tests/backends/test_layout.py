"""A net whose forms work in another layout computes what it computes in the plain one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from google.protobuf import text_format

from netc.backends.cpu import CpuBackend
from netc.backends.form import NHWC, PLAIN, Form, Maker, Mode, Run
from netc.graph import Node
from netc.layer import Buffers
from netc.proto import netc_pb2 as pb
from netc.runtime import Net

TYPES = ("Convolution", "Pooling", "ReLU", "Concat", "Eltwise")


class ByCopies(Form):
    """A layer's own meaning on contiguous copies: it can take its image-shaped arrays in any layout."""

    def __init__(self, nodes: Sequence[Node], layout: str) -> None:
        super().__init__(nodes)
        layer = self.node.layer
        self.variant = layout
        self.saved = layer.saved
        self.backward_bottoms, self.backward_tops = layer.backward_bottoms, layer.backward_tops
        self.bottom_layouts = [layout if len(value.shape) == 4 else PLAIN for value in self.inputs]
        self.top_layouts = [layout if len(value.shape) == 4 else PLAIN for value in self.outputs]

    def _around(self, b: Buffers, direction: str) -> Run:
        def run() -> None:
            copies = Buffers(
                bottoms=[np.array(x, order="C") for x in b.bottoms],
                tops=[np.array(y, order="C") for y in b.tops],
                params=b.params,
                saved=b.saved,
                states=b.states,
                bottom_grads=[None if g is None else np.array(g, order="C") for g in b.bottom_grads],
                top_grads=[None if g is None else np.array(g, order="C") for g in b.top_grads],
                param_grads=b.param_grads,
            )
            getattr(self.node.layer, direction)(np, copies)
            forward = direction == "forward"
            targets = b.tops if forward else b.bottom_grads
            results = copies.tops if forward else copies.bottom_grads
            for target, copy in zip(targets, results, strict=True):
                if target is not None:
                    target[...] = copy

        return run

    def forward(self, b: Buffers) -> Run:
        return self._around(b, "forward")

    def backward(self, b: Buffers) -> Run:
        return self._around(b, "backward")


class NhwcBackend(CpuBackend):
    """Works with the channels last wherever the types above stand."""

    @property
    def forms(self) -> Mapping[tuple[str, ...], Maker]:
        return {(type_,): lambda nodes, mode, engine: ByCopies(nodes, mode.layout) for type_ in TYPES}

    def form(self, maker: Maker, nodes: Sequence[Node], mode: Mode) -> Form | None:
        shown = not nodes[-1].outputs[0].consumers
        return maker(nodes, Mode(mode.backward, layout=PLAIN if shown else NHWC), None)


NET = """
name: "layouts" force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "a" type: "Convolution" bottom: "conv" top: "a"
        convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "half" type: "Power" bottom: "a" top: "a" power_param { scale: 0.5 } }
layer { name: "tanh" type: "TanH" bottom: "a" top: "a" }
layer { name: "sum" type: "Eltwise" bottom: "conv" bottom: "a" top: "sum" }
layer { name: "both" type: "Concat" bottom: "sum" bottom: "conv" top: "both" }
layer { name: "pool" type: "Pooling" bottom: "both" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "flat" type: "Flatten" bottom: "pool" top: "flat" }
layer { name: "ip" type: "InnerProduct" bottom: "flat" top: "ip"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "Reduction" bottom: "ip" top: "loss" loss_weight: 1
        reduction_param { operation: SUMSQ } }
"""


@pytest.mark.parametrize("shown", ["", "map"])
def test_a_net_in_another_layout_computes_the_same(shown: str) -> None:
    text = NET
    if shown:  # an output of the net that has an image's shape
        text += 'layer { name: "map" type: "Convolution" bottom: "both" top: "map" convolution_param {'
        text += ' num_output: 2 kernel_size: 1 weight_filler { type: "xavier" } } }'
    definition = text_format.Parse(text, pb.NetParameter())
    nets = [
        Net(definition, pb.TRAIN, seed=3, keep="outputs", backend=backend, poison=poison)
        for backend, poison in ((CpuBackend(), False), (NhwcBackend(), False), (NhwcBackend(), True))
    ]
    image = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    results: list[list[np.ndarray]] = []
    for net in nets:
        for _ in range(2):
            net.blobs["data"].data[...] = image
            net.clear_param_diffs()
            loss = net.forward_backward()
        values = [np.array(value.data) for value in net.output_values()]
        results.append([np.float32(loss), *values, net.parameters.grad.copy()])
    for found in results[1:]:
        for one, other in zip(results[0], found, strict=True):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max())
    # The last net's `map`, and whatever is an output, stays plain.
    variants = {form.node.name: form.variant for form in nets[1].program.forms}
    assert [name for name, variant in variants.items() if variant == "nhwc"] == [
        "conv", "relu", "a", "sum", "both", "pool",
    ]  # fmt: skip
    types = [form.node.type for form in nets[1].program.forms]
    assert types.count("Reorder") == (4 if not shown else 5)
