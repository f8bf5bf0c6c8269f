"""The loop of a first convolution's filter gradients, for numba to compile; needs numba.

N C H W: the images; K R S: the filters; P Q: the top's pixels. Images have few channels, so filters have few
taps (C R S), and the gradient is a product of two tall matrices, summed over all pixels: what each tap sees
(pixels x taps), transposed, times dy (pixels x K). The first is never written out: a tap sees the image
itself, moved by an offset.

A thread takes pieces, a few rows of the top of one image. It packs a piece of dy, as far as the ReLU lets it
through, into panels [tile of filters][pixel][filter] that stay in the first-level cache, and copies the
stripe of the image that the piece sees, with its padding. Then each tile of filters x taps is summed in
registers over the piece. Bound: multiplications; 2 N P Q K C R S operations.
"""
# mypy: allow-untyped-defs

from __future__ import annotations

from typing import Final

from numba import carray, float32, int64, njit

from netc.backends.cpu.loops.first_conv_job import JOB, TILES, loop_name
from netc.backends.cpu.loops.pieces import CONTRACTED, float_pointer, job_signature, share, team_thread
from netc.backends.cpu.loops.tiles import pack_vectors, sum_tile

SIGNATURE: Final = job_signature(JOB)


@njit(**CONTRACTED)
def _copy_stripe(job, image, row, rows, stripe):
    """What so many rows of the top see of an image, zeros where that is padding."""
    first = row * job.stride_h - job.before_h
    left = min(job.before_w, job.stripe_width)
    inside = max(0, min(job.width, job.stripe_width - left))
    target = carray(float_pointer(stripe), (job.channels, job.stripe_height, job.stripe_width))
    source = carray(float_pointer(job.bottom), (job.images, job.channels, job.height, job.width))
    for channel in range(job.channels):
        for i in range(job.stripe_height - (job.rows - rows) * job.stride_h):
            line, y = target[channel, i], first + i
            if y < 0 or y >= job.height:
                line[:] = 0
            else:
                line[:left] = 0
                line[left : left + inside] = source[image, channel, y, :inside]
                line[left + inside :] = 0


@njit(**CONTRACTED)
def _pack_lanes(job, relu, source, top, target, sums, pixels, target_step, lanes):
    """As `pack_vectors`, of so many filters only and lane by lane."""
    # Taken out of the job first: the compiler cannot know that no array is written over it.
    lane_step, pixel_step, slope = job.lane_step, job.pixel_step, job.slope
    size = (lanes - 1) * lane_step + (pixels - 1) * pixel_step + 1
    gradient, value = carray(float_pointer(source), size), carray(float_pointer(top), size)
    packed = carray(float_pointer(target), (pixels, target_step // 4))
    total = carray(float_pointer(sums), lanes)
    for lane in range(lanes):
        summed = float32(0)
        for pixel in range(pixels):
            place = lane * lane_step + pixel * pixel_step
            g = gradient[place]
            if relu:
                g *= float32(1) if value[place] > 0 else slope
            packed[pixel, lane] = g
            summed += g
        total[lane] += summed


@njit(**CONTRACTED)
def _pack(job, lanes, vectors, relu, start, pixels, panels, panel_bytes, sums):
    """The panels of a piece that begins at this float of dy, and what it adds to the biases' sums."""
    width, step = 4 * lanes, 4 * job.pixel_step
    target_step = vectors * width
    for number in range((job.filters + lanes - 1) // lanes):
        place = 4 * (start + number * job.vector_step)
        source, top, total = job.top_grad + place, job.top + place, sums + number * width
        target = panels + number // vectors * panel_bytes + number % vectors * width
        left = min(lanes, job.filters - lanes * number)
        # A vector reads on behind the last filter: into the next pixel, but not behind the last of them.
        whole = pixels - (left < lanes) if job.lane_step == 1 else 0
        if whole:
            pack_vectors(lanes, relu, source, top, target, total, whole, step, target_step, job.slope)
        if whole < pixels:
            source, top, target = source + whole * step, top + whole * step, target + whole * target_step
            _pack_lanes(job, relu, source, top, target, total, pixels - whole, target_step, left)


def _make(lanes, vectors, taps, relu):
    """The loop for this tile, with a ReLU behind the convolution or without."""

    def loop(pointer):
        job = carray(pointer, 1)[0]
        thread, columns = int64(team_thread()), job.out_width
        tile_bytes = 4 * lanes * vectors
        tiles, all_taps = -(-job.filters // (lanes * vectors)), -(-job.taps // taps) * taps
        panel_bytes, tap_step = job.rows * columns * tile_bytes, tiles * tile_bytes
        stripe = job.stripe + thread * 4 * job.channels * job.stripe_height * job.stripe_width
        panels = job.panels + thread * tiles * panel_bytes
        sums = job.sums + thread * (all_taps + 1) * tap_step
        row_step, column_step = 4 * job.stride_h * job.stripe_width, 4 * job.stride_w
        for piece in range(*share(job.images * job.pieces)):
            image, row = piece // job.pieces, piece % job.pieces * job.rows
            rows = min(job.rows, job.out_height - row)
            start = image * job.image_step + row * columns * job.pixel_step
            walk = (rows, columns, row_step, column_step)
            _copy_stripe(job, image, row, rows, stripe)
            biases = sums + all_taps * tap_step
            _pack(job, lanes, vectors, relu, start, rows * columns, panels, panel_bytes, biases)
            for tile in range(tiles):
                panel = panels + tile * panel_bytes
                for tap in range(0, all_taps, taps):
                    total, offsets = sums + tap * tap_step + tile * tile_bytes, job.offsets + 8 * tap
                    sum_tile(lanes, vectors, taps, total, tap_step, panel, stripe, offsets, walk)

    return loop


LOOPS: Final = {loop_name(tile, relu): _make(*tile, relu) for tile in TILES for relu in (0, 1)}
OPTIONS: Final = dict.fromkeys(LOOPS, CONTRACTED)
