"""What the emulator found in a launch, as errors that name kernel, thread, block and source line."""

from __future__ import annotations

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.emulator.library import KernelLibrary
from netc.backends.cuda.emulator.runtime import Report
from netc.errors import Location, NetcError

WARP = 32
REMEDY = {
    "race": "a __syncthreads (within a warp: a __syncwarp) between the two accesses",
    "race between blocks": "let one block write each element, use atomics, or make it two launches",
    "uninitialised read": "write it before this launch, or do not read it",
    "unwaited bulk copy": "mbarrier_wait by every thread that uses the data, or by one and then a barrier",
    "wrong byte count": "mbarrier_expect all bytes that the phase's bulk copies bring",
    "wrong mbarrier": "mbarrier_init by one thread, a __syncthreads, then in each phase so many arrivals",
    "unwaited wgmma": "wgmma_wait<0> before the sums are read and before the end",
    "unwaited cp.async": "cp_async_wait, then __syncthreads, before the data are used and before the end",
    "divergent barrier": "let all threads of the block reach the same __syncthreads",
    "bad mask": "a mask that names exactly the lanes that take part, all of them still running",
    "use after free": "keep the memory until the last launch that uses it is done",
}


class KernelFault(NetcError):
    """Something that a kernel did wrong on the emulator.

    kind: one of `REMEDY`, or "out of bounds", "misaligned access", "undefined behaviour", "deadlock" or
    "stack overflow"; kernel: the variant's name; thread: its number in the block; block: its index.
    """

    def __init__(
        self, kind: str, kernel: str, thread: int, block: tuple[int, int, int], text: str, at: Location | None
    ):
        self.kind, self.kernel, self.thread, self.block = kind, kernel, thread, block
        lane = f"thread {thread} (warp {thread // WARP}, lane {thread % WARP}) of block {block}"
        super().__init__(
            f"kernel {kernel}: {kind}: {lane}: {text}",
            at=at,
            remedy=REMEDY.get(kind),
        )


def faults(variant: Variant, library: KernelLibrary, reports: list[Report]) -> list[KernelFault]:
    """The errors of a launch's reports, in the order in which they were met."""
    sites = [site for report in reports for site in (report.site, report.earlier_site) if site]
    lines = library.source_lines(sites)
    return [_fault(variant, report, lines) for report in reports]


def _fault(variant: Variant, report: Report, lines: dict[int, Location]) -> KernelFault:
    text = report.text.decode()
    if report.earlier_site:
        text += f", at {lines.get(report.earlier_site, 'a line unknown')}"
    if report.times > 1:
        text += f" ({report.times} times)"
    at = Location(report.file.decode(), report.line) if report.line else lines.get(report.site)
    block = (report.block.x, report.block.y, report.block.z)
    return KernelFault(report.kind.decode(), variant.name, report.thread, block, text, at=at)
