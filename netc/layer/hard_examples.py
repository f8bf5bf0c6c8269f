"""Online hard example mining: losses that also give every region's own, and the layer that picks the regions
of largest loss. (Shrivastava et al., "Training region-based object detectors with OHEM", 2016; Dai et al.,
"R-FCN", 2016)"""

from __future__ import annotations

from types import ModuleType

from netc.layer.base import Arity, Array, Buffers, Layer, Shape, count
from netc.layer.l1_loss import DifferenceLoss, smooth_l1, smooth_l1_slope, warn_without_loss_weight
from netc.layer.loss import SoftmaxWithLoss
from netc.layer.registry import register
from netc.proto import netc_pb2 as pb


@register
class SoftmaxWithLossOHEM(SoftmaxWithLoss):
    """SoftmaxWithLoss; a third top, shaped as the labels, holds -log p[label] of every place, 0 where it is
    ignored."""

    type = "SoftmaxWithLossOHEM"
    tops = Arity(1, 3)

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        super().infer(bottoms)
        return [(), *bottoms][: max(1, len(self.spec.top))]

    def deliver(self, xp: ModuleType, b: Buffers, likelihood: Array) -> None:
        super().deliver(xp, b, likelihood)
        if len(b.tops) > 2:
            xp.subtract(0, likelihood.reshape(b.tops[2].shape), out=b.tops[2])


@register
class SmoothL1LossOHEM(DifferenceLoss):
    """sum f(w (a - b)) / normalizer with f as SSD's SmoothL1Loss has it; the gradient leaves the factor w
    out.

    a and b: N C H W, the outputs of R regions being R C; the third bottom w may be left out. A second top
    (N, 1, H, W) holds the sums over the channels. The places that count for `loss_param` are N x H x W, and
    VALID means all of them; the normalizer is never below 1. It has no loss_weight unless the prototxt states
    one.
    """

    type = "SmoothL1LossOHEM"
    is_loss = False
    bottoms = Arity(2, 3)
    tops = Arity(1, 2)

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        super().infer(bottoms)
        if len(bottoms[0]) > 4:
            raise self.error(
                "SmoothL1LossOHEM needs at most 4 axes", blob=self.spec.bottom[0], found=bottoms[0]
            )
        warn_without_loss_weight(self)
        images, channels, *cells = (*bottoms[0], 1, 1, 1)[:4]
        self.places = (images, channels, count(cells))
        normalize = self.normalizer(default=pb.LossParameter.VALID)
        self.divisor = max(1, normalize(images, count(cells), images * count(cells)))
        return [(), (images, 1, *cells)][: len(self.spec.top)]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        difference = self.subtract(xp, b)
        if len(b.bottoms) > 2:
            difference *= b.bottoms[2].reshape(difference.shape)
        value = smooth_l1(xp, difference)
        b.tops[0][...] = value.sum() / value.dtype.type(self.divisor)
        if len(b.tops) > 1:
            b.tops[1][...] = value.reshape(self.places).sum(axis=1).reshape(b.tops[1].shape)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        slope = smooth_l1_slope(xp, b.saved["difference"])
        weight = b.top_grads[0]
        if weight is None:  # only the second top is given a gradient, which goes nowhere
            slope *= 0
        else:
            slope *= weight / slope.dtype.type(self.divisor)
        self.hand_down(b, slope)


@register
class BoxAnnotatorOHEM(Layer):
    """Labels and box weights of the `roi_per_img` regions of largest loss of each image; the other regions
    get `ignore_label` and weights of 0.

    Bottoms: regions (R, 5) whose first number is their image, losses (R), labels (R), box weights (R, K);
    each may have an image's cells (H, W) behind, as a map of regions. Tops: labels (R, 1, H, W), weights
    (R, K, H, W). Among equal losses the earlier region comes first. No gradient passes: the bottoms get
    zeros.
    """

    type = "BoxAnnotatorOHEM"
    options_field = "box_annotator_ohem_param"
    bottoms = Arity(4)
    tops = Arity(2)
    backward_bottoms = ()
    backward_tops = ()
    decides_on_host = True

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        if self.options.roi_per_img < 1:
            raise self.error(
                "roi_per_img must be at least 1",
                *(["roi_per_img"] if self.options.HasField("roi_per_img") else []),
                found=self.options.roi_per_img,
            )
        regions, losses, labels, weights = ((*shape, 1, 1, 1, 1)[:4] for shape in bottoms)
        self.shape = (regions[0], regions[2] * regions[3])
        wanted = ((regions[0], 5), (regions[0], 1), (regions[0], 1), (regions[0], weights[1]))
        for number, (shape, start) in enumerate(zip((regions, losses, labels, weights), wanted, strict=True)):
            if len(bottoms[number]) > 4 or shape != (*start, *regions[2:]):
                raise self.error(
                    f"bottom {number} must have a row for each region",
                    blob=self.spec.bottom[number],
                    expected=(*start, *regions[2:]),
                    found=bottoms[number],
                    remedy="the bottoms are regions, losses, labels and box weights, in this order",
                )
        return [(regions[0], 1, *regions[2:]), (regions[0], weights[1], *regions[2:])]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        rows, cells = self.shape
        regions, losses, labels, weights = (bottom.reshape(rows, -1, cells) for bottom in b.bottoms)
        image = regions[:, 0].reshape(-1).astype(xp.int64)
        if image.size and int(image.min()) < 0:
            raise self.error(
                "a region lies in an image that the batch does not have",
                blob=self.spec.bottom[0],
                expected="0 or more",
                found=int(image.min()),
            )
        # Ordered by image, then by falling loss; a region's rank is its distance from its image's first.
        order = xp.argsort(-losses.reshape(-1), kind="stable")
        order = order[xp.argsort(image[order], kind="stable")]
        rank = xp.arange(order.size) - xp.searchsorted(image[order], image[order])
        chosen = xp.zeros(order.size, bool)
        chosen[order] = rank < self.options.roi_per_img
        chosen = chosen.reshape(rows, 1, cells)
        b.tops[0][...] = xp.where(chosen, labels, self.options.ignore_label).reshape(b.tops[0].shape)
        b.tops[1][...] = (weights * chosen).reshape(b.tops[1].shape)

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        for gradient in b.bottom_grads:
            if gradient is not None:
                gradient[...] = 0
