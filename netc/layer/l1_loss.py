"""L1Loss and SmoothL1Loss: regression losses whose slopes stay bounded."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

from netc.layer.base import Arity, Array, Buffers, Layer, Scratch, Shape, count
from netc.layer.loss import Loss
from netc.layer.registry import register
from netc.proto import netc_pb2 as pb

log = logging.getLogger(__name__)


class DifferenceLoss(Loss):
    """Bottoms a and b of as many elements; both get a gradient, the second the first's with the other
    sign."""

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        tops = super().infer(bottoms[:2])
        for number, shape in enumerate(bottoms):
            if count(shape) != count(bottoms[0]):
                raise self.error(
                    f"the bottoms of a {self.type} must have as many elements",
                    blob=self.spec.bottom[number],
                    expected=f"{count(bottoms[0])}, as {self.spec.bottom[0]!r} {list(bottoms[0])}",
                    found=f"{count(shape)} ({list(shape)})",
                )
        self.saved = {"difference": Scratch(bottoms[0])}
        self.rows = max(1, bottoms[0][0])
        return tops

    def gives_gradient(self, bottom: int) -> bool:
        """All bottoms: those that only weigh get zeros, as they pass no gradient on in the forks."""
        return True

    def subtract(self, xp: ModuleType, b: Buffers) -> Array:
        """a - b in `saved`."""
        difference = b.saved["difference"]
        xp.subtract(b.bottoms[0], b.bottoms[1].reshape(difference.shape), out=difference)
        return difference

    @staticmethod
    def hand_down(b: Buffers, slope: Array) -> None:
        """Writes the bottoms' gradients: the slope, its opposite, and zeros for further bottoms."""
        for dx, sign in zip(b.bottom_grads, (1, -1, 0, 0), strict=False):
            if dx is not None:
                dx[...] = sign * slope.reshape(dx.shape)


@register
class L1Loss(DifferenceLoss):
    """sum |a - b| / N."""

    type = "L1Loss"

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        difference = self.subtract(xp, b)
        b.tops[0][...] = xp.abs(difference).sum() / self.rows

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        difference = b.saved["difference"]
        weight: Array = b.top_grads[0]
        self.hand_down(b, xp.sign(difference) * (weight / self.rows))


@register
class SmoothL1Loss(DifferenceLoss):
    """sum f(a - b) / N with f(d) = d^2 / 2 where |d| < 1, else |d| - 1/2. (Girshick, "Fast R-CNN", 2015)

    Two layers go by this name. With 4 bottoms or a `smooth_l1_loss_param` it is Fast R-CNN's
    (`FastRcnnSmoothL1Loss`), otherwise SSD's, described here: a third bottom w, if there is one, makes it
    f(w (a - b)), and the gradient leaves the factor w out.
    """

    type = "SmoothL1Loss"
    other_options = ("loss_param", "smooth_l1_loss_param")
    bottoms = Arity(2, 4)

    def __new__(cls, spec: pb.LayerParameter, *args: Any, **options: Any) -> SmoothL1Loss:
        of_fast_rcnn = len(spec.bottom) == 4 or spec.HasField("smooth_l1_loss_param")
        return super().__new__(FastRcnnSmoothL1Loss if of_fast_rcnn else cls)

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        difference = self.subtract(xp, b)
        if len(b.bottoms) > 2:
            difference *= b.bottoms[2].reshape(difference.shape)
        b.tops[0][...] = smooth_l1(xp, difference).sum() / self.rows

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        difference = b.saved["difference"]
        weight: Array = b.top_grads[0]
        self.hand_down(b, smooth_l1_slope(xp, difference) * (weight / self.rows))


class FastRcnnSmoothL1Loss(SmoothL1Loss):
    """sum v f(w (a - b)) / N with f(d) = sigma^2 d^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2).

    Bottoms 2 and 3, if given, are the inside weights w and the outside weights v. It has no loss_weight
    unless the prototxt states one. (Girshick, "Fast R-CNN", 2015; Ren et al., "Faster R-CNN", 2015)
    """

    options_field = "smooth_l1_loss_param"
    is_loss = False

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        if len(bottoms) == 3:
            raise self.error(
                "inside weights need outside weights",
                "bottom",
                expected="2 or 4 bottoms",
                found=len(bottoms),
            )
        self.sigma2 = self.options.sigma**2
        if self.sigma2 == 0:
            raise self.error("sigma must not be 0", "sigma", remedy="leave it out: it is 1 then")
        tops = super().infer(bottoms)
        self.backward_bottoms = (2, 3) if len(bottoms) == 4 else ()
        warn_without_loss_weight(self)
        return tops

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        difference = self.subtract(xp, b)
        if len(b.bottoms) == 4:
            difference *= b.bottoms[2].reshape(difference.shape)
        value = smooth_l1(xp, difference, self.sigma2)
        if len(b.bottoms) == 4:
            value *= b.bottoms[3].reshape(value.shape)
        b.tops[0][...] = value.sum() / self.rows

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        difference = b.saved["difference"]
        weight: Array = b.top_grads[0]
        slope = smooth_l1_slope(xp, difference, self.sigma2) * (weight / self.rows)
        for weights in b.bottoms[2:]:
            slope *= weights.reshape(slope.shape)
        self.hand_down(b, slope)


def smooth_l1(xp: ModuleType, difference: Array, sigma2: float = 1.0) -> Array:
    """sigma2 d^2 / 2 where |d| < 1 / sigma2, else |d| - 1 / (2 sigma2)."""
    kind = difference.dtype.type
    size = xp.abs(difference)
    square = difference * difference
    square *= kind(0.5 * sigma2)
    return xp.where(size < kind(1 / sigma2), square, size - kind(0.5 / sigma2))


def smooth_l1_slope(xp: ModuleType, difference: Array, sigma2: float = 1.0) -> Array:
    """sigma2 d where |d| < 1 / sigma2, else its sign."""
    kind = difference.dtype.type
    inside = xp.abs(difference) < kind(1 / sigma2)
    return xp.where(inside, difference * kind(sigma2), xp.sign(difference))


def warn_without_loss_weight(layer: Layer) -> None:
    """Says that a loss whose weight is 0 by default has none, so nothing learns from it."""
    if not layer.spec.loss_weight and layer.phase == pb.TRAIN:
        log.warning(
            "%s: layer %s: a %s of this kind counts only with a loss_weight; add `loss_weight: 1`",
            layer.locate(),
            layer.name,
            layer.type,
        )
