"""SPP: spatial pyramid pooling, as many numbers from images of every size."""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Array, Buffers, Layer, Shape, count
from netc.layer.pool import Pooling
from netc.layer.registry import register
from netc.proto import netc_pb2 as pb


@register
class SPP(Layer):
    """The image pooled into 1 x 1, 2 x 2, 4 x 4, ... cells, `pyramid_height` levels of them, one level behind
    another.

    (N, C, H, W) to (N, C (1 + 4 + 16 + ...)); a pyramid of one level stays (N, C, 1, 1), as in Caffe. A
    level of b x b cells has windows of ceil(H / b) x ceil(W / b) side by side, the image padded to fit.
    `pool` is a Pooling layer's method. (He et al., "Spatial pyramid pooling in deep convolutional networks
    for visual recognition", 2014)
    """

    type = "SPP"
    options_field = "spp_param"
    backward_bottoms = ()
    backward_tops = ()

    levels: list[Pooling]

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        shape, height = bottoms[0], self.options.pyramid_height
        if len(shape) != 4 or 0 in shape[2:]:
            raise self.error(
                "SPP needs (N, C, H, W)", blob=self.spec.bottom[0], expected="4 axes", found=list(shape)
            )
        if height < 1:
            raise self.error(
                "the pyramid needs a level",
                *(["pyramid_height"] if self.options.HasField("pyramid_height") else []),
                expected="pyramid_height of at least 1",
                found=height,
            )
        self.levels, pooled = [], []
        for level in range(height):
            pooling = self._pooling(level, shape)
            pooled.append(pooling.infer([shape])[0])
            self.levels.append(pooling)
            self.decides_on_host |= pooling.decides_on_host
            for mine, its in ((self.saved, pooling.saved), (self.states, pooling.states)):
                mine.update({f"{name}_{level}": scratch for name, scratch in its.items()})
        if height == 1:
            return pooled
        return [(shape[0], sum(count(of[1:]) for of in pooled))]

    def gives_gradient(self, bottom: int) -> bool:
        return all(level.gives_gradient(bottom) for level in self.levels)

    def _pooling(self, level: int, shape: Shape) -> Pooling:
        """The layer of one level, whose windows lie side by side."""
        options = pb.PoolingParameter(pool=self.options.pool)
        bins = 2**level
        for axis, size in zip("hw", shape[2:], strict=True):
            kernel = -(-size // bins)
            pad = (kernel * bins - size + 1) // 2
            if pad >= kernel:
                raise self.error(
                    f"the image is too small for {bins} x {bins} cells",
                    "pyramid_height",
                    expected=f"a pyramid of at most {level} levels, or a larger image",
                    found=f"{self.options.pyramid_height} levels over {shape[2]} x {shape[3]}",
                )
            for option, value in (("kernel", kernel), ("stride", kernel), ("pad", pad)):
                setattr(options, f"{option}_{axis}", value)
        spec = pb.LayerParameter(name=f"{self.name}/{level}", type="Pooling", pooling_param=options)
        spec.bottom.append(self.spec.bottom[0])
        spec.top.append(self.spec.name)
        return Pooling(
            spec,
            self.phase,
            seed=self.seed,
            dtype=self.dtype,
            locate=lambda *path: self.locate(self.options_field),
        )

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        start = 0
        for number, level in enumerate(self.levels):
            y = xp.empty((*b.bottoms[0].shape[:2], *level.output), self.dtype)
            its = self._buffers(number, b)
            its.tops = [y]
            level.forward(xp, its)
            stop = start + count(y.shape[1:])
            self._rows(b.tops[0])[:, start:stop] = self._rows(y)
            start = stop

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        dy: Array = b.top_grads[0]
        dx: Array = b.bottom_grads[0]
        its_dx = xp.empty_like(dx)
        dx[...] = 0
        start = 0
        for number, level in enumerate(self.levels):
            shape = (*dx.shape[:2], *level.output)
            stop = start + count(shape[1:])
            part = xp.ascontiguousarray(self._rows(dy)[:, start:stop]).reshape(shape)
            its = self._buffers(number, b)
            its.top_grads, its.bottom_grads = [part], [its_dx]
            level.backward(xp, its)
            dx += its_dx
            start = stop

    @staticmethod
    def _rows(x: Array) -> Array:
        """A blob as (N, the rest)."""
        return x.reshape(x.shape[0], count(x.shape[1:]))

    def _buffers(self, level: int, b: Buffers) -> Buffers:
        """A level's buffers: this layer's bottoms, and the level's share of what this layer keeps."""
        pooling = self.levels[level]
        return Buffers(
            bottoms=b.bottoms,
            saved={name: b.saved[f"{name}_{level}"] for name in pooling.saved},
            states={name: b.states[f"{name}_{level}"] for name in pooling.states},
        )
