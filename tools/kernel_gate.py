"""Compiles every kernel variant for real GPUs, without one, and fails on spilled registers or a stack frame.

    python tools/kernel_gate.py [sm_90 ...] [-only TEXT]

For each variant and architecture a row: registers, shared memory, stack frame, spills, and the share of a
multiprocessor's threads that fit at once (theoretical occupancy). Architectures: sm_75, sm_80, sm_90 and the
newest that the compiler knows, unless some are named. What has been found is kept on disk by the sources'
content, so that a second run compiles only what has changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from netc.backends.cuda.compilation import Variant
from netc.backends.cuda.compilation.nvrtc import Nvrtc
from netc.backends.cuda.compilation.resources import PROCESSOR_REGISTERS, WARP, Resources, find_resources
from netc.backends.cuda.families import ALL_VARIANTS
from netc.errors import NetcError

ARCHITECTURES = (75, 80, 90)
SHARED_UNIT = 128
TOGETHER = 16  # kernels in one compilation: more would save little, and leave a worker alone at the end


@dataclass(frozen=True)
class Processor:
    """What a multiprocessor holds at once; `reserved` bytes of shared memory go to each block.

    (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability")
    """

    threads: int
    blocks: int
    shared_bytes: int
    reserved: int = 1024


PROCESSORS = {
    75: Processor(1024, 16, 64 << 10, reserved=0),
    80: Processor(2048, 32, 164 << 10),
    86: Processor(1536, 16, 100 << 10),
    87: Processor(1536, 16, 164 << 10),
    89: Processor(1536, 24, 100 << 10),
    90: Processor(2048, 32, 228 << 10),
    100: Processor(2048, 32, 228 << 10),
    103: Processor(2048, 32, 228 << 10),
    110: Processor(1536, 24, 228 << 10),
    120: Processor(1536, 24, 100 << 10),
    121: Processor(1536, 24, 100 << 10),
}


def occupancy(resources: Resources, variant: Variant, processor: Processor) -> float:
    """The share of a multiprocessor's threads that blocks of this variant can fill."""
    warps = -(-variant.threads // WARP)
    shared = resources.static_shared + variant.shared_bytes + processor.reserved
    shared = -(-shared // SHARED_UNIT) * SHARED_UNIT
    blocks = min(
        processor.blocks,
        processor.threads // (warps * WARP),
        PROCESSOR_REGISTERS // resources.block_registers(variant.threads),
        processor.shared_bytes // shared if shared else processor.blocks,
    )
    return blocks * warps * WARP / processor.threads


@dataclass(frozen=True)
class Row:
    """One variant on one architecture: its resources, or why it does not compile."""

    variant: Variant
    architecture: int
    resources: Resources | None
    error: str = ""

    @property
    def passes(self) -> bool:
        r = self.resources
        return r is not None and r.clean and r.block_registers(self.variant.threads) <= PROCESSOR_REGISTERS

    def __str__(self) -> str:
        head = f"sm_{self.variant.target(self.architecture):<4}{self.variant.name:<36}"
        if self.resources is None:
            return f"{head} FAILS: {self.error}"
        r = self.resources
        share = "     -"
        if self.architecture in PROCESSORS:
            share = f"{occupancy(r, self.variant, PROCESSORS[self.architecture]):6.0%}"
        shared = r.static_shared + self.variant.shared_bytes
        verdict = "" if self.passes else "   FAILS"
        return f"{head}{r.registers:10}{shared:10}{r.frame:8}{r.spills:8}  {share}{verdict}"


HEADER = f"{'':7}{'variant':<36}{'registers':>10}{'shared':>10}{'frame':>8}{'spills':>8}{'occupancy':>10}"


def usual_architectures(compiler: Nvrtc) -> list[int]:
    """sm_75, sm_80, sm_90 as far as the compiler knows them, and the newest that it knows."""
    known = compiler.architectures()
    return sorted({a for a in (*ARCHITECTURES, known[-1]) if a in known})


def build_all(
    compiler: Nvrtc, variants: Iterable[Variant], architectures: Sequence[int], workers: int = 1
) -> list[Row]:
    """A row for each variant on each architecture with its instructions; what is known is not compiled."""
    jobs = [
        (part, architecture)
        for architecture in architectures
        for part in _compilations(v for v in variants if v.runs_on(architecture))
    ]
    with ThreadPoolExecutor(workers) as pool:
        return [row for rows in pool.map(lambda job: _build(compiler, *job), jobs) for row in rows]


def _compilations(variants: Iterable[Variant]) -> Iterator[list[Variant]]:
    """The variants in groups that are compiled together: of one file, with the same defines and target."""
    groups: dict[object, list[Variant]] = {}
    for variant in variants:
        groups.setdefault((variant.path, variant.defines, variant.specific), []).append(variant)
    for group in groups.values():
        for start in range(0, len(group), TOGETHER):
            yield group[start : start + TOGETHER]


def _build(compiler: Nvrtc, variants: Sequence[Variant], architecture: int) -> list[Row]:
    found = find_resources(compiler, variants, architecture)
    return [_row(variant, architecture, found[variant.expression]) for variant in variants]


def _row(variant: Variant, architecture: int, found: Resources | NetcError) -> Row:
    if isinstance(found, NetcError):
        return Row(variant, architecture, None, str(found))
    return Row(variant, architecture, found)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("architectures", nargs="*", metavar="sm_NN", help="instead of the usual ones")
    parser.add_argument("-only", default="", metavar="TEXT", help="variants whose name contains it")
    parser.add_argument("-workers", type=int, default=2, help="how many compile at once")
    options = parser.parse_args(arguments)
    try:
        compiler = Nvrtc()
    except NetcError as error:
        print(error, file=sys.stderr)
        return 1
    wanted = [int(name.removeprefix("sm_")) for name in options.architectures]
    architectures = wanted or usual_architectures(compiler)
    variants = [variant for variant in ALL_VARIANTS if options.only in variant.name]
    rows = build_all(compiler, variants, architectures, options.workers)
    print(f"NVRTC {compiler.version} from {compiler.path}", HEADER, *rows, sep="\n")
    failed = [row for row in rows if not row.passes]
    print(f"{len(rows)} kernels for {', '.join(f'sm_{a}' for a in architectures)}: {len(failed)} fail")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
