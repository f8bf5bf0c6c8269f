"""How a backend runs a chain of nodes: chosen by their shapes before memory is planned, bound to arrays
after.

A chain is most often one node; fused forms run several, such as Convolution and ReLU. A backend's forms are
rows of a table from a chain's layer types to a maker, which gives None where shapes or options do not fit;
the reference form, which runs a layer's own `forward` and `backward` over `xp`, fits every node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

from netc.errors import NetcError
from netc.graph import Node, Param, Value
from netc.layer import Array, Buffers, Scratch, SourceLayer
from netc.layer.base import Indices

Run = Callable[[], None]  # one piece of work on arrays that were bound before
PieceUse = Callable[[Array], Sequence[Run]]  # of an array that holds one piece after another: a run for each
NO_SCRATCH: Mapping[str, Scratch] = {}

PLAIN = "plain"  # row-major in the order of the shape
NHWC = (
    "nhwc"  # the channels of one pixel side by side; the array's shape stays (N, C, H, W), its strides tell
)
BLOCKED = "blocked"  # a backend's own; the array is the flat memory, padding included

ANY_LAYOUT = ("Split",)  # layer types whose own meaning takes elements in whatever order they lie


@dataclass(frozen=True)
class Mode:
    """What is asked of a backend's forms.

    backward: whether gradients are computed; fresh: whether a backward pass gives all gradients of parameters
    anew, rather than adding to them; holds: whether parameters stay as they are from one `prepare` of a form
    to the next; layout: the layout that image-shaped values (four axes) should have
    between forms that can work in it; math: "fp32", "tf32", "bf16" or "fp16"; deterministic: no sums whose
    order hangs on timing; rehearsal: the forms only show what they will need, and are made again.
    """

    backward: bool = True
    fresh: bool = False
    holds: bool = False
    layout: str = PLAIN
    math: str = "fp32"
    deterministic: bool = False
    rehearsal: bool = False


class Form:
    """One way to run a chain of nodes.

    The chain's bottoms are the inputs that come from outside it, in order; its tops are the last node's
    outputs; its parameters and states are those of all its nodes, in order as one list each in `Buffers`.

    variant: what dumps call it; saved: arrays that forward leaves for backward; forward_workspace and
    backward_workspace: arrays that hold nothing before and after that direction's run (their contents are
    undefined when it begins); backward_bottoms, backward_tops: the bottoms and tops whose values backward
    reads; bottom_layouts, top_layouts: how they lie, None for plain everywhere; capturable: whether its work
    may be recorded once and replayed, which needs that no decision is made on the host and nothing is copied
    from or to it; runs_on_xp: whether its work consists of functions of `xp`; writes_fresh: whether it writes
    the parameters' gradients that are `fresh`, where otherwise they are zeroed first and added to;
    gives_in_pieces: the parameters whose gradients `backward_in_pieces` does not leave anywhere as a whole.
    """

    variant: str = "reference"
    saved: Mapping[str, Scratch] = NO_SCRATCH
    forward_workspace: Mapping[str, Scratch] = NO_SCRATCH
    backward_workspace: Mapping[str, Scratch] = NO_SCRATCH
    backward_bottoms: Indices = None
    backward_tops: Indices = None
    bottom_layouts: Sequence[str] | None = None
    top_layouts: Sequence[str] | None = None
    capturable: bool = True
    runs_on_xp: bool = False
    writes_fresh: bool = False
    gives_in_pieces: Sequence[int] = ()

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(nodes)
        made = {value for node in self.nodes for value in node.outputs}
        outside = [
            (value, wanted)
            for node in self.nodes
            for value, wanted in zip(node.inputs, _flags(node.input_needs_grad, node.inputs), strict=True)
            if value not in made
        ]
        self.inputs: list[Value] = [value for value, _ in outside]
        self.input_needs_grad: list[bool] = [wanted for _, wanted in outside]
        self.outputs: list[Value] = self.nodes[-1].outputs
        self.params: list[Param] = [param for node in self.nodes for param in node.params]
        self.param_needs_grad: list[bool] = [
            wanted for node in self.nodes for wanted in _flags(node.param_needs_grad, node.params)
        ]
        # The gradients that this form is the first to touch in a pass that gives them anew.
        self.fresh: list[bool] = [
            fresh for node in self.nodes for fresh in _flags(node.fresh_grads, node.params)
        ]
        self.needs_backward = any(node.needs_backward for node in self.nodes)

    @property
    def node(self) -> Node:
        """The first node of the chain."""
        return self.nodes[0]

    @property
    def served(self) -> Node:
        """The node of the graph that this form runs, or runs for."""
        return self.nodes[0]

    def forward(self, b: Buffers) -> Run | None:
        """The work of the forward pass on these arrays; None where there is nothing to do."""
        raise NotImplementedError

    def prepare(self, b: Buffers) -> Run | None:
        """Work on the parameters that must be done before the first pass and whenever they have changed; None
        where there is none, as always without `Mode.holds`."""
        return None

    def backward(self, b: Buffers) -> Run | None:
        """The work of the backward pass: writes `b.bottom_grads`, adds to `b.param_grads`."""
        raise NotImplementedError

    def backward_in_pieces(self, b: Buffers, uses: Mapping[int, PieceUse]) -> Run:
        """As `backward`, but each of these parameters' gradients is given one piece of its flat array after
        another, in an array that is then told to its use, and used up by the piece's run before the next is
        computed; the parameter may change then."""
        raise NotImplementedError

    def complaint(self) -> NetcError | None:
        """What the work has found wrong, but could not stop for, since this was last asked; None where
        nothing. It is asked where a figure that comes of it is not a number."""
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({' + '.join(node.name for node in self.nodes)}, {self.variant})"

    def flops(self) -> int:
        """Floating-point operations of one forward; 0 where nobody counts them."""
        return 0


class ReferenceForm(Form):
    """A layer's own `forward` and `backward` over `xp`. served: as in `Form`, by default the node itself."""

    runs_on_xp = True

    def __init__(self, node: Node, xp: ModuleType, served: Node | None = None) -> None:
        super().__init__((node,))
        self._served = served or node
        layer = node.layer
        self.xp = xp
        self.saved = layer.saved
        self.backward_bottoms, self.backward_tops = layer.backward_bottoms, layer.backward_tops
        self.capturable = not (layer.decides_on_host or layer.shapes_by_value)
        if node.type in ANY_LAYOUT:
            layout = node.inputs[0].layout
            self.bottom_layouts, self.top_layouts = [layout], [layout] * len(node.outputs)

    @property
    def served(self) -> Node:
        return self._served

    def forward(self, b: Buffers) -> Run | None:
        if self.node.layer.shares_data or isinstance(self.node.layer, SourceLayer):
            return None
        return partial(self.node.layer.forward, self.xp, b)

    def backward(self, b: Buffers) -> Run | None:
        if self.node.layer.shares_diff:
            return None
        return partial(self.node.layer.backward, self.xp, b)


Maker = Callable[[Sequence[Node], Mode, Any], Form | None]  # the last: the backend's device or engine


def _flags(flags: Sequence[bool], items: Sequence[Any]) -> Sequence[bool]:
    """One flag for each item; none wanted where no pass has marked them."""
    return flags or [False] * len(items)
