"""`-math bf16`: factors of products in bfloat16; sums, results and everything else in float32.

Factors are what convolutions, deconvolutions and inner products multiply: bottoms, weights, and the gradients
of tops. In memory they are float32 and are rounded on their way into each product. Where the processor
multiplies bfloat16, oneDNN's primitives take them in 16 bits. Elsewhere, and where oneDNN has no such
primitive, the float32 primitive runs on factors that were rounded beforehand: a product of two of them is
exact in float32, so both give the same numbers but for the order of the sums.
"""

from __future__ import annotations

import logging
from functools import lru_cache, partial
from typing import Final

import numpy as np

from netc.backends.cpu.loops import bound, compiled, threads_for
from netc.backends.cpu.loops.bf16_job import JOB
from netc.backends.cpu.onednn import Descriptor, Engine, Refused, Rounding, describe, kinds
from netc.backends.cpu.onednn.functions import dims
from netc.backends.form import Run
from netc.layer import Array

log = logging.getLogger(__name__)

BF16: Final = "bf16"
BF16_INSTRUCTIONS: Final = 0x80  # the bit of an instruction set that multiplies bfloat16 (AVX512_BF16, AMX)
SHARE: Final = 1 << 14  # floats for which a thread is worth waking
SHAPE: Final = (1, 16, 8, 8)  # of the convolution that oneDNN is asked for


def rounding_for(math: str) -> Rounding | None:
    """What rounds factors in this math; None where they stay as they are."""
    return round_floats if math == BF16 else None


def factor_types(math: str, engine: Engine) -> tuple[int, ...]:
    """The types that primitives may be asked to take factors in, the one to try first before the others."""
    narrow = math == BF16 and multiplies_bf16(engine)
    return (kinds.BFLOAT16, kinds.FLOAT32) if narrow else (kinds.FLOAT32,)


@lru_cache(None)
def multiplies_bf16(engine: Engine) -> bool:
    """Whether the processor multiplies bfloat16 and oneDNN has a fast convolution of it.

    On processors with AVX-512 only, oneDNN has one too, that is slower than float32.
    """
    if not engine.functions["get_effective_cpu_isa"]() & BF16_INSTRUCTIONS:
        return False
    factors = (Descriptor.any(engine, shape, kinds.BFLOAT16) for shape in (SHAPE, (16, 16, 1, 1)))
    windows = dims((1, 1)), dims((0, 0)), dims((0, 0)), dims((0, 0))
    sizes = *factors, None, Descriptor.any(engine, SHAPE), *windows
    try:
        found = describe(
            engine, "convolution_forward", kinds.FORWARD_TRAINING, kinds.CONVOLUTION_DIRECT, *sizes
        )
    except Refused:
        return False
    return not found.is_slow


@lru_cache(None)
def say_once_that_factors_are_rounded() -> None:
    """Says what `-math bf16` does on a processor that cannot multiply so."""
    log.warning(
        "This processor does not multiply bfloat16: -math bf16 rounds the factors and multiplies in float32."
        " That gives bf16's numbers, but is slower than -math fp32"
    )


def round_floats(source: Array, target: Array) -> Run:
    """What writes the floats of a flat array to another of that size, or in place, each as the nearest
    bfloat16: the even one of two that are equally near. Infinities and NaNs stay what they are."""
    try:
        loop = compiled("bf16", "round_floats")
    except (ImportError, OSError) as error:
        log.info("Factors would be rounded faster with numba (pip install netc[cpu]): %s", error)
        return partial(round_bits, source.view(np.uint32), target.view(np.uint32))
    threads = threads_for(-(-source.size // SHARE))
    return bound(loop, JOB, threads, {"count": source.size}, {"source": source, "target": target})


def round_bits(source: Array, target: Array) -> None:
    """The same on the floats' bits."""
    nan = source & 0x7FFFFFFF > 0x7F800000
    quiet = source[nan] | 0x00400000
    np.add(source, (source >> 16 & 1) + np.uint32(0x7FFF), out=target)
    target[nan] = quiet
    target &= np.uint32(0xFFFF0000)


def variant_of(math: str, implementation: str, *, narrow: bool) -> str:
    """What dumps call a primitive of this math; narrow: whether it takes bfloat16 itself."""
    if math != BF16:
        return f"onednn {implementation}"
    return f"onednn bf16 {implementation}" if narrow else f"onednn {implementation} on bf16 factors"
