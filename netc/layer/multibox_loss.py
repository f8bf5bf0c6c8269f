"""MultiBoxLoss: what is wrong with the places and the classes that a detector gives to its prior boxes."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from netc.layer.base import Arity, Array, Buffers, Scratch, Shape, count
from netc.layer.box_choice import UNMATCHED, match_boxes
from netc.layer.box_codes import decode, encode
from netc.layer.box_mining import Mining
from netc.layer.class_losses import LOGISTIC, SOFTMAX
from netc.layer.loss import Loss
from netc.layer.registry import register
from netc.proto import netc_pb2 as pb

PARAM = pb.MultiBoxLossParameter
TRUTH_NUMBERS = 8  # image, class, instance, xmin, ymin, xmax, ymax, difficult


@dataclass
class Truths:
    """The true boxes of a batch, in the order of the rows: corners (G, 4), classes and images (G,)."""

    boxes: Array
    labels: Array
    images: Array


@dataclass
class Predictions:
    """What a batch is judged by: offsets (N, P, L, 4) and class scores (N, P, C) of P priors, and the priors'
    corners and variances (P, 4). L is 1, or the number of classes where each has boxes of its own."""

    offsets: Array
    scores: Array
    priors: Array
    variances: Array


@dataclass
class Located:
    """The matched predictions, one a row: image, class slot and prior; prediction minus truth, as offsets."""

    image: Array
    slot: Array
    prior: Array
    difference: Array


@register
class MultiBoxLoss(Loss):
    """(loc_weight * sum of location losses + sum of class losses) / normalizer, over priors matched with true
    boxes.

    Every true box is matched with the prior that it overlaps most, and with `match_type` PER_PREDICTION with
    every prior that it overlaps by `overlap_threshold`. Location: smooth L1 (or L2) of the offsets from their
    code; classes: softmax (or logistic) loss of all priors, or, with `mining_type`, of the matched ones and
    of as many hard ones as MAX_NEGATIVE (`neg_pos_ratio` for each match) or HARD_EXAMPLE (`sample_size` in
    all) allow. The normalizer is, unless `loss_param` says otherwise, the number of matches, at least 1.

    Bottoms: offsets (N, P L 4), scores (N, P C), priors (1, 2, 4 P) and truths (1, 1, G, 8), rows of image,
    class, instance, corners, difficult; a row of image -1 is none. (Liu et al., "SSD", 2016)

    As in SSD's own: images without true boxes give no negatives under mining; with
    `encode_variance_in_target` the gradient of the offsets lacks 1 / variance; a loss whose bottom has
    `propagate_down: false` is left out. Other than there: the LOGISTIC targets of an unmatched prior are all
    0 without mining, whatever the background is, and `nms_param` without `top_k` has no limit.
    """

    type = "MultiBoxLoss"
    options_field = "multibox_loss_param"
    bottoms = Arity(4)
    decides_on_host = True

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        options = self.options
        self._check()
        self.classes = options.num_classes
        self.slots = 1 if options.share_location else self.classes
        self.code: int = options.code_type
        self.mining = Mining(options)
        self.class_loss = SOFTMAX if options.conf_loss_type == PARAM.SOFTMAX else LOGISTIC
        offsets, scores, priors, truths = bottoms
        if len(priors) < 3 or priors[1] != 2 or priors[2] % 4:
            raise self._misfit(2, "1 x 2 x 4 P, as PriorBox gives", priors)
        if not truths or truths[-1] != TRUTH_NUMBERS:
            raise self._misfit(3, f"1 x 1 x boxes x {TRUTH_NUMBERS}", truths)
        self.images, self.priors = offsets[0] if offsets else 0, priors[2] // 4
        for i, shape, each in ((0, offsets, self.slots * 4), (1, scores, self.classes)):
            if not shape or shape[0] != self.images or count(shape[1:]) != self.priors * each:
                raise self._misfit(
                    i, f"{self.images} x {self.priors * each}, {each} for each of {self.priors} priors", shape
                )
        self.divide = self.normalizer(default=pb.LossParameter.VALID)
        self.saved = {"offset_slope": Scratch(offsets), "score_slope": Scratch(scores)}
        return [()]

    def gives_gradient(self, bottom: int) -> bool:
        return bottom < 2

    def _check(self) -> None:
        """Raises NetcError where the options contradict each other."""
        options = self.options
        background, classes = options.background_label_id, options.num_classes
        if not classes:
            raise self.error("num_classes is not set", "num_classes", remedy="count the background as well")
        if options.conf_loss_type == PARAM.SOFTMAX and background >= classes:
            raise self.error(
                "the background must be one of the classes of a softmax",
                "background_label_id",
                expected=f"0 to {classes - 1}",
                found=background,
            )
        if options.map_object_to_agnostic and background + 1 >= classes and background < classes:
            raise self.error(
                "map_object_to_agnostic knows two classes, the background and the objects",
                "num_classes",
                expected=background + 2,
                found=classes,
            )
        mines = options.mining_type != PARAM.NONE
        if options.HasField("do_neg_mining") and options.do_neg_mining != mines:
            raise self.error(
                "do_neg_mining contradicts mining_type",
                "do_neg_mining",
                expected=str(mines).lower(),
                remedy="remove do_neg_mining, and state mining_type: NONE or MAX_NEGATIVE",
            )
        if mines and not options.share_location:
            raise self.error(
                "mining needs boxes that all classes share",
                "share_location",
                expected="share_location: true, or mining_type: NONE",
            )
        if options.mining_type == PARAM.HARD_EXAMPLE and options.sample_size < 1:
            raise self.error("sample_size must be at least 1", "sample_size", found=options.sample_size)

    def _misfit(self, bottom: int, expected: str, found: Shape) -> Exception:
        return self.error(
            f"bottom {bottom} does not have the shape that MultiBoxLoss needs",
            blob=self.spec.bottom[bottom],
            expected=expected,
            found=list(found),
            remedy="check num_classes, share_location and the number of boxes of each PriorBox",
        )

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        prior = b.bottoms[2][0].reshape(2, self.priors, 4)
        seen = Predictions(
            b.bottoms[0].reshape(self.images, self.priors, self.slots, 4),
            b.bottoms[1].reshape(self.images, self.priors, self.classes),
            prior[0],
            prior[1],
        )
        offset_slope, score_slope = b.saved["offset_slope"], b.saved["score_slope"]
        truths = self._truths(xp, b.bottoms[3].reshape(-1, TRUTH_NUMBERS))
        match, overlap = self._match(xp, seen, truths)
        match, negative = self._mine(xp, seen, truths, match, overlap)

        total = 0.0
        offset_slope[...], score_slope[...] = 0, 0
        if self._counts(0):
            total += self._location(xp, seen, truths, match, offset_slope)
        if self._counts(1):
            total += self._classification(xp, seen, truths, match, negative, score_slope)
        normalizer = xp.maximum(self.divide(self.images, self.priors, (match >= 0).sum()), 1)
        b.tops[0][...] = total / normalizer
        offset_slope /= normalizer
        score_slope /= normalizer

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        weight: Array = b.top_grads[0]
        for grad, name in zip(b.bottom_grads, ("offset_slope", "score_slope"), strict=False):
            if grad is not None:
                xp.multiply(b.saved[name], weight, out=grad)

    def _counts(self, bottom: int) -> bool:
        """Whether the loss of offsets (0) or of scores (1) is part of the sum."""
        said = self.spec.propagate_down
        return bottom >= len(said) or said[bottom]

    def _truths(self, xp: ModuleType, rows: Array) -> Truths:
        """The true boxes that count. Raises NetcError where a label is no class of objects."""
        background = self.options.background_label_id
        counted = (rows[:, 0] >= 0) & (rows[:, 0] < self.images)
        if not self.options.use_difficult_gt:
            counted &= rows[:, 7] == 0
        rows = rows[counted]
        labels = rows[:, 1].astype(xp.int64)
        agnostic = self.options.map_object_to_agnostic
        wrong = labels == background
        if not agnostic:
            wrong = wrong | (labels < 0) | (labels >= self.classes)
        if wrong.any():
            raise self.error(
                f"label {int(labels[wrong][0])} of a true box is not a class of objects",
                blob=self.spec.bottom[3],
                expected=f"0 to {self.classes - 1}, but not {background}, the background",
                found=f"{int(labels[wrong][0])}; {int(wrong.sum())} of {labels.size} boxes",
                remedy="check the labels of the data, num_classes and background_label_id",
            )
        if agnostic:
            labels = xp.full_like(labels, background + 1)
        return Truths(rows[:, 3:7], labels, rows[:, 0].astype(xp.int64))

    def _match(self, xp: ModuleType, seen: Predictions, truths: Truths) -> tuple[Array, Array]:
        """For every image, slot and prior the number of its true box (or a negative one), and its overlap."""
        match = xp.full((self.images, self.slots, self.priors), UNMATCHED, xp.int64)
        overlap = xp.zeros(match.shape, seen.priors.dtype)
        for image in range(self.images):
            mine = xp.nonzero(truths.images == image)[0]
            if len(mine) == 0:
                continue
            if self.options.use_prior_for_matching:
                self._match_priors(xp, seen, truths, mine, match[image], overlap[image])
            else:
                self._match_predictions(
                    xp, seen, truths, mine, seen.offsets[image], match[image], overlap[image]
                )
        return match, overlap

    def _match_priors(
        self, xp: ModuleType, seen: Predictions, truths: Truths, mine: Array, match: Array, overlap: Array
    ) -> None:
        """The matches (L, P) of one image, whose true boxes are `mine`, by its priors."""
        index, best = self._match_boxes(xp, seen.priors, truths, mine)
        if self.options.share_location:
            match[0], overlap[0] = index, best
            return
        labels = truths.labels[xp.maximum(index, 0)]
        for slot in self._object_slots():
            match[slot], overlap[slot] = xp.where((index >= 0) & (labels == slot), index, UNMATCHED), best

    def _match_predictions(
        self,
        xp: ModuleType,
        seen: Predictions,
        truths: Truths,
        mine: Array,
        offsets: Array,
        match: Array,
        overlap: Array,
    ) -> None:
        """The matches (L, P) of one image, whose true boxes are `mine`, by what its offsets stand for."""
        for slot in self._object_slots():
            chosen = mine if self.options.share_location else mine[truths.labels[mine] == slot]
            boxes = self._decoded(xp, seen, offsets[:, slot])
            match[slot], overlap[slot] = self._match_boxes(xp, boxes, truths, chosen)

    def _object_slots(self) -> list[int]:
        """The slots of objects' boxes: the one that all share, or every class's but the background's."""
        shared = self.options.share_location
        return [i for i in range(self.slots) if shared or i != self.options.background_label_id]

    def _match_boxes(
        self, xp: ModuleType, boxes: Array, truths: Truths, chosen: Array
    ) -> tuple[Array, Array]:
        """As `match_boxes`, of the chosen ones of all true boxes."""
        options = self.options
        threshold = options.overlap_threshold if options.match_type == PARAM.PER_PREDICTION else None
        index, best = match_boxes(
            xp, boxes, truths.boxes[chosen], threshold, options.ignore_cross_boundary_bbox
        )
        return (xp.where(index >= 0, chosen[xp.maximum(index, 0)], index) if len(chosen) else index), best

    def _decoded(self, xp: ModuleType, seen: Predictions, offsets: Array) -> Array:
        """The boxes that one offset for each prior stands for."""
        variances = None if self.options.encode_variance_in_target else seen.variances
        return decode(xp, self.code, offsets, seen.priors, variances)

    def _mine(
        self, xp: ModuleType, seen: Predictions, truths: Truths, match: Array, overlap: Array
    ) -> tuple[Array, Array | None]:
        """The matches that are left, and the negatives (N, P); None where every prior counts."""
        if self.options.mining_type == PARAM.NONE:
            return match, None
        labels = self._labels(xp, truths, match)
        loss = self.class_loss.losses(xp, seen.scores, labels)
        if self.options.mining_type == PARAM.HARD_EXAMPLE:
            located = self._located(xp, seen, truths, match)
            loss[located.image, located.prior] += self._distance(xp, located.difference).sum(axis=1)
        match, negative = match.copy(), xp.zeros(loss.shape, bool)
        for image in range(self.images):
            if not (truths.images == image).any():
                continue
            boxes = None
            if self.mining.suppresses:
                offsets = seen.offsets[image, :, 0]
                boxes = seen.priors if self.mining.by_prior else self._decoded(xp, seen, offsets)
            match[image, 0], negative[image] = self.mining.choose(
                xp, loss[image], match[image, 0], overlap[image, 0], boxes
            )
        return match, negative

    def _located(self, xp: ModuleType, seen: Predictions, truths: Truths, match: Array) -> Located:
        """The matched predictions and what they lack to their true boxes."""
        image, slot, prior = xp.nonzero(match >= 0)
        options = self.options
        priors, variances = seen.priors[prior], seen.variances[prior]
        in_target = options.encode_variance_in_target
        wanted = encode(
            xp,
            self.code,
            truths.boxes[match[image, slot, prior]],
            priors,
            None if in_target else variances,
        )
        found = seen.offsets[image, prior, slot]
        if options.bp_inside:  # a coordinate outside of the image is as good as right
            boxes = priors
            if not options.use_prior_for_matching:
                boxes = decode(xp, self.code, found, priors, None if in_target else variances)
            found = xp.where((boxes < 0) | (boxes > 1), wanted, found)
        if in_target:
            wanted, found = wanted / variances, found / variances
        return Located(image, slot, prior, found - wanted)

    def _distance(self, xp: ModuleType, difference: Array) -> Array:
        """The location loss of every number."""
        squared = difference * difference / 2
        if self.options.loc_loss_type == PARAM.L2:
            return squared
        size = xp.abs(difference)
        return xp.where(size < 1, squared, size - 0.5)

    def _location(
        self, xp: ModuleType, seen: Predictions, truths: Truths, match: Array, slope: Array
    ) -> float:
        """The weighted sum of the location losses; writes their slope where it is not 0."""
        located = self._located(xp, seen, truths, match)
        weight = self.options.loc_weight
        steep = located.difference
        if self.options.loc_loss_type == PARAM.SMOOTH_L1:
            steep = xp.clip(steep, -1, 1)
        by_prior = slope.reshape(self.images, self.priors, self.slots, 4)
        by_prior[located.image, located.prior, located.slot] = steep * weight
        return weight * self._distance(xp, located.difference).sum()

    def _labels(self, xp: ModuleType, truths: Truths, match: Array) -> Array:
        """The class of every prior (N, P): its true box's, else the background."""
        labels = xp.full((self.images, self.priors), self.options.background_label_id, xp.int64)
        for slot in range(self.slots):
            matched = match[:, slot] >= 0
            labels[matched] = truths.labels[match[:, slot][matched]]
        return labels

    def _classification(
        self,
        xp: ModuleType,
        seen: Predictions,
        truths: Truths,
        match: Array,
        negative: Array | None,
        slope: Array,
    ) -> float:
        """The sum of the class losses of the places that count; writes their slope."""
        labels = self._labels(xp, truths, match)
        matched = (match >= 0).any(axis=1)
        if negative is not None:
            counted = matched | negative
        else:
            counted = xp.ones(matched.shape, bool)
            if self.class_loss is LOGISTIC:
                labels = xp.where(matched, labels, -1)
        scores, labels = seen.scores[counted], labels[counted]
        by_prior = slope.reshape(self.images, self.priors, self.classes)
        by_prior[counted] = self.class_loss.slopes(xp, scores, labels)
        return self.class_loss.losses(xp, scores, labels).sum()
