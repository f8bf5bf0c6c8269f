"""Pooling: each output sums up one window of its channel by its maximum, its average or one value drawn at
random."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final

import numpy as np

from netc.layer.base import Arity, Array, Buffers, Layer, Scratch, Shape, count
from netc.layer.random import stream
from netc.layer.registry import register
from netc.layer.window import Window
from netc.proto import netc_pb2 as pb

FLT_MAX: Final = float(np.finfo(np.float32).max)
PLANE_CELLS: Final = 1 << 17  # outputs at a time: their windows stay in the caches from position to position

ROUND: Final[dict[int, Callable[[float], int]]] = {
    pb.PoolingParameter.CEIL: math.ceil,
    pb.PoolingParameter.FLOOR: math.floor,
}
METHODS: Final = {
    pb.PoolingParameter.MAX: "maximum",
    pb.PoolingParameter.AVE: "average",
    pb.PoolingParameter.STOCHASTIC: "stochastic",
}


@register
class Pooling(Layer):
    """(N, C, H, W) to (N, C, P, Q), P = round((H + 2 pad - R) / stride) + 1 with `round_mode` CEIL (the
    default) or FLOOR; `ceil_mode: false` is FLOOR as well.

    With padding, a last window that would start behind the image and its padding is dropped. Windows are
    clipped at the image. `global_pooling` makes the image one window.

    MAX: the largest cell, the first of several in row-major order; a second top gives its place h W + w in
    its channel (Zeiler and Fergus, 2013, use it to unpool). It starts from -FLT_MAX, which is what a window
    without a larger cell gives (place -1). AVE: the sum of the real cells over the number of cells of the
    window, those of the padding included. STOCHASTIC: in TRAIN a cell drawn in proportion to its value, in
    TEST the expected value of that draw, the sum of x^2 over the sum of x. Cells must not be negative.
    (Zeiler and Fergus, "Stochastic pooling", 2013)
    """

    type = "Pooling"
    options_field = "pooling_param"
    tops = Arity(1, 2)
    backward_bottoms = ()
    backward_tops = ()

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        if len(shape) != 4:
            raise self.error(
                "Pooling needs (N, C, H, W)", blob=self.spec.bottom[0], expected="4 axes", found=shape
            )
        self.method = METHODS[self.options.pool]
        if self.method != "maximum" and len(self.spec.top) > 1:
            raise self.error(
                "only pool: MAX has a second top, the places of the maxima",
                "pool",
                remedy="leave the second top out",
            )
        self.image = shape[2:]
        self.window = self._read_window(self.image)
        self.output = self._output()
        pooled = (*shape[:2], *self.output)
        if self._chooses:
            kernel = count(self.window.kernel)
            kinds = (np.int8, np.int16, np.int32)
            fit = next((kind for kind in kinds if kernel <= np.iinfo(kind).max), np.int64)
            self.saved = {"chosen": Scratch(pooled, fit)}
        if self.method == "stochastic" and self.phase == pb.TRAIN:
            self.decides_on_host = True  # which draw it is
            self.states = {"draw": Scratch((1,), np.int64)}
        return [pooled] * max(1, len(self.spec.top))

    def gives_gradient(self, bottom: int) -> bool:
        """Stochastic pooling has a gradient in TRAIN only, as in Caffe."""
        return self.method != "stochastic" or self.phase == pb.TRAIN

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        if self.method == "average":
            self._average(xp, b.bottoms[0], b.tops[0])
        elif self.method == "maximum":
            self._maximum(xp, b.bottoms[0], b.tops[0], b.saved["chosen"])
            if len(b.tops) > 1:
                b.tops[1][...] = self._places(xp, b.saved["chosen"])
        elif self.phase == pb.TRAIN:
            self._draw(xp, b)
        else:
            self._expect(xp, b.bottoms[0], b.tops[0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dy, dx = b.top_grads[0], b.bottom_grads[0]
        if dx is None:
            return
        dx[...] = 0
        if dy is None:
            return
        if self.method == "average":
            self._spread(xp, dy, dx)
        else:
            self._send_back(xp, dy, b.saved["chosen"], dx)

    @property
    def _chooses(self) -> bool:
        """Whether an output is one of the cells of its window."""
        return self.method == "maximum" or (self.method == "stochastic" and self.phase == pb.TRAIN)

    def _read_window(self, image: Shape) -> Window:
        kernel, stride, pad = self._pair("kernel"), self._pair("stride"), self._pair("pad")
        if self.options.global_pooling:
            if kernel or pad not in (None, (0, 0)) or stride not in (None, (1, 1)):
                raise self.error(
                    "global_pooling makes the whole image the window",
                    "global_pooling",
                    remedy="leave out the kernel, a pad other than 0 and a stride other than 1",
                )
            kernel = image
        if kernel is None:
            raise self.error(
                "kernel_size is missing", remedy="add `kernel_size: 2`, or kernel_h and kernel_w"
            )
        window = Window(kernel, stride or (1, 1), pad or (0, 0), (1, 1))
        if min(window.kernel) < 1:
            raise self.error(
                "the window must have cells", "kernel_size", expected="at least 1", found=window.kernel
            )
        if min(window.stride) < 1:
            raise self.error("the windows must move on", "stride", expected="at least 1", found=window.stride)
        if window.pad != (0, 0) and self.method == "stochastic":
            raise self.error("stochastic pooling knows no padding", "pad", expected=(0, 0), found=window.pad)
        if any(p >= k for p, k in zip(window.pad, window.kernel, strict=True)):
            raise self.error(
                "windows of nothing but padding",
                "pad",
                expected=f"less than {window.kernel}",
                found=window.pad,
            )
        return window

    def _pair(self, name: str) -> Shape | None:
        """An option for both axes at once, or as _h and _w; None where it is left out."""
        whole = "kernel_size" if name == "kernel" else name
        pair = [f"{name}_{axis}" for axis in "hw"]
        given = [option for option in (whole, *pair) if self.options.HasField(option)]
        if not given:
            return None
        if given == [whole]:
            return (getattr(self.options, whole),) * 2
        if given != pair:
            raise self.error(
                f"{name} must be given once",
                given[-1],
                expected=f"{whole}, or {' and '.join(pair)}",
                found=given,
            )
        return tuple(getattr(self.options, option) for option in pair)

    def _round_mode(self) -> int:
        """`round_mode`; or `ceil_mode`, which is true for CEIL and false for FLOOR."""
        if not self.options.HasField("ceil_mode"):
            return self.options.round_mode
        ceil, floor = pb.PoolingParameter.CEIL, pb.PoolingParameter.FLOOR
        mode = ceil if self.options.ceil_mode else floor
        if self.options.HasField("round_mode") and self.options.round_mode != mode:
            raise self.error(
                "ceil_mode and round_mode contradict each other", "ceil_mode", remedy="keep one of them"
            )
        return mode

    def _output(self) -> Shape:
        rounded = ROUND[self._round_mode()]
        output = []
        for size, kernel, stride, pad in zip(
            self.image, self.window.kernel, self.window.stride, self.window.pad, strict=True
        ):
            number = rounded((size + 2 * pad - kernel) / stride) + 1
            if any(self.window.pad) and (number - 1) * stride >= size + pad:
                number -= 1
            output.append(number)
        if min(output) < 1:
            padded = tuple(n + 2 * p for n, p in zip(self.image, self.window.pad, strict=True))
            raise self.error(
                "the window is larger than its padded input",
                "kernel_size",
                expected=f"at most {padded}",
                found=self.window.kernel,
                remedy="a smaller kernel, or a larger input",
            )
        return tuple(output)

    @property
    def _by_window(self) -> bool:
        """Whether there are fewer windows than cells in one: then each window is taken as a whole."""
        return count(self.output) < count(self.window.kernel)

    def _positions(self) -> Iterator[tuple[int, Any, Any]]:
        """For each kernel position: its number, and the outputs and inputs (indices of whole blobs) that it
        joins."""
        for number, _, outputs, inputs in self.window.positions(self.image, self.output):
            yield number, (..., *outputs), (..., *inputs)

    def _windows(self, xp: ModuleType) -> Iterator[tuple[Any, Any, Array]]:
        """For each window: its output and its cells (indices of whole blobs), and the cells' kernel
        positions."""
        axes = zip(self.output, self.window.stride, self.window.pad, strict=True)
        starts = [[i * stride - pad for i in range(outputs)] for outputs, stride, pad in axes]
        for p, top in enumerate(starts[0]):
            for q, left in enumerate(starts[1]):
                rows = slice(max(0, top), min(self.image[0], top + self.window.kernel[0]))
                columns = slice(max(0, left), min(self.image[1], left + self.window.kernel[1]))
                if rows.stop <= rows.start or columns.stop <= columns.start:
                    continue
                r = xp.arange(rows.start - top, rows.stop - top)[:, None]
                s = xp.arange(columns.start - left, columns.stop - left)
                output = (..., slice(p, p + 1), slice(q, q + 1))
                yield output, (..., rows, columns), r * self.window.kernel[1] + s

    def _maximum(self, xp: ModuleType, x: Array, y: Array, chosen: Array) -> None:
        """y, and in `chosen` 1 + the kernel position of the cell that became the output; 0 where none did."""
        least = x.dtype.type(-FLT_MAX)
        y.fill(least)
        chosen.fill(0)
        if self._by_window:
            for output, cells, positions in self._windows(xp):
                window = xp.where(x[cells] > least, x[cells], least)
                window = window.reshape(*x.shape[:2], count(positions.shape))
                y[output] = window.max(axis=2)[..., None, None]
                place = positions.astype(chosen.dtype).reshape(-1)[window.argmax(axis=2)]
                chosen[output] = (place[..., None, None] + 1) * (y[output] > least)
            return
        for part in self._parts(y):
            self._maximum_by_position(xp, *(self._planes(array)[part] for array in (x, y, chosen)))

    def _maximum_by_position(self, xp: ModuleType, x: Array, y: Array, chosen: Array) -> None:
        """The running maximum of y and the cells at one kernel position after the other."""
        cell, larger = xp.empty_like(y), xp.empty(y.shape, xp.bool_)
        for number, outputs, inputs in self._positions():
            if x[inputs].shape != y.shape:
                cell.fill(-FLT_MAX)
            cell[outputs] = x[inputs]
            xp.greater(cell, y, out=larger)
            xp.fmax(cell, y, out=y)
            # Positions count up: the last that was larger than all before it is the maximum's first place.
            xp.maximum(chosen, larger * chosen.dtype.type(number + 1), out=chosen)

    def _send_back(self, xp: ModuleType, dy: Array, chosen: Array, dx: Array) -> None:
        """Adds each output's gradient to the cell that was chosen for it."""
        if self._by_window:
            for output, cells, positions in self._windows(xp):
                dx[cells] += dy[output] * (chosen[output] == (positions + 1).astype(chosen.dtype))
            return
        apart = all(s >= k for s, k in zip(self.window.stride, self.window.kernel, strict=True))
        for part in self._parts(dy):
            dy_part, chosen_part, dx_part = (self._planes(array)[part] for array in (dy, chosen, dx))
            for number, outputs, inputs in self._positions():
                here = chosen_part[outputs] == number + 1
                if apart:
                    xp.multiply(dy_part[outputs], here, out=dx_part[inputs])
                else:
                    dx_part[inputs] += dy_part[outputs] * here

    def _places(self, xp: ModuleType, chosen: Array) -> Array:
        """The chosen cells as h W + w in their channels, -1 for none."""
        (stride_h, stride_w), (pad_h, pad_w) = self.window.stride, self.window.pad
        position = chosen.astype(xp.int64) - 1
        h = xp.arange(self.output[0])[:, None] * stride_h - pad_h + position // self.window.kernel[1]
        w = xp.arange(self.output[1]) * stride_w - pad_w + position % self.window.kernel[1]
        return xp.where(position < 0, -1, h * self.image[1] + w)

    @staticmethod
    def _planes(x: Array) -> Array:
        """(N, C, H, W) as (N C, H, W)."""
        return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])

    def _parts(self, y: Array) -> Iterator[slice]:
        """The planes a cacheful at a time."""
        planes, step = y.shape[0] * y.shape[1], max(1, PLANE_CELLS // count(self.output))
        return (slice(start, start + step) for start in range(0, planes, step))

    def _divisors(self, xp: ModuleType) -> Array:
        return self.constant(xp, "divisors", self._make_divisors)

    def _make_divisors(self) -> Array:
        """1 / cells of each window (P, Q), padding included but not what lies behind it; NaN for windows of
        none."""
        window = self.window
        axes = zip(self.image, self.output, window.kernel, window.stride, window.pad, strict=True)
        cells = []
        for size, output, kernel, stride, pad in axes:
            start = np.arange(output) * stride - pad
            cells.append(np.minimum(start + kernel, size + pad) - start)
        number = np.outer(*cells).astype(np.float64)
        number[number == 0] = np.nan
        return (1 / number).astype(self.dtype)

    def _average(self, xp: ModuleType, x: Array, y: Array) -> None:
        y.fill(0)
        if self._by_window:
            for output, cells, _ in self._windows(xp):
                x[cells].sum(axis=(2, 3), keepdims=True, out=y[output])
        else:
            for _, outputs, inputs in self._positions():
                y[outputs] += x[inputs]
        y *= self._divisors(xp)

    def _spread(self, xp: ModuleType, dy: Array, dx: Array) -> None:
        share = dy * self._divisors(xp)
        if self._by_window:
            for output, cells, _ in self._windows(xp):
                dx[cells] += share[output]
            return
        for _, outputs, inputs in self._positions():
            dx[inputs] += share[outputs]

    def _draw(self, xp: ModuleType, b: Buffers) -> None:
        x, y, chosen, draw = b.bottoms[0], b.tops[0], b.saved["chosen"], b.states["draw"]
        total, running = xp.zeros_like(y), xp.zeros_like(y)
        for _, outputs, inputs in self._positions():
            total[outputs] += x[inputs]
        random = stream(xp, self.seed, self.name, int(draw[0])).random(y.shape, dtype=xp.float32)
        draw += 1
        reached = random.astype(y.dtype) * total
        y.fill(0)
        chosen.fill(0)
        for number, outputs, inputs in self._positions():
            running[outputs] += x[inputs]
            here = (chosen[outputs] == 0) & (running[outputs] >= reached[outputs])
            xp.copyto(y[outputs], x[inputs], where=here)
            xp.copyto(chosen[outputs], chosen.dtype.type(number + 1), where=here)

    def _expect(self, xp: ModuleType, x: Array, y: Array) -> None:
        total = xp.zeros_like(y)
        y.fill(0)
        for _, outputs, inputs in self._positions():
            total[outputs] += x[inputs]
            y[outputs] += x[inputs] * x[inputs]
        y /= xp.where(total > 0, total, 1)
        y *= total > 0
