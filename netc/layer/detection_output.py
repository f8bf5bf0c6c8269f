"""DetectionOutput: from offsets and class scores to the boxes that are found."""

from __future__ import annotations

import logging
from types import ModuleType

from netc.data.source import Origin
from netc.layer.base import Arity, Array, Buffers, Layer, Shape, count
from netc.layer.box_choice import best_first, suppress_overlapping
from netc.layer.box_codes import decode
from netc.layer.detection_files import NEEDED, DetectionFiles
from netc.layer.registry import register

log = logging.getLogger(__name__)

SAVE = ("detection_output_param", "save_output_param")
ROW = 7  # image, class, score, xmin, ymin, xmax, ymax


@register
class DetectionOutput(Layer):
    """The boxes that are found: decoded, of each class those that overlap no better one, the best of each
    image.

    Of every class but the background the boxes with a score above `confidence_threshold`, the best
    `nms_param.top_k` of them, without those that overlap a better one by more than `nms_threshold`; of what
    is left of an image the best `keep_top_k`. Rows are ordered by image, class and falling score.

    With `save_output_param` they are written to the result files of a benchmark too, whenever all images of
    its test set have been seen.

    Bottoms: offsets (N, P L 4), scores (N, P C), priors (1, 2, 4 P); L is 1, or C without `share_location`.
    Top: (1, 1, found, 7), rows of image, class, score, corners; where nothing is found at all, a row
    (image, -1, ...) for each image. (Liu et al., "SSD", 2016)
    """

    type = "DetectionOutput"
    options_field = "detection_output_param"
    bottoms = Arity(3, 4)  # SSD's draws into the fourth, an image
    differentiable = False
    shapes_by_value = True
    backward_bottoms = ()
    backward_tops = ()
    decides_on_host = True

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        options = self.options
        if not options.num_classes:
            raise self.error("num_classes is not set", "num_classes", remedy="count the background as well")
        suppression = options.nms_param
        if not 0 < suppression.eta <= 1:
            raise self.error(
                "eta must be above 0 and at most 1",
                "nms_param",
                expected="0 < eta <= 1",
                found=suppression.eta,
            )
        if suppression.nms_threshold < 0:
            raise self.error(
                "nms_threshold must not be negative", "nms_param", found=suppression.nms_threshold
            )
        if "files" not in self.kept:
            self.kept["files"] = self._open_files()
        self.classes = options.num_classes
        self.slots = 1 if options.share_location else self.classes
        offsets, scores, priors = bottoms[:3]
        if len(priors) < 3 or priors[1] != 2 or priors[2] % 4:
            raise self._misfit(2, "1 x 2 x 4 P, as PriorBox gives", priors)
        self.images, self.priors = offsets[0] if offsets else 0, priors[2] // 4
        for i, shape, each in ((0, offsets, self.slots * 4), (1, scores, self.classes)):
            if not shape or shape[0] != self.images or count(shape[1:]) != self.priors * each:
                raise self._misfit(
                    i, f"{self.images} x {self.priors * each}, {each} for each of {self.priors} priors", shape
                )
        return [(1, 1, 1, ROW)]

    def _open_files(self) -> DetectionFiles | None:
        """The result files, where everything is stated that they need; asked once for a net."""
        options = self.options
        if options.visualize:
            log.warning("%s: visualize is ignored: nothing is drawn", self.name)
        missing = [field for field in NEEDED if not getattr(options.save_output_param, field)]
        if missing:
            if options.save_output_param.output_directory:
                log.warning("%s: no results are saved, for want of %s", self.name, ", ".join(missing))
            return None
        origin = Origin(self.name, self.type, self.locate)
        return DetectionFiles(options.save_output_param, options.background_label_id, origin, *SAVE)

    def _misfit(self, bottom: int, expected: str, found: Shape) -> Exception:
        return self.error(
            f"bottom {bottom} does not have the shape that DetectionOutput needs",
            blob=self.spec.bottom[bottom],
            expected=expected,
            found=list(found),
            remedy="check num_classes, share_location and the number of boxes of each PriorBox",
        )

    def real_shapes(self, xp: ModuleType, b: Buffers) -> list[Shape]:
        rows = self.kept["rows"] = self.detect(xp, b)
        return [(1, 1, len(rows), ROW)]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        b.tops[0][...] = rows = self.kept.pop("rows")  # found by `real_shapes` in this very pass
        if files := self.kept.get("files"):
            files.add(rows.tolist(), self.images)

    def detect(self, xp: ModuleType, b: Buffers) -> Array:
        """The rows of the top."""
        prior = b.bottoms[2][0].reshape(2, self.priors, 4)
        boxes = decode(
            xp,
            self.options.code_type,
            b.bottoms[0].reshape(self.images, self.priors, self.slots, 4),
            prior[0][:, None],
            None if self.options.variance_encoded_in_target else prior[1][:, None],
        )
        scores = b.bottoms[1].reshape(self.images, self.priors, self.classes)
        found = [self._of_image(xp, i, boxes[i], scores[i]) for i in range(self.images)]
        rows = xp.concatenate(found)
        if len(rows):
            return rows
        log.debug("%s: nothing was detected", self.name)
        rows = xp.full((self.images, ROW), -1, self.dtype)
        rows[:, 0] = xp.arange(self.images)
        return rows

    def _of_image(self, xp: ModuleType, image: int, boxes: Array, scores: Array) -> Array:
        """The rows of one image: of boxes (P, L, 4) and scores (P, C)."""
        parts = [
            self._of_class(xp, image, label, boxes[:, label if self.slots > 1 else 0], scores[:, label])
            for label in range(self.classes)
            if label != self.options.background_label_id
        ]
        rows = xp.concatenate(parts) if parts else xp.empty((0, ROW), self.dtype)
        if 0 <= self.options.keep_top_k < len(rows):
            rows = rows[best_first(xp, rows[:, 2], self.options.keep_top_k)]
            rows = rows[xp.argsort(rows[:, 1], kind="stable")]
        return rows

    def _of_class(self, xp: ModuleType, image: int, label: int, boxes: Array, scores: Array) -> Array:
        """The rows of one class of an image: of boxes (P, 4) and scores (P,)."""
        options = self.options
        places = xp.arange(self.priors)
        if options.HasField("confidence_threshold"):
            places = xp.nonzero(scores > options.confidence_threshold)[0]
        most = options.nms_param.top_k if options.nms_param.HasField("top_k") else -1
        places = places[best_first(xp, scores[places], most)]
        nms = options.nms_param
        places = places[xp.asarray(suppress_overlapping(xp, boxes[places], nms.nms_threshold, nms.eta), int)]
        rows = xp.empty((len(places), ROW), self.dtype)
        rows[:, 0], rows[:, 1], rows[:, 2] = image, label, scores[places]
        rows[:, 3:] = boxes[places]
        return rows
