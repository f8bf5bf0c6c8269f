"""ContrastiveLoss: pairs of features drawn together or pushed apart."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from netc.layer.base import Arity, Array, Buffers, Scratch, Shape, count
from netc.layer.loss import Loss
from netc.layer.reduction import squared_norms
from netc.layer.registry import register

NO_DISTANCE: Final = 1e-4  # added to a distance before it divides, so that equal features divide by no 0


@register
class ContrastiveLoss(Loss):
    """sum over pairs of (d^2 where the pair is alike, max(margin - d, 0)^2 where it is not) / (2 N), with the
    Euclidean distance d = |a - b|.

    a, b: (N, C), further axes of size 1; the third bottom holds N numbers, 0 (cut to an integer) for a pair
    that is not alike. `legacy_version`: max(margin - d^2, 0) in place of max(margin - d, 0)^2. Where a slope
    divides by d it divides by d + 0.0001. (Hadsell et al., "Dimensionality reduction by learning an invariant
    mapping", 2006)
    """

    type = "ContrastiveLoss"
    options_field = "contrastive_loss_param"
    bottoms = Arity(3)
    backward_bottoms = (2,)

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        tops = super().infer(bottoms[:2])
        first, second, alike = bottoms
        if first[1:2] != second[1:2] or count(first) != count(second):
            raise self.error(
                "both features of a pair must have as many channels",
                blob=self.spec.bottom[1],
                expected=f"{list(first)}, as {self.spec.bottom[0]!r}",
                found=list(second),
            )
        if count(first[2:]) != 1:
            raise self.error(
                "a ContrastiveLoss needs features without height and width",
                blob=self.spec.bottom[0],
                expected="N x C",
                found=list(first),
                remedy="put a Flatten layer, or global pooling, before the loss",
            )
        if count(alike) != first[0]:
            raise self.error(
                "a ContrastiveLoss needs one number for each pair, 1 where it is alike",
                blob=self.spec.bottom[2],
                expected=first[0],
                found=f"{count(alike)} ({list(alike)})",
            )
        self.pairs = (first[0], count(first[1:]))
        self.saved = {"difference": Scratch(self.pairs), "squared": Scratch(self.pairs[:1])}
        return tops

    def gives_gradient(self, bottom: int) -> bool:
        return bottom < 2

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        difference, squared = b.saved["difference"], b.saved["squared"]
        a, other = (bottom.reshape(self.pairs) for bottom in b.bottoms[:2])
        xp.subtract(a, other, out=difference)
        squared[...] = squared_norms(xp, difference)
        if self.options.legacy_version:
            apart = xp.maximum(self._margin(squared) - squared, 0)
        else:
            apart = xp.maximum(self._margin(squared) - xp.sqrt(squared), 0) ** 2
        b.tops[0][...] = xp.where(self._alike(xp, b), squared, apart).sum() / (2 * self.pairs[0])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        squared = b.saved["squared"]
        weight: Array = b.top_grads[0]
        if self.options.legacy_version:
            apart = (squared < self._margin(squared)).astype(squared.dtype)
        else:
            distance = xp.sqrt(squared)
            apart = xp.maximum(self._margin(squared) - distance, 0)
            apart /= distance + squared.dtype.type(NO_DISTANCE)
        slope = xp.where(self._alike(xp, b), 1, -apart) * (weight / self.pairs[0])
        for sign, dx in zip((1, -1), b.bottom_grads, strict=False):
            if dx is not None:
                xp.multiply(b.saved["difference"], (sign * slope)[:, None], out=dx.reshape(self.pairs))

    def _margin(self, like: Array) -> Array:
        return like.dtype.type(self.options.margin)

    @staticmethod
    def _alike(xp: ModuleType, b: Buffers) -> Array:
        return xp.trunc(b.bottoms[2].reshape(-1)) != 0
