"""Values and gradients on their way from one layout to another."""

from __future__ import annotations

from netc.backends.cpu.layout import descriptor_of
from netc.backends.cpu.onednn import Engine, Routine
from netc.backends.form import Form, Run
from netc.graph import Node
from netc.layer import Buffers


class ReorderForm(Form):
    """y = x in the layout that the top's value has; serves the node that reads it."""

    def __init__(self, node: Node, served: Node, engine: Engine) -> None:
        super().__init__((node,))
        self._served = served
        source, target = node.inputs[0], node.outputs[0]
        self.bottom_layouts, self.top_layouts = (source.layout,), (target.layout,)
        self.backward_bottoms, self.backward_tops = (), ()
        bottom = descriptor_of(engine, source.shape, source.layout)
        top = descriptor_of(engine, target.shape, target.layout)
        self.there, self.back = Routine(engine), Routine(engine)
        self.there.reorder(self.there.operand("bottom", bottom), self.there.operand("top", top))
        self.back.reorder(self.back.operand("top", top), self.back.operand("bottom", bottom))
        self.forward_workspace, self.backward_workspace = self.there.workspace, self.back.workspace
        self.variant = f"onednn reorder {source.layout} to {target.layout}"

    @property
    def served(self) -> Node:
        return self._served

    def forward(self, b: Buffers) -> Run:
        return self.there.bind({"bottom": b.bottoms[0], "top": b.tops[0]}, b.workspace)

    def backward(self, b: Buffers) -> Run | None:
        if b.bottom_grads[0] is None:
            return None
        return self.back.bind({"bottom": b.bottom_grads[0], "top": b.top_grads[0]}, b.workspace)
