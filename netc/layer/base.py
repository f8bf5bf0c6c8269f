"""What a layer type provides: its arity, its shapes, and its meaning written once over an array module `xp`.

A layer object belongs to one graph: it is made from its prototxt message, told its bottoms' shapes once
(`infer`), and from then on never changes. Everything that lives longer or moves (parameters, saved
activations, counters) is handed to `forward` and `backward` in a `Buffers`, so that whoever compiles the net
decides where memory lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar, Final

import numpy as np

from netc.errors import Location, NetcError
from netc.proto import netc_pb2 as pb

Shape = tuple[int, ...]
Array = Any  # an array of `xp`: numpy.ndarray or cupy.ndarray
Indices = tuple[int, ...] | None
ALL: Final[Indices] = None  # every bottom, or every top


@dataclass(frozen=True)
class Arity:
    """How many bottoms or tops a layer takes: `least` to `most`, any number where `most` is None."""

    least: int
    most: int | None = -1

    def __post_init__(self) -> None:
        if self.most == -1:
            object.__setattr__(self, "most", self.least)

    def allows(self, count: int) -> bool:
        return self.least <= count and (self.most is None or count <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"at least {self.least}"
        return str(self.least) if self.least == self.most else f"{self.least} to {self.most}"


@dataclass(frozen=True)
class ParamBlob:
    """A parameter that a layer asks for: its shape, its first values, and rates that override the
    prototxt's."""

    shape: Shape
    filler: pb.FillerParameter | None = None  # None: zeros
    lr_mult: float | None = None  # None: as `param { lr_mult }` says
    values: Array | None = None  # first values that are known already, in place of a filler's


@dataclass(frozen=True)
class Scratch:
    """An array that forward leaves for backward (`saved`), or that outlives an iteration (`states`)."""

    shape: Shape
    dtype: Any = None  # None: the net's own


@dataclass(slots=True)
class Buffers:
    """The arrays of one layer in one program. Layers write into them and never rebind them.

    A gradient that nobody wants is None in `bottom_grads` and `param_grads`: do not compute it. A gradient
    that nobody gives is None in `top_grads`: it stands for zeros (a layer with one top always gets it).
    `bottom_grads` are written, `param_grads` are added to. In place, a top is its bottom's memory, and the
    gradients share theirs as well. `leftovers` holds, by bottom, the memory of unwanted gradients that a
    layer with `leftovers` writes into where every blob is kept. `workspace` holds what a backend's form asked
    for beside; layers get none.
    """

    bottoms: list[Array] = field(default_factory=list)
    tops: list[Array] = field(default_factory=list)
    params: list[Array] = field(default_factory=list)
    saved: dict[str, Array] = field(default_factory=dict)
    states: dict[str, Array] = field(default_factory=dict)
    bottom_grads: list[Array | None] = field(default_factory=list)
    top_grads: list[Array | None] = field(default_factory=list)
    param_grads: list[Array | None] = field(default_factory=list)
    leftovers: dict[int, Array] = field(default_factory=dict)
    workspace: dict[str, Array] = field(default_factory=dict)


class Layer:
    """One layer type. A subclass states its facts as class attributes and writes `infer`, `forward` and
    `backward`."""

    type: ClassVar[str]  # the name in prototxt
    options_field: ClassVar[str | None] = None  # its message in LayerParameter, e.g. "pooling_param"
    other_options: ClassVar[tuple[str, ...]] = ()  # further messages that it reads
    bottoms: ClassVar[Arity] = Arity(1)
    tops: ClassVar[Arity] = Arity(1)
    equal_bottoms_and_tops: ClassVar[bool] = False
    # A loss has loss_weight 1 for its first top by default, and the top may be left out of the prototxt.
    is_loss: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True
    in_place: ClassVar[bool] = False  # may be written with a top that is its bottom
    # Every top is bottom 0's memory under another shape, so forward copies nothing; so are the gradients.
    shares_data: ClassVar[bool] = False
    shares_diff: ClassVar[bool] = False
    tops_are_params: ClassVar[bool] = False  # each top is the memory of the parameter of its number
    # The tops' shapes hang on values: they are known only when the layer runs, through `real_shapes`.
    shapes_by_value: ClassVar[bool] = False
    # Forward or backward looks at values on the host, or waits for the device to know a result's size: it
    # cannot be recorded once and replayed. Where it hangs on the options, `infer` says it anew.
    decides_on_host: bool = False
    # The bottoms and tops whose values backward reads; where it hangs on the options, `infer` says it anew.
    backward_bottoms: Indices = ALL
    backward_tops: Indices = ALL
    # The parameters that forward itself changes (running statistics) and does not read meanwhile.
    changed_params: tuple[int, ...] = ()
    # The bottoms in whose gradients, where nobody wants them, Caffe's layer leaves something else.
    leftovers: tuple[int, ...] = ()

    def __init__(
        self,
        spec: pb.LayerParameter,
        phase: int = pb.TRAIN,
        *,
        seed: int = 0,
        dtype: Any = np.float32,
        locate: Callable[..., Location | None] = lambda *path: None,
    ) -> None:
        self.spec = spec
        self.name: str = spec.name
        self.phase = phase
        self.seed = seed
        self.dtype = np.dtype(dtype)
        self.locate = locate
        self.options: Any = getattr(spec, self.options_field) if self.options_field else None
        self.runs_in_place = bool(spec.bottom) and bool(spec.top) and spec.bottom[0] == spec.top[0]
        self.params: list[ParamBlob] = []
        self.saved: dict[str, Scratch] = {}
        self.states: dict[str, Scratch] = {}
        self.bottom_shapes: list[Shape] = []
        self.top_shapes: list[Shape] = []
        # By the name of a split layer's top that it reads, the blob's name in the prototxt: for messages.
        self.written: Mapping[str, str] = {}
        # What outlives this object: the layer of this place in the net's next graph is handed the same dict.
        self.kept: dict[str, Any] = {}
        self._constants: dict[tuple[str, str], Array] = {}

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        """The tops' shapes for these bottoms' shapes; also sets `params`, `saved` and `states`.

        Raises NetcError (through `self.error`) where the shapes or the options make no sense.
        """
        raise NotImplementedError

    def attach(self, b: Buffers) -> None:
        """Told once by every program that its arrays are `b`: for layers that show them to others."""

    def real_shapes(self, xp: ModuleType, b: Buffers) -> list[Shape]:
        """The tops' shapes for the values that the bottoms hold now.

        A program asks before every forward of a layer with `shapes_by_value`. Where the shapes are not those
        of `b`, forward is called on the layer's next object, of a graph with the shapes given here.
        """
        return self.top_shapes

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        """Computes `b.tops` (and `b.saved`, `b.states`) from `b.bottoms` and `b.params`."""
        raise NotImplementedError

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        """Writes `b.bottom_grads` and adds to `b.param_grads`, from `b.top_grads` and what the class says it
        reads."""
        raise NotImplementedError

    def gives_gradient(self, bottom: int) -> bool:
        """Whether backward can give a gradient to this bottom (a label gets none)."""
        return self.differentiable

    def constant(self, xp: ModuleType, name: str, make: Callable[[], Array]) -> Array:
        """Numbers of this object's own, in the memory of `xp`: made and brought there at their first use."""
        key = (xp.__name__, name)
        if key not in self._constants:
            self._constants[key] = xp.asarray(make())
        return self._constants[key]

    def option(self, name: str, default: Any = None) -> Any:
        """The value of an optional field of this layer's message, or `default` where the prototxt leaves it
        out."""
        return getattr(self.options, name) if self.options.HasField(name) else default

    def canonical_axis(self, axis: int, ndim: int, option: str = "axis") -> int:
        """An axis as an index from 0: negative ones count from the end."""
        if not -ndim <= axis < ndim:
            raise self.error(
                f"axis {axis} does not exist in a blob of {ndim} axes",
                option,
                expected=f"{-ndim} to {ndim - 1}",
                found=axis,
            )
        return axis % ndim

    def error(self, what: str, *option: str, **details: Any) -> NetcError:
        """A NetcError about this layer, at the line of one of its options (or of the layer)."""
        path = (self.options_field, *option) if option and self.options_field else option
        details.setdefault("layer", f"{self.name} ({self.type})")
        said = {name: self._as_written(detail) for name, detail in details.items()}
        return NetcError(self._as_written(what), at=self.locate(*path), **said)

    def _as_written(self, said: Any) -> Any:
        """What a message says, with the prototxt's names of blobs in place of split layers' tops."""
        if isinstance(said, str):
            for top in sorted(self.written, key=len, reverse=True):
                said = said.replace(top, self.written[top])
        return said


class Closable:
    """What a layer keeps in `kept` that must be closed with the net."""

    def close(self) -> None:
        raise NotImplementedError


class SourceLayer(Layer):
    """A layer without bottoms whose tops come from a data source; the net pulls batches and feeds them in."""

    bottoms = Arity(0)
    other_options: ClassVar[tuple[str, ...]] = ("transform_param",)
    differentiable = False

    def open(self) -> Any:
        """Opens the `netc.data.Source` that this layer's message describes; it knows the shapes of its next
        batch."""
        raise NotImplementedError

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        raise NotImplementedError("the graph asks the source, not the layer")

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        """Nothing: the tops were fed before the program runs."""


def count(shape: Sequence[int]) -> int:
    """The number of elements of a shape; 1 for a scalar."""
    return math.prod(shape)
