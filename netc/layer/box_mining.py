"""Hard example mining: of an image's prior boxes, the few whose losses count."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from netc.data.boxes import areas
from netc.layer.base import Array
from netc.layer.box_choice import UNMATCHED, best_first, suppress_overlapping
from netc.proto import netc_pb2 as pb

SMALLEST_AREA = 1e-5  # boxes below it are never chosen where overlapping ones are suppressed


class Mining:
    """MAX_NEGATIVE: of the unmatched priors that overlap no true box by `neg_overlap`, those of largest loss,
    `neg_pos_ratio` for each match. HARD_EXAMPLE: of all priors the `sample_size` of largest loss; matches
    that are not among them are undone. With `nms_param` a prior is passed over where it overlaps a worse one.
    """

    def __init__(self, options: Any) -> None:
        """options: a MultiBoxLossParameter."""
        self._keeps_matches = options.mining_type != pb.MultiBoxLossParameter.HARD_EXAMPLE
        self._negative_overlap: float = options.neg_overlap
        self._ratio = np.float32(options.neg_pos_ratio)
        self._sample_size: int = options.sample_size
        self._threshold: float = options.nms_param.nms_threshold
        self._most: int = options.nms_param.top_k if options.nms_param.HasField("top_k") else -1
        self.suppresses: bool = options.HasField("nms_param") and self._threshold > 0
        self.by_prior: bool = options.use_prior_for_nms  # suppression by priors, not by predicted boxes

    def choose(
        self, xp: ModuleType, loss: Array, match: Array, overlap: Array, boxes: Array | None
    ) -> tuple[Array, Array]:
        """The matches that are left, and which priors are negatives, both (P,).

        loss, match, overlap: of each prior; boxes (P, 4): where overlapping ones are to be suppressed.
        """
        places = self._eligible(xp, match, overlap)
        order = best_first(xp, loss[places], self._most if self.suppresses else -1)
        if self.suppresses:
            assert boxes is not None
            order = order[areas(xp, boxes[places[order]]) >= SMALLEST_AREA]
            order = order[xp.asarray(suppress_overlapping(xp, boxes[places[order]], self._threshold), int)]
        chosen = xp.zeros(len(match), bool)
        chosen[places[order[: self._limit(match, len(places))]]] = True
        negative = chosen & (match == UNMATCHED)
        if not self._keeps_matches:
            match = xp.where((match >= 0) & ~chosen, UNMATCHED, match)
        return match, negative

    def _eligible(self, xp: ModuleType, match: Array, overlap: Array) -> Array:
        if not self._keeps_matches:
            return xp.arange(len(match))
        return xp.nonzero((match == UNMATCHED) & (overlap < self._negative_overlap))[0]

    def _limit(self, match: Array, eligible: int) -> int:
        if not self._keeps_matches:
            return min(self._sample_size, eligible)
        # In float32, as in Caffe: 5 * 1.4 is 7 there.
        return min(int(np.float32(int((match >= 0).sum())) * self._ratio), eligible)
