"""What compiled kernels take of a GPU (registers, shared memory, stack), kept on disk by sources' content.

The compile gate finds it out; afterwards it is known on this machine also where no compiler is, so that the
emulator can refuse what a GPU would.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from netc.backends.cache_folder import cache_folder
from netc.backends.cuda.compilation.cubin import OPTIONS, compile_variants
from netc.backends.cuda.compilation.kernel import Variant
from netc.backends.cuda.compilation.nvrtc import Nvrtc
from netc.backends.cuda.compilation.sources import source_digest
from netc.errors import NetcError
from netc.kernels_folder import kernels_folder
from netc.schema.atomic import replacing

LOCK = threading.Lock()  # of the files on disk, within this process
WARP = 32
PROCESSOR_REGISTERS = 65536
REGISTER_UNIT = 256  # registers are given to a warp in multiples of this
KERNEL = re.compile(r"Compiling entry function '(?P<symbol>[^']+)' for '[^']+'")
PROPERTIES = re.compile(
    r"(?P<frame>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
)
USED = re.compile(r"Used (?P<registers>\d+) registers(?P<rest>.*)")
SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes: registers of a thread; bytes of shared memory, stack frame and spills.

    Frame and spills are those of the kernel and of the functions that it calls.
    """

    registers: int
    static_shared: int
    frame: int
    spills: int

    @property
    def clean(self) -> bool:
        return self.frame == 0 and self.spills == 0

    def block_registers(self, threads: int) -> int:
        """The registers that a block of so many threads takes of a multiprocessor."""
        warp = -(-self.registers * WARP // REGISTER_UNIT) * REGISTER_UNIT
        return warp * -(-threads // WARP)


def read_log(log: str) -> dict[str, Resources]:
    """The resources of each kernel, by symbol, in a log of `--ptxas-options=-v`. Raises NetcError if none."""
    heads = list(KERNEL.finditer(log))
    ends = [*(head.start() for head in heads), len(log)][1:]
    found = {h["symbol"]: _read_part(log[h.end() : end]) for h, end in zip(heads, ends, strict=False)}
    if not found:
        raise NetcError("the compiler's log does not tell what a kernel takes", found=log.strip()[:300])
    return found


def _read_part(log: str) -> Resources:
    properties, used = list(PROPERTIES.finditer(log)), USED.search(log)
    if not properties or used is None:
        raise NetcError("the compiler's log does not tell what a kernel takes", found=log.strip()[:300])
    shared = SHARED.search(used["rest"])
    return Resources(
        int(used["registers"]),
        int(shared[1]) if shared else 0,
        sum(int(function["frame"]) for function in properties),
        sum(int(function["stores"]) + int(function["loads"]) for function in properties),
    )


def known_resources(variant: Variant, architecture: int) -> Resources | None:
    """What the gate found for a variant's present source on this machine, None where it has not built it."""
    return _read(_place(variant, architecture), None).get(variant.expression)


def find_resources(
    compiler: Nvrtc, variants: Iterable[Variant], architecture: int
) -> dict[str, Resources | NetcError]:
    """The resources of variants of one file, with the same defines and target, by expression.

    Those that are not known yet are compiled together. A kernel that does not compile has its error there.
    """
    variants = list(variants)
    found = {
        v.expression: _read(_place(v, architecture), compiler.version).get(v.expression) for v in variants
    }
    missing = list({v.expression: v for v in variants if found[v.expression] is None}.values())
    new = _compile(compiler, missing, architecture) if missing else {}
    good = {expression: got for expression, got in new.items() if isinstance(got, Resources)}
    if good:
        place = _place(variants[0], architecture)
        with LOCK:
            _write(place, compiler.version, _read(place, compiler.version) | good)
    return {expression: known or new[expression] for expression, known in found.items()}


def _compile(
    compiler: Nvrtc, variants: Sequence[Variant], architecture: int
) -> dict[str, Resources | NetcError]:
    try:
        cubin = compile_variants(compiler, variants, variants[0].target(architecture), ["--ptxas-options=-v"])
        by_symbol = read_log(cubin.log)
        return {expression: by_symbol[symbol] for expression, symbol in cubin.symbols.items()}
    except NetcError as error:
        if len(variants) == 1:
            return {variants[0].expression: error}
    # One that does not compile takes the others down with it: which is it?
    alone = [_compile(compiler, [variant], architecture) for variant in variants]
    return {expression: found for one in alone for expression, found in one.items()}


def check_registers(variant: Variant, architecture: int) -> None:
    """Raises NetcError where a block of the variant is known to take more registers than there are."""
    known = known_resources(variant, architecture)
    if known and known.block_registers(variant.threads) > PROCESSOR_REGISTERS:
        raise NetcError(
            f"kernel {variant.name} cannot be launched: a block takes too many registers",
            expected=f"at most {PROCESSOR_REGISTERS:,}",
            found=f"{known.block_registers(variant.threads):,}, {known.registers} a thread",
            remedy="give it fewer threads, or the __launch_bounds__ of its threads",
        )


# On disk: a file for each source, its defines and an architecture


def _place(variant: Variant, architecture: int) -> Path:
    target = variant.target(architecture)
    key = source_digest(variant.path, (kernels_folder(),), OPTIONS, variant.defines, target)
    return cache_folder("resources") / f"{Path(variant.file).stem}-sm_{target}-{key}.json"


def _read(place: Path, version: str | None) -> dict[str, Resources]:
    """What a file holds; nothing where it is missing, damaged, or of another compiler than this version."""
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
        if version is not None and content["compiler"] != version:
            return {}
        return {expression: Resources(*map(int, values)) for expression, values in content["kernels"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _write(place: Path, version: str, found: Mapping[str, Resources]) -> None:
    kernels = {expression: astuple(resources) for expression, resources in sorted(found.items())}
    with replacing(place) as temporary:
        temporary.write_text(
            json.dumps({"compiler": version, "kernels": kernels}, indent=1), encoding="utf-8"
        )
