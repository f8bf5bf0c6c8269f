"""Convolution: filters slide over the spatial axes of a blob."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Arity, Buffers, Layer, ParamBlob, Shape, count
from netc.layer.lowering import Lowering
from netc.layer.registry import register
from netc.layer.window import Window


class SlidingFilters(Layer):
    """What the layers with a ConvolutionParameter share: its options as a Window, its channels and groups.

    `axis` is the channel axis; the axes before it count images, those behind it are spatial, any number of
    them.
    """

    options_field = "convolution_param"
    bottoms = Arity(1, None)
    tops = Arity(1, None)
    equal_bottoms_and_tops = True

    axis: int
    window: Window

    def read_window(self, shape: Shape) -> None:
        """Sets `axis` and `window` for a bottom of this shape. Raises NetcError where the options do not fit
        it."""
        self.axis = self.canonical_axis(self.options.axis, len(shape))
        axes = len(shape) - self.axis - 1
        self.window = Window(
            self._per_axis("kernel_size", axes, None, "kernel_h", "kernel_w"),
            self._per_axis("stride", axes, 1, "stride_h", "stride_w"),
            self._per_axis("pad", axes, 0, "pad_h", "pad_w"),
            self._dilation(axes),
        )

    def output_of(self, spatial: Shape) -> Shape:
        """The windows along each axis. Raises NetcError where not one fits."""
        output = self.window.output(spatial)
        if any(size < 1 for size in output):
            padded = tuple(n + 2 * p for n, p in zip(spatial, self.window.pad, strict=True))
            raise self.error(
                "the kernel is larger than its padded input",
                "kernel_h" if self.options.HasField("kernel_h") else "kernel_size",
                expected=f"at most {padded}",
                found=self.window.extent,
                remedy="a smaller kernel or dilation, more padding, or a larger input",
            )
        return output

    def check_equal_shapes(self, bottoms: list[Shape]) -> None:
        """All bottoms go through the same filters and must have the same shape."""
        for number, shape in enumerate(bottoms):
            if shape != bottoms[0]:
                raise self.error(
                    "the bottoms of one layer must have the same shape",
                    blob=self.spec.bottom[number],
                    expected=bottoms[0],
                    found=shape,
                    remedy="give every shape a layer of its own; `param { name }` shares the filters",
                )

    def check_groups(self, channels: int) -> None:
        """`group` must divide the channels and the outputs."""
        group, outputs = self.options.group, self.options.num_output
        if outputs < 1:
            raise self.error(
                "num_output must be at least 1", "num_output", expected="at least 1", found=outputs
            )
        if group < 1:
            raise self.error("group must be at least 1", "group", expected="at least 1", found=group)
        for what, number in (("input channels", channels), ("outputs", outputs)):
            if number % group:
                raise self.error(
                    f"the {number} {what} cannot be split into {group} equal groups",
                    "group",
                    expected=f"a divisor of {number}",
                    found=group,
                )

    def filter_params(self, weight: Shape) -> list[ParamBlob]:
        """The filters and, unless `bias_term` is false, one bias per output."""
        params = [ParamBlob(weight, self.option("weight_filler"))]
        if self.options.bias_term:
            params.append(ParamBlob((self.options.num_output,), self.option("bias_filler")))
        return params

    def _dilation(self, axes: int) -> Shape:
        """`dilation`; or DeepLab's name for it, `hole`, or `hole_h` and `hole_w`."""
        given = [name for name in ("hole", "hole_h", "hole_w") if self.options.HasField(name)]
        if not given:
            return self._per_axis("dilation", axes, 1)
        values = tuple(getattr(self.options, name) for name in given)
        if self.options.dilation or given not in (["hole"], ["hole_h", "hole_w"]) or axes % len(given):
            raise self.error(
                "the dilation must be given once",
                given[0],
                expected="dilation, or hole, or hole_h and hole_w for two spatial axes",
                found=" and ".join(given + ["dilation"] * bool(self.options.dilation)),
            )
        if min(values) < 1:
            raise self.error("a dilation must be at least 1", given[values.index(min(values))], found=0)
        return values if len(values) == axes else values[:1] * axes

    def _per_axis(self, name: str, axes: int, default: int | None, *names_2d: str) -> Shape:
        """An option per spatial axis: given for each, once for all, or (for two axes) as _h and _w."""
        given = tuple(getattr(self.options, name))
        pair = [n for n in names_2d if self.options.HasField(n)]
        if pair and given:
            raise self.error(
                f"{name} and {pair[0]} say the same thing twice", pair[0], remedy="keep one of them"
            )
        if pair and axes != 2:
            raise self.error(
                f"{pair[0]} is for two spatial axes",
                pair[0],
                expected="2 spatial axes",
                found=axes,
                remedy=f"write {name} once for each spatial axis",
            )
        if pair:
            given = tuple(getattr(self.options, n) for n in names_2d)
        if not given and default is not None:
            given = (default,)
        if not given and axes:
            raise self.error(f"{name} is missing", remedy=f"add `{name}: 3`, or _h and _w")
        if len(given) not in (1, axes):
            raise self.error(
                f"{name} must be given once, or once for each spatial axis",
                name,
                expected=f"1 or {axes} values",
                found=len(given),
            )
        if name != "pad" and any(value < 1 for value in given):
            at = next((n for n in names_2d if pair and getattr(self.options, n) < 1), name)
            remedy = f"give both {' and '.join(names_2d)}" if pair else None
            raise self.error(f"{at} must be at least 1", pair[0] if pair else name, found=0, remedy=remedy)
        return given if len(given) == axes else given * axes


@register
class Convolution(SlidingFilters):
    """y[n,k,p,q] = b[k] + sum over c, r, s of w[k,c,r,s] x[n,c,h,w], for K filters.

    (N, C, H, W) to (N, K, P, Q), with h = p stride + r dilation - pad and P = (H + 2 pad - dilation (R - 1) -
    1) / stride + 1, the fraction dropped; likewise w and Q. Cells of the padding are 0. With `group` g,
    output group i sees only input group i of g. Any number of spatial axes. Parameters: w (K, C / group, R,
    S), b (K). Every bottom gives a top, by the same filters.

    (LeCun et al., "Gradient-based learning applied to document recognition", 1998; groups: Krizhevsky et al.,
    "ImageNet classification with deep convolutional neural networks", 2012; dilation: Yu and Koltun,
    "Multi-scale context aggregation by dilated convolutions", 2016)
    """

    type = "Convolution"
    backward_tops = ()

    lowering: Lowering

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape = bottoms[0]
        self.read_window(shape)
        self.check_equal_shapes(bottoms)
        channels, spatial = shape[self.axis], shape[self.axis + 1 :]
        self.check_groups(channels)
        group, filters = self.options.group, self.options.num_output
        output = self.output_of(spatial)
        self.params = self.filter_params((filters, channels // group, *self.window.kernel))
        images = count(shape[: self.axis])
        self.lowering = Lowering.of(images, group, channels, filters, self.window, spatial, output)
        return [(*shape[: self.axis], filters, *output)] * len(bottoms)

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        bias = b.params[1] if self.options.bias_term else None
        for x, y in zip(b.bottoms, b.tops, strict=True):
            self.lowering.forward(xp, x, b.params[0], y, bias)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dbias = b.param_grads[1] if self.options.bias_term else None
        for x, dy, dx in zip(b.bottoms, b.top_grads, b.bottom_grads, strict=True):
            if dy is None:
                if dx is not None:
                    dx[...] = 0
                continue
            if dbias is not None:
                cells = (self.lowering.images, self.options.num_output, count(self.lowering.output))
                dbias += dy.reshape(cells).sum(axis=(0, 2))
            self.lowering.backward(xp, x, dy, b.params[0], dx, b.param_grads[0])
