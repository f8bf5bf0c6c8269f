"""The first convolution of a net: the gradients of its filters in a loop of our own.

oneDNN computes them at a third to two thirds of the processor's speed; and where nobody wants the bottom's
gradient, the one that a ReLU lets through need never be written.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Final

import numpy as np

from netc.backends.cpu.chain import in_sequence
from netc.backends.cpu.geometry import Geometry
from netc.backends.cpu.layout import IMAGE_CHANNELS
from netc.backends.cpu.loops import bound, compiled, threads_for
from netc.backends.cpu.loops.first_conv_job import JOB, TILES, loop_name
from netc.backends.cpu.loops.processor import vector_lanes
from netc.backends.form import BLOCKED, NHWC, PLAIN, Run
from netc.layer import Array, Scratch
from netc.layer.base import count

log = logging.getLogger(__name__)

PANEL_BYTES: Final = 1 << 14  # of one tile of filters: half of a first-level cache


class FirstFilters:
    """The gradients of filters (K, C, R, S) and of their bias, from plain images, dy and the top of the ReLU
    that may follow: a part of a convolution.

    workspace: the arrays that `bind` needs. The order of the sums hangs on the number of threads only.
    """

    def __init__(
        self,
        geometry: Geometry,
        layout: str,
        block: int,
        slope: float | None,
        wanted: tuple[bool, bool],
        adds: tuple[bool, bool],
    ) -> None:
        """layout, block: dy's; slope: of the ReLU, None without one; wanted, adds: of filters and bias.

        Compiles the loop. Raises ImportError without numba, OSError without OpenMP or where the processor
        cannot multiply and add vectors in one step.
        """
        lanes = block if layout == BLOCKED else vector_lanes()
        if not 0 < lanes <= vector_lanes():
            raise OSError("the processor's vectors cannot multiply and add in one step")
        filters, taps = geometry.weight[0], count(geometry.weight[1:])
        tiles = [tile for tile in TILES if tile[0] == lanes]
        self.tile = min(tiles, key=lambda tile: instructions(tile, filters, taps))
        self.loop = compiled("first_conv", loop_name(self.tile, slope is not None))
        self.slope, self.wanted, self.adds = slope or 0.0, wanted, adds
        width = lanes * self.tile[1]
        self.variant = f"tiles of {width} filters x {self.tile[2]} taps"
        self.numbers = sizes_of(geometry, width) | steps_of(geometry, layout, lanes)
        stripe = self.numbers["stripe_height"], self.numbers["stripe_width"]
        self.offsets = np.zeros(filled(taps, self.tile[2]), np.int64)
        self.offsets[:taps] = offsets_of(geometry, *stripe)
        self.threads = threads_for(self.numbers["images"] * self.numbers["pieces"])
        pixels = self.numbers["rows"] * self.numbers["out_width"]
        shapes = {
            "stripe": (self.numbers["channels"], *stripe),
            "panels": (filled(filters, width) * pixels,),
            "sums": (len(self.offsets) + 1, filled(filters, width)),
        }
        self.workspace: Mapping[str, Scratch] = {
            name: Scratch((self.threads, *shape), np.float32) for name, shape in shapes.items()
        }

    def bind(self, arrays: Mapping[str, Array], workspace: Mapping[str, Array]) -> Run:
        """What adds to these gradients, or writes them."""
        filters, taps, sums = self.numbers["filters"], self.numbers["taps"], workspace["sums"]
        operands = {
            name: arrays[name.replace("_grad", " gradient")] for name in ("bottom", "top", "top_grad")
        }
        operands |= {"offsets": self.offsets, **{name: workspace[name] for name in self.workspace}}
        runs: list[Run] = [
            partial(sums.fill, 0),
            bound(self.loop, JOB, self.threads, {**self.numbers, "slope": self.slope}, operands),
            *(partial(np.add, sums[0], part, out=sums[0]) for part in sums[1:]),
        ]
        results = {"weight gradient": sums[0, :taps, :filters].T, "bias gradient": sums[0, -1:, :filters].T}
        for (name, source), wanted, adds in zip(results.items(), self.wanted, self.adds, strict=True):
            if wanted:
                target = arrays[name].reshape(source.shape)
                add = partial(np.add, target, source, out=target)
                runs.append(add if adds else partial(np.copyto, target, source))
        return in_sequence(runs)


def instructions(tile: tuple[int, int, int], filters: int, taps: int) -> int:
    """What a tile takes for each pixel: sums of products, and loads of their factors."""
    lanes, vectors, height = tile
    tiles = -(-filters // (lanes * vectors)) * -(-taps // height)
    return tiles * (vectors * height + vectors + height)


def filled(number: int, size: int) -> int:
    """The smallest multiple of a size that is not less."""
    return -(-number // size) * size


def sizes_of(geometry: Geometry, width: int) -> dict[str, int]:
    """The loop's numbers for tiles of so many filters."""
    images, channels, height, width_ = geometry.bottom
    _, filters, out_height, out_width = geometry.top
    fit = max(1, PANEL_BYTES // (4 * width * out_width))
    rows = -(-out_height // -(-out_height // fit))
    extents = [gap * (size - 1) + size for gap, size in zip(geometry.gaps, geometry.weight[2:], strict=True)]
    return {
        "images": images,
        "channels": channels,
        "height": height,
        "width": width_,
        "before_h": geometry.before[0],
        "before_w": geometry.before[1],
        "filters": filters,
        "taps": count(geometry.weight[1:]),
        "out_height": out_height,
        "out_width": out_width,
        "stride_h": geometry.stride[0],
        "stride_w": geometry.stride[1],
        "rows": rows,
        "pieces": -(-out_height // rows),
        "stripe_height": (rows - 1) * geometry.stride[0] + extents[0],
        "stripe_width": (out_width - 1) * geometry.stride[1] + extents[1],
    }


def steps_of(geometry: Geometry, layout: str, lanes: int) -> dict[str, int]:
    """Of dy: from pixel to pixel, from vector to vector of filters, within a vector, from image to image."""
    _, filters, *spatial = geometry.top
    pixels = count(spatial)
    steps = {
        PLAIN: (1, pixels * lanes, pixels, pixels * filters),
        NHWC: (filters, lanes, 1, pixels * filters),
        BLOCKED: (lanes, pixels * lanes, 1, pixels * filled(filters, lanes)),
    }
    return dict(zip(("pixel_step", "vector_step", "lane_step", "image_step"), steps[layout], strict=True))


def offsets_of(geometry: Geometry, height: int, width: int) -> np.ndarray:
    """Where each tap of a filter lies in the stripe of an image, in bytes."""
    channels, *kernel = geometry.weight[1:]
    across = [np.arange(size) * (gap + 1) for size, gap in zip(kernel, geometry.gaps, strict=True)]
    places = (np.arange(channels)[:, None] * height + across[0])[..., None] * width + across[1]
    return places.reshape(-1) * np.dtype(np.float32).itemsize


def first_filters(
    geometry: Geometry,
    layout: str,
    block: int,
    slope: float | None,
    wanted: tuple[bool, bool],
    adds: tuple[bool, bool],
) -> FirstFilters | None:
    """What computes the gradients of filters and bias where nobody wants those of the images; None where
    oneDNN's convolution does. The images must lie plain."""
    kernel = len(geometry.weight) - 2
    if not wanted[0] or kernel != 2 or geometry.bottom[1] > IMAGE_CHANNELS:
        return None
    try:
        return FirstFilters(geometry, layout, block, slope, wanted, adds)
    except (ImportError, OSError) as error:
        log.info("The first convolution would learn faster with numba (pip install netc[cpu]): %s", error)
        return None
