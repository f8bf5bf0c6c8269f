"""Every kernel variant that netc has: what the compile gate builds and the tests run."""

from __future__ import annotations

from netc.backends.cuda import activation, fill, gemm, update
from netc.backends.cuda.kernel import Variant

ALL_VARIANTS: tuple[Variant, ...] = (
    *fill.VARIANTS.values(),
    *activation.VARIANTS.values(),
    *gemm.VARIANTS.values(),
    *update.VARIANTS.values(),
    *update.SQUARE_SUMS.values(),
    update.CLIP_GRADIENTS,
)
