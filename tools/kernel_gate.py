"""Compiles every kernel variant for real GPUs, without one, and fails on spilled registers or a stack frame.

    python tools/kernel_gate.py [sm_90 ...] [-only TEXT]

For each variant and architecture a row: registers, shared memory, stack frame, spills, and the share of a
multiprocessor's threads that fit at once (theoretical occupancy). Architectures: sm_75, sm_80, sm_90 and the
newest that the compiler knows, unless some are named.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from netc.backends.cuda.cubin import compile_variant
from netc.backends.cuda.kernel import Variant
from netc.backends.cuda.nvrtc import Nvrtc
from netc.backends.cuda.variants import ALL_VARIANTS
from netc.errors import NetcError

ARCHITECTURES = (75, 80, 90)
WARP = 32
REGISTERS_OF_PROCESSOR = 65536
REGISTER_UNIT = 256  # registers are given to a warp in multiples of this
SHARED_UNIT = 128


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


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes: registers of a thread; bytes of shared memory, stack frame and spills."""

    registers: int
    static_shared: int
    frame: int
    spills: int

    @property
    def clean(self) -> bool:
        return self.frame == 0 and self.spills == 0


PROPERTIES = re.compile(
    r"(?P<frame>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
)
USED = re.compile(r"Used (?P<registers>\d+) registers(?P<rest>.*)")
SHARED = re.compile(r"(\d+) bytes smem")


def read_log(log: str) -> Resources:
    """The resources of the kernel in a log of `--ptxas-options=-v`. Raises NetcError without them."""
    properties, used = PROPERTIES.search(log), USED.search(log)
    if properties is None or used is None:
        raise NetcError("the compiler's log does not tell what the kernel takes", found=log.strip()[:300])
    shared = SHARED.search(used["rest"])
    return Resources(
        int(used["registers"]),
        int(shared[1]) if shared else 0,
        int(properties["frame"]),
        int(properties["stores"]) + int(properties["loads"]),
    )


def occupancy(resources: Resources, variant: Variant, processor: Processor) -> float:
    """The share of a multiprocessor's threads that blocks of this variant can fill."""
    warps = -(-variant.threads // WARP)
    registers = -(-resources.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT * warps
    shared = resources.static_shared + variant.shared_bytes + processor.reserved
    shared = -(-shared // SHARED_UNIT) * SHARED_UNIT
    blocks = min(
        processor.blocks,
        processor.threads // (warps * WARP),
        REGISTERS_OF_PROCESSOR // registers,
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
        return self.resources is not None and self.resources.clean

    def __str__(self) -> str:
        head = f"sm_{self.architecture:<4}{self.variant.name:<36}"
        if self.resources is None:
            return f"{head} FAILS: {self.error}"
        r = self.resources
        share = "     -"
        if self.architecture in PROCESSORS:
            share = f"{occupancy(r, self.variant, PROCESSORS[self.architecture]):6.0%}"
        shared = r.static_shared + self.variant.shared_bytes
        verdict = "" if r.clean else "   FAILS"
        return f"{head}{r.registers:10}{shared:10}{r.frame:8}{r.spills:8}  {share}{verdict}"


HEADER = f"{'':7}{'variant':<36}{'registers':>10}{'shared':>10}{'frame':>8}{'spills':>8}{'occupancy':>10}"


def build(compiler: Nvrtc, variant: Variant, architecture: int) -> Row:
    """Compiles a variant for an architecture."""
    try:
        cubin = compile_variant(compiler, variant, str(architecture), ["--ptxas-options=-v"])
        return Row(variant, architecture, read_log(cubin.log))
    except NetcError as error:
        return Row(variant, architecture, None, str(error))


def build_all(
    compiler: Nvrtc, variants: Iterable[Variant], architectures: Sequence[int], workers: int = 1
) -> list[Row]:
    """A row for each variant on each architecture that has its instructions."""
    jobs = [(v, a) for a in architectures for v in variants if a >= v.architecture]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda job: build(compiler, *job), jobs))


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
    known = compiler.architectures()
    wanted = [int(name.removeprefix("sm_")) for name in options.architectures]
    architectures = wanted or sorted({a for a in (*ARCHITECTURES, known[-1]) if a in known})
    variants = [variant for variant in ALL_VARIANTS if options.only in variant.name]
    rows = build_all(compiler, variants, architectures, options.workers)
    print(f"NVRTC {compiler.version} from {compiler.path}", HEADER, *rows, sep="\n")
    failed = [row for row in rows if not row.passes]
    print(f"{len(rows)} kernels for {', '.join(f'sm_{a}' for a in architectures)}: {len(failed)} fail")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
