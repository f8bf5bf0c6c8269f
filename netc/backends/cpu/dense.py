"""InnerProduct on oneDNN's matrix product, alone or with the ReLU that follows it.

The weights are used as they lie: putting a large matrix into another order in every pass would take longer
than multiplying by it, and a product can add to the gradients where they are.

With few rows in a batch, y transposed = W x transposed is computed instead, some rows of W at a time: oneDNN
then copies the small side, and reads the weights once while it multiplies. Gradients are then computed by
loops of our own. (16 rows by 4096 x 9216 weights on an AVX2 core: y at 84 GFLOP/s instead of 44, dx at 61
instead of 39, dW at 64 instead of 60.)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np

from netc.backends.cpu.activation import add_relu_backward, describe_forward, relu_can_end, slope_of
from netc.backends.cpu.bf16 import BF16
from netc.backends.cpu.bf16_dense import make_bf16_inner_product
from netc.backends.cpu.chain import fits, in_sequence
from netc.backends.cpu.layout import descriptor_of
from netc.backends.cpu.loops import Loop, bound, compiled, threads_for
from netc.backends.cpu.loops.dense_job import JOB
from netc.backends.cpu.onednn import Engine, Product, Refused, Routine, kinds
from netc.backends.form import Form, Maker, Mode, PieceUse, Run
from netc.graph import Node
from netc.layer import Array, Buffers, Scratch
from netc.layer.dense import InnerProduct

log = logging.getLogger(__name__)

PANEL: Final = 128  # outputs computed at a time
TURNED_ROWS: Final = range(2, 129)  # of a batch; one row is multiplied as fast as its weights can be read
TURNED_OUTPUTS: Final = 8  # for each row of the batch, at least
TURNED_WEIGHTS: Final = 1 << 18  # at least: fewer stay in the caches
LOOP_ROWS: Final = {"bottom": TURNED_ROWS, "weights": range(1, 17)}  # for which loops compute a gradient
LOOP_COLUMNS: Final = 1024  # that they take at a time, at most
PIECE_WEIGHTS: Final = 1 << 19  # whose gradient is given in pieces, at least: fewer stay in the caches anyway
PIECE: Final = 1 << 17  # elements of a piece that loops compute, about: it stays in a core's caches
PRODUCT_ROWS: Final = 1024  # of a piece that a product computes; 128 of 64 x 9216 take 1.6 times as long
TILE: Final = 16  # columns that they take at a time of these
TILE_ROWS: Final = 6

X_TURNED, Y_TURNED, X_PACKED, LOOP_SCRATCH = "bottom turned", "top turned", "bottom packed", "panels"
PIECE_GRADIENT: Final = "piece of the weights' gradient"


class DenseForm(Form):
    """y = relu(x W transposed + b), where the chain ends with a ReLU, else y = x W transposed + b."""

    variant = "onednn sgemm"
    writes_fresh = True

    def __init__(self, nodes: Sequence[Node], layer: InnerProduct, engine: Engine) -> None:
        super().__init__(nodes)
        self.engine = engine
        self.transposed = layer.options.transpose
        self.bottom_shape = (layer.rows, layer.columns)
        self.top_shape = (layer.rows, layer.options.num_output)
        self.biased = len(self.params) > 1
        self.slope = slope_of(self.nodes[-1]) if len(self.nodes) > 1 else None
        self.backward_bottoms = (0,) if self.param_needs_grad[0] else ()
        self.backward_tops: tuple[int, ...] = ()
        self.relu, self.relu_backward = Routine(engine), Routine(engine)
        if self.slope is not None:
            self._write_relu(self.slope)
        self.forward_workspace = dict(self.relu.workspace)
        self.turned = is_turned(*self.bottom_shape, self.top_shape[1]) and not self.transposed
        if self.turned:
            for name, shape in ((X_TURNED, self.bottom_shape), (Y_TURNED, self.top_shape)):
                self.forward_workspace[name] = Scratch(shape[::-1])
            self.variant = "onednn sgemm in panels"
        self.backward_workspace: dict[str, Scratch] = dict(self.relu_backward.workspace)
        self.loops = self._loops()
        if self.loops:
            self.variant += f", {' and '.join(name for name in LOOP_ROWS if name in self.loops)} in loops"
            self._share_out()
        if self.needs_backward and self.fresh[0] and self.param_needs_grad[0] and not self.transposed:
            self._cut_gradient()

    def _cut_gradient(self) -> None:
        """Finds in how many pieces the gradient of large weights is best given."""
        columns, outputs = self.bottom_shape[1], self.top_shape[1]
        most = max(PIECE // columns, TILE_ROWS) if "weights" in self.loops else PRODUCT_ROWS
        even = -(-outputs // -(-outputs // most))
        self.piece_rows = -(-even // TILE_ROWS) * TILE_ROWS
        if columns * outputs >= PIECE_WEIGHTS and self.piece_rows < outputs:
            self.gives_in_pieces = (0,)
            self.backward_workspace[PIECE_GRADIENT] = Scratch((self.piece_rows, columns))

    def _share_out(self) -> None:
        """Cuts the columns into panels that threads share, and finds the room that they need."""
        rows, columns = self.bottom_shape
        self.threads = threads_for(-(-columns // TILE))
        panels = -(-columns // (LOOP_COLUMNS * self.threads)) * self.threads
        self.panel = -(-columns // (panels * TILE)) * TILE
        floats = rows * max(TILE_ROWS, self.panel if "bottom" in self.loops else 0)
        self.backward_workspace[Y_TURNED] = Scratch(self.top_shape[::-1])
        self.backward_workspace[LOOP_SCRATCH] = Scratch((self.threads * floats,))
        if "weights" in self.loops:
            self.backward_workspace[X_PACKED] = Scratch(self.bottom_shape)

    def _loops(self) -> dict[str, Loop]:
        """The loops that compute gradients faster than oneDNN; none without numba."""
        rows, columns = self.bottom_shape
        large = columns * self.top_shape[1] >= TURNED_WEIGHTS and not self.transposed
        few = self.top_shape[1] >= TURNED_OUTPUTS * rows
        names = [name for name, fit in LOOP_ROWS.items() if large and few and rows in fit]
        names += ["pack"] if "weights" in names else []
        try:
            return {name: compiled("dense", name) for name in names if self.needs_backward}
        except (ImportError, OSError) as error:
            log.info("InnerProduct would be faster with numba (pip install netc[cpu]): %s", error)
            return {}

    def _write_relu(self, slope: float) -> None:
        self.backward_tops = (0,)
        values = descriptor_of(self.engine, self.top_shape)
        top = self.relu.operand("top", values)
        primitive = describe_forward(self.engine, kinds.RELU, values, slope)
        self.relu.add_as_given(primitive, {kinds.SOURCE: top, kinds.DESTINATION: top})
        self.relu_backward.operand("top", values)
        add_relu_backward(
            self.relu_backward, slope, "top", self.relu_backward.operand("top gradient", values)
        )

    def forward(self, b: Buffers) -> Run:
        x, y, weight = self._matrices(b.bottoms[0], b.tops[0], b.params[0])
        bias = b.params[1] if self.biased else None
        if self.turned:
            turned = [b.workspace[name] for name in (X_TURNED, Y_TURNED)]
            steps = self._in_panels(x, y, weight, bias, *turned)
        else:
            steps = [] if bias is None else [partial(np.copyto, y, bias)]
            steps.append(Product(self.engine, x, weight.T, y, add=self.biased))
        if self.slope is not None:
            steps.append(self.relu.bind({"top": b.tops[0]}, b.workspace))
        return in_sequence(steps)

    def _in_panels(
        self, x: Array, y: Array, weight: Array, bias: Array | None, x_turned: Array, y_turned: Array
    ) -> list[Run]:
        """The product with the batch's rows innermost."""
        steps: list[Run] = [partial(np.copyto, x_turned, x.T)]
        for panel in (slice(first, first + PANEL) for first in range(0, len(weight), PANEL)):
            steps.append(Product(self.engine, weight[panel], x_turned, y_turned[panel]))
        turn_back = partial(np.copyto, y) if bias is None else partial(np.add, bias, out=y)
        return [*steps, partial(turn_back, y_turned.T)]

    def backward(self, b: Buffers) -> Run:
        dweight = b.param_grads[0]
        weights = [] if dweight is None else [*self._before_weights(b), self._weights(b, dweight)]
        return in_sequence([*self._before(b), *weights])

    def backward_in_pieces(self, b: Buffers, uses: Mapping[int, PieceUse]) -> Run:
        gradient: Array = b.workspace[PIECE_GRADIENT]
        steps = [*self._before(b), *self._before_weights(b)]
        outputs, size = self.top_shape[1], self.piece_rows
        firsts = range(0, outputs, size)
        for first, use in zip(firsts, uses[0](gradient.reshape(-1)), strict=True):
            rows = slice(first, min(first + size, outputs))
            steps += [self._weights(b, gradient[: rows.stop - first], rows), use]
        return in_sequence(steps)

    def _before(self, b: Buffers) -> list[Run]:
        """All of the backward pass but the weights' gradient: they are not read any more then."""
        _, dy, weight = self._matrices(b.bottoms[0], b.top_grads[0], b.params[0])
        steps: list[Run] = []
        if self.slope is not None:
            steps.append(self.relu_backward.bind({"top": b.tops[0], "top gradient": dy}, b.workspace))
        if self.loops:
            steps.append(partial(np.copyto, b.workspace[Y_TURNED], dy.T))
        if self.biased and (dbias := b.param_grads[1]) is not None:
            ones = np.ones((len(dy), 1), np.float32)
            steps.append(Product(self.engine, dy.T, ones, dbias.reshape(-1, 1), add=not self.fresh[1]))
        if (dx := b.bottom_grads[0]) is not None:
            arrays = (
                {"turned": b.workspace[Y_TURNED], "scratch": b.workspace[LOOP_SCRATCH]} if self.loops else {}
            )
            steps.append(
                self._loop("bottom", {"weight": weight, "bottom_grad": dx, **arrays})
                if "bottom" in self.loops
                else Product(self.engine, dy, weight, dx.reshape(self.bottom_shape))
            )
        return steps

    def _before_weights(self, b: Buffers) -> list[Run]:
        """What the weights' gradient, or any piece of it, needs first."""
        if "weights" not in self.loops:
            return []
        return [self._loop("pack", {"bottom": b.bottoms[0], "packed": b.workspace[X_PACKED]})]

    def _weights(self, b: Buffers, dweight: Array, rows: slice = slice(None)) -> Run:
        """The gradient of the weights, or of these rows of them."""
        x, dy, _ = self._matrices(b.bottoms[0], b.top_grads[0], b.params[0])
        if "weights" not in self.loops:
            sides = (x.T, dy) if self.transposed else (dy.T[rows], x)
            return Product(self.engine, *sides, dweight, add=not self.fresh[0])
        arrays = {
            name: b.workspace[place] for name, place in (("packed", X_PACKED), ("scratch", LOOP_SCRATCH))
        }
        arrays |= {"bottom": x, "turned": b.workspace[Y_TURNED][rows], "weight_grad": dweight}
        return self._loop("weights", arrays, K=len(dweight))

    def _loop(self, name: str, arrays: Mapping[str, Array], **sizes: int) -> Run:
        """A loop on these arrays; sizes: where they differ from the layer's."""
        numbers = {"M": self.bottom_shape[0], "D": self.bottom_shape[1], "K": self.top_shape[1]}
        numbers |= {"panel": self.panel, "fresh": self.fresh[0], **sizes}
        return bound(self.loops[name], JOB, self.threads, numbers, arrays)

    def flops(self) -> int:
        return 2 * self.top_shape[0] * self.top_shape[1] * self.bottom_shape[1]

    def _matrices(self, x: Array, y: Array, weight: Array) -> tuple[Array, Array, Array]:
        """x (M, D), y or its gradient (M, K), and the weights as (K, D)."""
        weight = weight.T if self.transposed else weight
        return x.reshape(self.bottom_shape), y.reshape(self.top_shape), weight


def is_turned(rows: int, columns: int, outputs: int) -> bool:
    """Whether a batch of so many rows is better multiplied from the right, by weights (outputs, columns)."""
    few = rows in TURNED_ROWS and outputs >= TURNED_OUTPUTS * rows
    return few and outputs * columns >= TURNED_WEIGHTS


def make_inner_product(nodes: Sequence[Node], mode: Mode, engine: Engine) -> Form | None:
    """The form of an inner product and the ReLU that may follow it."""
    layer = nodes[0].layer
    assert isinstance(layer, InnerProduct)
    if not fits(nodes) or (len(nodes) > 1 and not relu_can_end(nodes)):
        return None
    if mode.math == BF16:
        return make_bf16_inner_product(nodes, mode, engine)
    try:
        return DenseForm(nodes, layer, engine)
    except Refused:
        return None


FORMS: dict[tuple[str, ...], Maker] = {
    ("InnerProduct",): make_inner_product,
    ("InnerProduct", "ReLU"): make_inner_product,
}
