"""Pooling of regions of interest: a grid of one size from boxes of any size."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np

from netc.layer.base import Arity, Array, Buffers, Layer, Scratch, Shape
from netc.layer.registry import register

HostArray = np.ndarray[Any, Any]
FAR: Final = 1 << 30  # cells; a coordinate beyond is as good as there


@dataclass(frozen=True)
class Bins:
    """How each of R regions is split along one axis: bin p of region r reads cells first[r, p] to
    stop[r, p]."""

    start: HostArray  # (R, 1): where the region starts, in cells
    size: HostArray  # (R, 1): cells of a bin
    first: HostArray  # (R, bins), within the features
    stop: HostArray

    @classmethod
    def of(cls, start: HostArray, size: HostArray, number: int, cells: int) -> Bins:
        """`number` bins of each region, cut at the edges of the `cells` of the axis; every cell that a bin
        touches is its own."""
        start, size = start[:, None], size[:, None]
        bins = np.arange(number, dtype=size.dtype)
        if start.dtype.kind == "i":  # whole numbers are added after rounding, as the forks do
            first = np.floor(bins * size).astype(np.int64) + start
            stop = np.ceil((bins + 1) * size).astype(np.int64) + start
        else:
            first, stop = np.floor(bins * size + start), np.ceil((bins + 1) * size + start)
        first, stop = (edge.clip(0, cells).astype(np.int64) for edge in (first, stop))
        return cls(start, size, first, stop)

    def ways_back(self, end: HostArray, cells: int) -> HostArray | None:
        """For each region, bin and cell, whether the cell's gradient comes from that bin; None where all that
        a bin reads do.

        That is worked out from the cell to the bin, as the fork's backward does, for cells from `start` to
        `end` of a region. Rounding may find a cell in one bin less than the way from the bin to the cell, and
        a region turned inside out has no cells.
        """
        cell, number = np.arange(cells), np.arange(self.first.shape[1])[:, None]
        offset = (cell - self.start).astype(self.size.dtype)
        low, high = np.floor(offset / self.size), np.ceil((offset + 1) / self.size)
        inside = (offset >= 0) & (cell <= end[:, None])
        back = inside[:, None] & (number >= low[:, None]) & (number < high[:, None])
        reads = (cell >= self.first[..., None]) & (cell < self.stop[..., None])
        return None if not (reads & ~back).any() else back

    def edges(self, region: int) -> list[tuple[int, int]]:
        """Where each bin of a region starts and stops."""
        return list(zip(self.first[region].tolist(), self.stop[region].tolist(), strict=True))


class RegionPooling(Layer):
    """Bottoms: features (N, C, H, W) and regions (R, 5), each (image, x1, y1, x2, y2) in pixels of the image.

    A region's coordinates times `spatial_scale` are cells of the features. The regions have a gradient of 0.
    """

    bottoms = Arity(2)
    backward_bottoms = (1,)
    backward_tops = ()
    decides_on_host = True

    def read_regions(self, bottoms: list[Shape]) -> int:
        """Their number R. Raises NetcError where the shapes do not fit."""
        features, regions = bottoms
        if len(features) != 4:
            raise self.error(
                f"{self.type} needs (N, C, H, W)",
                blob=self.spec.bottom[0],
                expected="4 axes",
                found=features,
            )
        if regions[1:2] != (5,) or any(n != 1 for n in regions[2:]):
            raise self.error(
                "regions are rows of image, x1, y1, x2, y2",
                blob=self.spec.bottom[1],
                expected="(R, 5)",
                found=regions,
            )
        return regions[0]

    def regions(self, xp: ModuleType, b: Buffers) -> tuple[list[int], HostArray]:
        """The images (R) and coordinates (R, 4) of the regions, on the host: they say which cells to read."""
        rows = b.bottoms[1].reshape(-1, 5)
        rows = rows if xp is np else xp.asnumpy(rows)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise self.error(
                f"region {int(np.flatnonzero(~finite)[0])} is no box of numbers",
                blob=self.spec.bottom[1],
                expected="image, x1, y1, x2, y2",
                found=rows[~finite][0].tolist(),
                remedy="see what makes the regions; a net that does may have diverged: lower its base_lr",
            )
        images = rows[:, 0].astype(np.int64)
        wrong = (images < 0) | (images >= len(b.bottoms[0]))
        if wrong.any():
            raise self.error(
                f"region {int(np.flatnonzero(wrong)[0])} lies in an image that the batch does not have",
                blob=self.spec.bottom[1],
                expected=f"0 to {len(b.bottoms[0]) - 1}",
                found=int(images[wrong][0]),
                remedy="the first number of a region is the index of its image in the batch",
            )
        return images.tolist(), rows[:, 1:]

    def clear_gradients(self, b: Buffers) -> None:
        """Zeros in the gradients that are wanted."""
        for gradient in b.bottom_grads:
            if gradient is not None:
                gradient[...] = 0


@register
class ROIPooling(RegionPooling):
    """(R, C, pooled_h, pooled_w): the maximum of each bin of each region, the first of several; 0 for an
    empty bin.

    Coordinates are scaled, then rounded (halves away from zero); the last row and column belong to the
    region. Bins are fractions of cells and read every cell that they touch, so that neighbours overlap. A
    region turned inside out is pooled as one cell, but gives no gradient. (Girshick, "Fast R-CNN", 2015)
    """

    type = "ROIPooling"
    options_field = "roi_pooling_param"

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        number = self.read_regions(bottoms)
        self.pooled = (self.options.pooled_h, self.options.pooled_w)
        for name, bins in zip(("pooled_h", "pooled_w"), self.pooled, strict=True):
            if bins < 1:
                raise self.error(f"{name} must be at least 1", name, expected="at least 1", found=bins)
        top = (number, bottoms[0][1], *self.pooled)
        self.saved = {"place": Scratch(top, np.int32)}  # h W + w of the maximum, -1 for an empty bin
        return [top]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y, place = b.bottoms[0], b.tops[0], b.saved["place"]
        y[...], place[...] = 0, -1
        images, coordinates = self.regions(xp, b)
        rows, columns, _ = self._bins(coordinates, x.shape[2:])
        # Channels last: then every step is over long runs of memory, however narrow the region.
        cells = xp.ascontiguousarray(x.transpose(0, 2, 3, 1))
        y, place = y.transpose(0, 2, 3, 1), place.transpose(0, 2, 3, 1)
        for r, image in enumerate(images):
            self._pool(xp, cells[image], rows.edges(r), columns.edges(r), y[r], place[r])

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        self.clear_gradients(b)
        dx, dy = b.bottom_grads[0], b.top_grads[0]
        if dx is None or dy is None:
            return
        images, coordinates = self.regions(xp, b)
        place = b.saved["place"]
        given = self._sends_back(xp, place, coordinates, dx.shape[2:])
        channel = xp.asarray(images, xp.int64)[:, None] * dx.shape[1] + xp.arange(dx.shape[1])
        cell = channel[:, :, None, None] * (dx.shape[2] * dx.shape[3]) + place
        if given.any():
            dx[...] = xp.bincount(cell[given], weights=dy[given], minlength=dx.size).reshape(dx.shape)

    def _bins(self, coordinates: HostArray, size: Shape) -> tuple[Bins, Bins, HostArray]:
        """The bins along rows and columns, and the regions' last rows and columns (R, 2)."""
        corners = _round_away_from_zero(coordinates * coordinates.dtype.type(self.options.spatial_scale))
        starts, ends = corners[:, [1, 0]], corners[:, [3, 2]]
        sizes = np.maximum(ends - starts + 1, 1).astype(coordinates.dtype)
        sizes /= np.array(self.pooled, coordinates.dtype)
        rows, columns = (
            Bins.of(starts[:, axis], sizes[:, axis], self.pooled[axis], size[axis]) for axis in (0, 1)
        )
        return rows, columns, ends

    @staticmethod
    def _pool(
        xp: ModuleType,
        x: Array,
        rows: list[tuple[int, int]],
        columns: list[tuple[int, int]],
        y: Array,
        place: Array,
    ) -> None:
        """The maxima (P, Q, C) of one region of an image (H, W, C), and their places: rows first, then
        columns."""
        left, right = min(first for first, _ in columns), max(stop for _, stop in columns)
        filled = [p for p, (top, bottom) in enumerate(rows) if bottom > top and right > left]
        if not filled:
            return
        value = xp.empty((len(filled), right - left, x.shape[2]), x.dtype)
        at = xp.empty(value.shape, place.dtype)
        across = xp.arange(left, right, dtype=at.dtype)[:, None]
        for i, p in enumerate(filled):
            top, bottom = rows[p]
            value[i], at[i] = x[top, left:right], top * x.shape[1] + across
            for h in range(top + 1, bottom):
                row = x[h, left:right]
                xp.copyto(at[i], h * x.shape[1] + across, where=row > value[i])
                xp.maximum(value[i], row, out=value[i])
        for q, (first, stop) in enumerate(columns):
            if stop <= first:
                continue
            best, where = value[:, first - left].copy(), at[:, first - left].copy()
            for w in range(first - left + 1, stop - left):
                cell, its = value[:, w], at[:, w]
                # Of equal values the one in the higher row comes first, whatever its column.
                wins = (cell > best) | ((cell == best) & (its < where))
                xp.copyto(where, its, where=wins)
                xp.maximum(best, cell, out=best)
            y[filled, q], place[filled, q] = best, where

    def _sends_back(self, xp: ModuleType, place: Array, coordinates: HostArray, size: Shape) -> Array:
        """Which outputs' gradients arrive: those whose cell finds the way back to its bin."""
        rows, columns, ends = self._bins(coordinates, size)
        arrives = place >= 0
        region = xp.arange(len(place))[:, None, None, None]
        p, q = xp.arange(self.pooled[0])[:, None], xp.arange(self.pooled[1])
        back = rows.ways_back(ends[:, 0], size[0])
        if back is not None:
            arrives &= xp.asarray(back)[region, p, place // size[1]]
        back = columns.ways_back(ends[:, 1], size[1])
        if back is not None:
            arrives &= xp.asarray(back)[region, q, place % size[1]]
        return arrives


@register
class PSROIPooling(RegionPooling):
    """(R, output_dim, g, g): the mean of each bin of each region, every bin in channels of its own.

    Channel (c g + h) g + w of the features is read by bin (h, w) of output c; g is `group_size`. Coordinates
    are rounded (halves away from zero) and then scaled; a region is at least 0.1 cells high and wide. An
    empty bin gives 0. (Dai et al., "R-FCN", 2016)
    """

    type = "PSROIPooling"
    options_field = "psroi_pooling_param"

    def infer(self, bottoms: list[Shape]) -> list[Shape]:
        number = self.read_regions(bottoms)
        channels, self.group = self.options.output_dim, self.options.group_size
        for name in ("spatial_scale", "output_dim", "group_size"):
            if not getattr(self.options, name) > 0:
                raise self.error(
                    f"{name} must be more than 0",
                    *([name] if self.options.HasField(name) else []),
                    found=getattr(self.options, name),
                )
        if bottoms[0][1] != channels * self.group**2:
            raise self.error(
                "the features must have output_dim channels for every bin",
                "output_dim",
                blob=self.spec.bottom[0],
                expected=f"{channels} x {self.group} x {self.group} = {channels * self.group**2} channels",
                found=bottoms[0][1],
            )
        return [(number, channels, self.group, self.group)]

    def forward(self, xp: ModuleType, b: Buffers) -> None:
        x, y = self._by_bin(b.bottoms[0]), b.tops[0]
        for r, image, p, q, cells in self._cells(xp, b):
            y[r, :, p, q] = 0 if cells is None else x[image, :, p, q][cells].mean(axis=(1, 2))

    def backward(self, xp: ModuleType, b: Buffers) -> None:
        self.clear_gradients(b)
        dx, dy = b.bottom_grads[0], b.top_grads[0]
        if dx is None or dy is None:
            return
        dx = self._by_bin(dx)
        for r, image, p, q, cells in self._cells(xp, b):
            if cells is not None:
                part = dx[image, :, p, q][cells]
                part += (dy[r, :, p, q] / (part.shape[1] * part.shape[2]))[:, None, None]

    def _by_bin(self, x: Array) -> Array:
        """The features as (N, output_dim, g, g, H, W)."""
        return x.reshape(x.shape[0], self.options.output_dim, self.group, self.group, *x.shape[2:])

    def _cells(self, xp: ModuleType, b: Buffers) -> Any:
        """For each bin: its region, image, row, column, and its cells as an index of (C, H, W); None for an
        empty one."""
        images, coordinates = self.regions(xp, b)
        kind = coordinates.dtype.type
        corners = _round_away_from_zero(coordinates).astype(kind)
        corners[:, 2:] += 1
        corners *= kind(self.options.spatial_scale)
        sizes = np.maximum(corners[:, 2:] - corners[:, :2], kind(0.1)) / kind(self.group)
        rows, columns = (
            Bins.of(corners[:, axis], sizes[:, axis], self.group, b.bottoms[0].shape[3 - axis])
            for axis in (1, 0)
        )
        for r, image in enumerate(images):
            for p, (top, bottom) in enumerate(rows.edges(r)):
                for q, (left, right) in enumerate(columns.edges(r)):
                    empty = bottom <= top or right <= left
                    cells = None if empty else (slice(None), slice(top, bottom), slice(left, right))
                    yield r, image, p, q, cells


def _round_away_from_zero(values: HostArray) -> HostArray:
    """The nearest whole numbers (int64), halves away from zero, as C's round has it."""
    size = np.minimum(np.abs(values), FAR)
    whole = np.floor(size)
    whole += size - whole >= 0.5
    return np.copysign(whole, values).astype(np.int64)
