"""The compile gate reads the compiler's log, and kernels compile for GPUs where NVRTC is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

import kernel_gate
from kernel_gate import PROCESSORS, Row, build_all, occupancy, usual_architectures
from netc.backends.cuda.compilation import Variant, resources
from netc.backends.cuda.compilation.cubin import build_cubin, kernel_symbol
from netc.backends.cuda.compilation.elf import FUNCTION, LOCAL, Elf
from netc.backends.cuda.compilation.nvrtc import Nvrtc
from netc.backends.cuda.compilation.resources import Resources, check_registers, known_resources, read_log
from netc.backends.cuda.convolution import conv, depthwise, winograd
from netc.backends.cuda.families import ALL_VARIANTS
from netc.backends.cuda.products import gemm
from netc.errors import NetcError

pytestmark = pytest.mark.cuda

LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4fillILi4EEvxfPf' for 'sm_90'
ptxas info    : Function properties for _Z4fillILi4EEvxfPf
    {frame} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8448 bytes smem
"""
TWO_KERNELS = """ptxas info    : 86 bytes gmem
ptxas info    : Compiling entry function 'first' for 'sm_90'
ptxas info    : Function properties for first
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 30 registers, used 0 barriers
ptxas info    : Compile time = 6.743 ms
ptxas info    : Compiling entry function 'second' for 'sm_90'
ptxas info    : Function properties for second
ptxas         .     8 bytes stack frame, 0 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 24 registers, used 1 barriers, 16 bytes smem
ptxas info    : Function properties for called
ptxas         .     16 bytes stack frame, 2 bytes spill stores, 0 bytes spill loads
"""
VARIANT = Variant("some", "some.cu", "some", 256)
BAD = """#include "netc.cuh"
__global__ void indexed(int i, float* y) {
  float all[64];
  for (int j = 0; j < 64; ++j) all[j] = 0;
  for (int j = 0; j < i; ++j) all[i * j % 64] += y[j];
  for (int j = 0; j < 64; ++j) y[j] = all[j];
}
__global__ void fine(float* y) { y[threadIdx.x] = 1; }
__global__ void greedy(const float* x, float* y) {
  float all[128];
#pragma unroll
  for (int j = 0; j < 128; ++j) all[j] = x[j * 1024 + threadIdx.x];
  for (int i = 0; i < 9; ++i)
#pragma unroll
    for (int j = 0; j < 128; ++j) all[j] += all[(j + 1) % 128] * x[i];
#pragma unroll
  for (int j = 0; j < 128; ++j) y[j * 1024 + threadIdx.x] = all[j];
}
"""
FILES = sorted({variant.file for variant in ALL_VARIANTS})
NEWEST = -1


@pytest.fixture(scope="module")
def compiler() -> Nvrtc:
    try:
        return Nvrtc()
    except NetcError as error:
        pytest.skip(str(error))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bad_source(tmp_path: Path) -> str:
    """A file with a kernel that needs a stack, one that does not, and one that takes many registers."""
    (tmp_path / "bad.cu").write_text(BAD)
    return str(tmp_path / "bad.cu")


# All that can take long. The positions are those of the usual architectures, the newest of them last.
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("position", [0, 1, 2, NEWEST], ids=["sm_75", "sm_80", "sm_90", "newest"])
@pytest.mark.parametrize("file", FILES)
def test_every_variant_is_clean(compiler: Nvrtc, file: str, position: int) -> None:
    architecture = usual_architectures(compiler)[position]
    rows = build_all(compiler, [v for v in ALL_VARIANTS if v.file == file], [architecture])
    assert [str(row) for row in rows if not row.passes] == []
    assert rows or not any(v.runs_on(architecture) for v in ALL_VARIANTS if v.file == file)


def log_of_one(frame: int = 0, stores: int = 0, loads: int = 0) -> Resources:
    (resources,) = read_log(LOG.format(frame=frame, stores=stores, loads=loads)).values()
    return resources


def test_the_log_tells_what_a_kernel_takes() -> None:
    assert log_of_one() == Resources(40, 8448, 0, 0)
    assert log_of_one(frame=16, stores=4, loads=8) == Resources(40, 8448, 16, 12)


def test_the_log_tells_the_kernels_apart_and_counts_what_they_call() -> None:
    assert read_log(TWO_KERNELS) == {"first": Resources(30, 0, 0, 0), "second": Resources(24, 16, 24, 6)}


@pytest.mark.parametrize("log", ["ptxas info : nothing", "Compiling entry function 'f' for 'sm_90'\nnothing"])
def test_a_log_without_them_is_an_error(log: str) -> None:
    with pytest.raises(NetcError, match="does not tell"):
        read_log(log)


@pytest.mark.parametrize(("frame", "loads", "passes"), [(0, 0, True), (8, 0, False), (0, 4, False)])
def test_spills_and_frames_fail(frame: int, loads: int, passes: bool) -> None:
    row = Row(VARIANT, 90, log_of_one(frame=frame, loads=loads))
    assert row.passes is passes
    assert str(row).endswith("FAILS") is not passes


@pytest.mark.parametrize(
    ("registers", "static_shared", "threads", "architecture", "expected"),
    [
        (32, 0, 256, 90, 1.0),  # 8 blocks of 8 warps fill 2048 threads
        (40, 0, 256, 90, 0.75),  # 10240 registers a block: 6 fit
        (33, 0, 1024, 90, 0.5),  # rounded to 40 registers, a block takes 40960
        (32, 40 * 1024, 256, 90, 0.625),  # 41 KB with what is reserved: 5 blocks in 228 KB
        (16, 0, 32, 75, 0.5),  # 16 blocks of a warp
    ],
)
def test_occupancy(
    registers: int, static_shared: int, threads: int, architecture: int, expected: float
) -> None:
    variant = Variant("some", "some.cu", "some", threads)
    found = occupancy(Resources(registers, static_shared, 0, 0), variant, PROCESSORS[architecture])
    assert found == expected


def test_variant_names_are_unique() -> None:
    assert len({variant.name for variant in ALL_VARIANTS}) == len(ALL_VARIANTS)


def test_the_wrappers_compile_for_a_gpu(compiler: Nvrtc) -> None:
    path = str(Path(__file__).resolve().parent / "wrappers.cu")
    expressions = ["multiply_matrices<bf16>", "multiply_matrices<fp16>", "load_one_matrix", "exchange"]
    expressions += ["round_trip<fp16>", "round_to_tf32", "draw<uint64>", "count_in_block"]
    variants = [Variant(expression, path, expression, 256) for expression in expressions]
    rows = build_all(compiler, variants, [80, 90])
    assert [str(row) for row in rows if not row.passes] == []


def test_a_tensor_core_kernel_is_clean_and_found_in_its_cubin(compiler: Nvrtc, own_cache: Path) -> None:
    variant = next(v for key, v in gemm.VARIANTS.items() if key[0].math == "tf32")
    (row,) = build_all(compiler, [variant], [90])
    assert row.passes, str(row)
    cubin = build_cubin(compiler, variant, "90")
    assert "gemm_tf32" in kernel_symbol(cubin, variant.expression)
    assert build_cubin(compiler, variant, "90") == cubin


@pytest.mark.parametrize(
    "variant", [conv.TURN_FILTERS, depthwise.FORWARD, winograd.FILTERS[2]], ids=lambda v: v.name
)
def test_a_cubin_holds_the_kernel_that_was_asked_for_and_no_other_of_its_file(
    compiler: Nvrtc, own_cache: Path, variant: Variant
) -> None:
    cubin = build_cubin(compiler, variant, "90")
    kernels = [s.name for s in Elf(cubin).symbols if s.type == FUNCTION and s.binding != LOCAL]
    assert kernels == [kernel_symbol(cubin, variant.expression)]
    with pytest.raises(NetcError, match="does not hold its kernel once"):
        kernel_symbol(cubin, "no_such_kernel<4>")


def test_a_kernel_that_is_no_template_is_told_from_those_beside_it(
    compiler: Nvrtc, own_cache: Path, bad_source: str
) -> None:
    """As an extension's may be."""
    cubin = build_cubin(compiler, Variant("fine", bad_source, "fine", 32), "90")
    assert kernel_symbol(cubin, "fine") == "_Z4finePf"
    assert kernel_symbol(cubin, "greedy") == "_Z6greedyPKfPf"


def test_a_kernel_that_spills_or_does_not_compile_fails_the_gate(
    compiler: Nvrtc, own_cache: Path, bad_source: str
) -> None:
    variants = [Variant(name, bad_source, name, 32) for name in ("indexed", "missing", "fine")]
    framed, missing, fine = build_all(compiler, variants, [90])
    assert framed.resources is not None
    assert framed.resources.frame > 0
    assert not framed.passes
    assert "cannot compile missing" in missing.error
    assert fine.passes


def test_a_block_of_more_registers_than_there_are_fails_the_gate_and_is_refused(
    compiler: Nvrtc, own_cache: Path, bad_source: str
) -> None:
    small, large = (Variant(f"greedy {n}", bad_source, "greedy", n) for n in (256, 1024))
    check_registers(large, 90)  # nothing is known of it yet
    one, other = build_all(compiler, [small, large], [90])
    assert one.passes
    assert not other.passes
    assert str(other).endswith("FAILS")
    check_registers(small, 90)
    with pytest.raises(NetcError, match="too many registers"):
        check_registers(large, 90)


def test_what_is_known_is_not_compiled_again(
    compiler: Nvrtc, own_cache: Path, bad_source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[list[str]] = []
    original = resources.compile_variants

    def compile_and_note(compiler: Nvrtc, variants: list[Variant], *rest: object) -> object:
        compiled.append([variant.name for variant in variants])
        return original(compiler, variants, *rest)

    monkeypatch.setattr(resources, "compile_variants", compile_and_note)
    fine, indexed = (Variant(name, bad_source, name, 32) for name in ("fine", "indexed"))
    assert known_resources(fine, 90) is None
    (first,) = build_all(compiler, [fine], [90])
    assert known_resources(fine, 90) == first.resources
    assert build_all(compiler, [fine, indexed], [90])[0] == first
    assert compiled == [["fine"], ["indexed"]]
    build_all(compiler, [fine], [80])
    Path(bad_source).write_text(BAD.replace("= 1;", "= 2;"))
    build_all(compiler, [fine], [90])
    assert compiled[2:] == [["fine"], ["fine"]]
    for damaged in own_cache.glob("resources/*.json"):
        damaged.write_text('{"compiler": "13.5", "kernels": []')
    assert known_resources(fine, 90) is None


def test_without_the_compiler_the_gate_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> Nvrtc:
        raise NetcError("NVRTC is not installed", remedy="pip install 'netc[gate]'")

    monkeypatch.setattr(kernel_gate, "Nvrtc", none)
    assert kernel_gate.main([]) == 1
    assert "pip install 'netc[gate]'" in capsys.readouterr().err
