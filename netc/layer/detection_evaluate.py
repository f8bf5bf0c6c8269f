"""DetectionEvaluate: which of the boxes that were found are right."""

from __future__ import annotations

from collections import defaultdict
from types import ModuleType

import numpy as np

from netc.data.boxes import overlaps
from netc.data.image_sizes import NamedSize, read_image_sizes
from netc.data.resizing import Resizer, to_pixels
from netc.data.source import Origin
from netc.layer.base import Arity, Array, Buffers, Layer, Shape
from netc.layer.registry import register

FOUND_NUMBERS = 7  # image, class, score, xmin, ymin, xmax, ymax
TRUTH_NUMBERS = 8  # image, class, instance, xmin, ymin, xmax, ymax, difficult
ROW = 5  # image, class, score, true positive, false positive
NO_IMAGE = -1
Groups = dict[tuple[int, int], np.ndarray]  # rows by image and class


@register
class DetectionEvaluate(Layer):
    """Which boxes are right: a row for each class with the number of its true boxes, then a row for each box
    that was found with 1 for a true or for a false positive.

    Of an image and a class, the box of highest score first, each box goes to the true box that it overlaps
    most. It is a true positive where the overlap is at least `overlap_threshold` and the true box was not
    taken before; with `evaluate_difficult_gt: false` it counts as neither where the true box is difficult.

    Bottoms: (1, 1, found, 7), as DetectionOutput gives, and (1, 1, true, 8), as AnnotatedData gives. Both end
    at a row of image -1. Top: (1, 1, classes + found, 5): (-1, class, true boxes, -1, -1) for every class but
    the background; then (image, class, score, true positive, false positive).

    With `name_size_file` overlaps are taken in pixels of the original images, one after another in its order.
    (Everingham et al., "The PASCAL visual object classes challenge", 2010)
    """

    type = "DetectionEvaluate"
    options_field = "detection_evaluate_param"
    bottoms = Arity(2)
    differentiable = False
    shapes_by_value = True
    backward_bottoms = ()
    backward_tops = ()
    decides_on_host = True

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        options = self.options
        if not options.num_classes:
            raise self.error("num_classes is not set", "num_classes", remedy="count the background as well")
        if not options.overlap_threshold > 0:
            raise self.error(
                "overlap_threshold must be above 0", "overlap_threshold", found=options.overlap_threshold
            )
        for name, shape, numbers in zip(
            self.spec.bottom, bottoms, (FOUND_NUMBERS, TRUTH_NUMBERS), strict=True
        ):
            if not shape or shape[-1] != numbers:
                raise self.error(
                    "a bottom does not hold rows of the right length",
                    blob=name,
                    expected=f"1 x 1 x boxes x {numbers}",
                    found=list(shape),
                    remedy="give what DetectionOutput finds, then the label of AnnotatedData",
                )
        self._read_sizes()
        classes = self._count_classes()
        found = bottoms[0][-2] if len(bottoms[0]) > 1 else 1
        return [(1, 1, classes + found, ROW)]

    def _read_sizes(self) -> None:
        """Of the images, where they are known; read once for a net."""
        options = self.options
        if options.name_size_file and "sizes" not in self.kept:
            self.kept["sizes"] = read_image_sizes(options.name_size_file)
            self.kept["next"] = 0
        self.resizer = None
        if options.HasField("resize_param"):
            origin = Origin(self.name, self.type, self.locate)
            self.resizer = Resizer(options.resize_param, origin, "detection_evaluate_param", "resize_param")

    def _count_classes(self) -> int:
        """How many classes there are but the background."""
        options = self.options
        return int(options.num_classes) - (options.background_label_id < options.num_classes)

    def real_shapes(self, xp: ModuleType, b: Buffers) -> list[Shape]:
        found = b.bottoms[0].reshape(-1, FOUND_NUMBERS)
        return [(1, 1, self._count_classes() + int((found[:, 1] != NO_IMAGE).sum()), ROW)]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        found = self._groups(b.bottoms[0].reshape(-1, FOUND_NUMBERS))
        truths = self._groups(b.bottoms[1].reshape(-1, TRUTH_NUMBERS))
        rows: list[list[float]] = []
        for image in sorted({image for image, _ in found}):
            size = self._next_size()
            for of_image, label in sorted(found):
                if of_image == image and label != NO_IMAGE:
                    rows += self._judge(found[image, label], truths.get((image, label)), size)
        top, counts = b.tops[0][0, 0], self._count_rows(truths)
        judged = np.array(rows, self.dtype).reshape(-1, ROW)
        top[...] = 0
        top[: len(counts)] = xp.asarray(counts)
        top[len(counts) : len(counts) + len(judged)] = xp.asarray(judged)

    def _groups(self, rows: Array) -> Groups:
        """The rows up to the first of image -1, by image and class, in their order."""
        groups: dict[tuple[int, int], list[list[float]]] = defaultdict(list)
        for row in rows.tolist():
            if row[0] == NO_IMAGE:
                break
            label = int(row[1])
            if label == self.options.background_label_id:
                raise self.error(
                    f"a box has the label {label}, which is the background",
                    expected="labels of objects",
                    found=label,
                    remedy="check background_label_id, and the labels of the data",
                )
            groups[int(row[0]), label].append(row)
        return {key: np.array(group) for key, group in groups.items()}

    def _count_rows(self, truths: Groups) -> np.ndarray:
        """The rows of the classes."""
        rows = np.full((self.options.num_classes, ROW), NO_IMAGE, self.dtype)
        rows[:, 1], rows[:, 2] = np.arange(len(rows)), 0
        for (_, label), group in truths.items():
            if 0 <= label < len(rows):
                easy = group[:, 7] == 0
                rows[label, 2] += len(group) if self.options.evaluate_difficult_gt else easy.sum()
        return rows[rows[:, 1] != self.options.background_label_id]

    def _next_size(self) -> NamedSize | None:
        """The next image of the test set, which begins again after its last; None where none is known."""
        if "sizes" not in self.kept:
            return None
        sizes: list[NamedSize] = self.kept["sizes"]
        size = sizes[self.kept["next"]]
        self.kept["next"] = (self.kept["next"] + 1) % len(sizes)
        return size

    def _judge(
        self, found: np.ndarray, truths: np.ndarray | None, size: NamedSize | None
    ) -> list[list[float]]:
        """The rows of one class of an image."""
        if truths is None:
            return [[*row[:3], 0, 1] for row in found.tolist()]
        found = found[np.argsort(-found[:, 2], kind="stable")]
        boxes, true_boxes = found[:, 3:7], truths[:, 3:7]
        border = 0.0
        if size is not None:
            boxes = to_pixels(boxes, size.size, self.resizer)
            true_boxes = to_pixels(true_boxes, size.size, self.resizer)
            border = 1.0
        shared = overlaps(np, boxes, true_boxes, border)
        taken = np.zeros(len(truths), bool)
        rows = []
        for row, overlap in zip(found.tolist(), shared, strict=True):
            nearest = int(overlap.argmax())
            right = wrong = 0
            if overlap[nearest] < self.options.overlap_threshold:
                wrong = 1
            elif self.options.evaluate_difficult_gt or not truths[nearest, 7]:
                right, wrong = int(not taken[nearest]), int(taken[nearest])
                taken[nearest] = True
            rows.append([*row[:3], right, wrong])
        return rows
