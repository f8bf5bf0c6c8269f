"""Layers that pick rows by number: Embed those of a learned table, BatchReindex those of a blob."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Arity, Array, Buffers, Layer, ParamBlob, Shape, count
from netc.layer.registry import register


@register
class BatchReindex(Layer):
    """y[i] = x[index[i]]: the rows of bottom 0 that bottom 1 names, in its order.

    Shapes: (N, ...) and M numbers from 0 to N - 1 to (M, ...). A row may be named several times, or never:
    its gradient is the sum over the places where it went.
    """

    type = "BatchReindex"
    bottoms = Arity(2)
    backward_bottoms = (1,)
    backward_tops = ()
    decides_on_host = True

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape, index = bottoms
        if not shape:
            raise self.error("bottom 0 has no rows to pick", blob=self.spec.bottom[0], found="a scalar")
        if len(index) != 1:
            raise self.error(
                "bottom 1 must be a list of row numbers",
                blob=self.spec.bottom[1],
                expected="1 axis",
                found=list(index),
                remedy="flatten it with a Reshape layer",
            )
        return [(*index, *shape[1:])]

    def gives_gradient(self, bottom: int) -> bool:
        return bottom == 0

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        b.tops[0][...] = b.bottoms[0][self._index(xp, b)]

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dx: Array = b.bottom_grads[0]
        dx[...] = 0
        add_rows(xp, dx, self._index(xp, b), b.top_grads[0])

    def _index(self, xp: ModuleType, b: Buffers) -> Array:
        return read_index(
            self, xp, b.bottoms[1], 1, self.bottom_shapes[0][0], f"rows of {self.spec.bottom[0]!r}"
        )


@register
class Embed(Layer):
    """y = W[index] + b: for each number of the bottom its row of a learned table, as if the number were a
    one-hot vector that an InnerProduct reads.

    Shapes: (...) numbers from 0 to `input_dim` - 1 to (..., num_output). Parameters: W (input_dim,
    num_output); b (num_output) unless `bias_term` is false. (Bengio et al., "A neural probabilistic language
    model", 2003)
    """

    type = "Embed"
    options_field = "embed_param"
    backward_bottoms = (0,)
    backward_tops = ()
    decides_on_host = True

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        for option in ("num_output", "input_dim"):
            if getattr(self.options, option) < 1:
                raise self.error(
                    f"{option} must be at least 1",
                    *([option] if self.options.HasField(option) else []),
                    expected="at least 1",
                    found=getattr(self.options, option),
                    remedy="state input_dim (how many rows the table has) and num_output (how long they are)",
                )
        outputs = self.options.num_output
        self.params = [ParamBlob((self.options.input_dim, outputs), self.option("weight_filler"))]
        if self.options.bias_term:
            self.params.append(ParamBlob((outputs,), self.option("bias_filler")))
        return [(*bottoms[0], outputs)]

    def gives_gradient(self, bottom: int) -> bool:
        return False

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        y = b.tops[0]
        y[...] = b.params[0][self._index(xp, b)]
        if self.options.bias_term:
            y += b.params[1]

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dy: Array = b.top_grads[0]
        rows = dy.reshape(count(dy.shape[:-1]), self.options.num_output)
        if b.param_grads[0] is not None:
            add_rows(xp, b.param_grads[0], self._index(xp, b).reshape(-1), rows)
        if self.options.bias_term and b.param_grads[1] is not None:
            b.param_grads[1] += rows.sum(axis=0)  # type: ignore[operator]

    def _index(self, xp: ModuleType, b: Buffers) -> Array:
        return read_index(self, xp, b.bottoms[0], 0, self.options.input_dim, "rows of the table (input_dim)")


def read_index(layer: Layer, xp: ModuleType, numbers: Array, bottom: int, rows: int, what: str) -> Array:
    """The numbers of a bottom, cut to integers (int64).

    Raises NetcError where one names no row: Caffe crashes there, or reads beyond its arrays.
    """
    wrong = ~((numbers > -1) & (numbers < rows))  # NaN is no row either
    if wrong.any():
        value = float(numbers[wrong][0])
        raise layer.error(
            f"row {value:g} does not exist",
            blob=layer.spec.bottom[bottom],
            expected=f"0 to {rows - 1}, for {rows} {what}",
            found=f"{value:g}; {int(wrong.sum())} of {numbers.size} numbers are out of range",
        )
    return numbers.astype(xp.int64)


def add_rows(xp: ModuleType, target: Array, index: Array, rows: Array) -> None:
    """target[index[i]] += rows[i] for every i, where an index may come several times.

    Rows of one index are added in pairs, pairs of pairs and so on: the same sums in every run, in as many
    steps as the logarithm of the largest number of rows that meet.
    """
    order = xp.argsort(index, kind="stable")
    index, rows = index[order], rows[order]
    place = xp.arange(len(index)) - xp.searchsorted(index, index)  # among the rows of the same index
    while len(index) and int(place.max()) > 0:
        odd = xp.nonzero(place % 2)[0]
        rows[odd - 1] += rows[odd]
        even = xp.nonzero(place % 2 == 0)[0]
        index, rows, place = index[even], rows[even], place[even] // 2
    target[index] += rows
