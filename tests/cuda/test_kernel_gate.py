"""The compile gate reads the compiler's log, and kernels compile for GPUs where NVRTC is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

import kernel_gate
from kernel_gate import PROCESSORS, Resources, Row, build_all, occupancy, read_log
from netc.backends.cuda import gemm
from netc.backends.cuda.cubin import build_cubin, kernel_symbol
from netc.backends.cuda.kernel import Variant
from netc.backends.cuda.nvrtc import Nvrtc
from netc.backends.cuda.variants import ALL_VARIANTS
from netc.errors import NetcError

pytestmark = pytest.mark.cuda

LOG = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z4fillILi4EEvxfPf' for 'sm_90'
ptxas info    : Function properties for _Z4fillILi4EEvxfPf
    {frame} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 8448 bytes smem
"""
VARIANT = Variant("some", "some.cu", "some", 256)


@pytest.fixture(scope="module")
def compiler() -> Nvrtc:
    try:
        return Nvrtc()
    except NetcError as error:
        pytest.skip(str(error))


def test_the_log_tells_what_a_kernel_takes() -> None:
    assert read_log(LOG.format(frame=0, stores=0, loads=0)) == Resources(40, 8448, 0, 0)
    assert read_log(LOG.format(frame=16, stores=4, loads=8)) == Resources(40, 8448, 16, 12)


def test_a_log_without_them_is_an_error() -> None:
    with pytest.raises(NetcError, match="does not tell"):
        read_log("ptxas info : nothing")


@pytest.mark.parametrize(("frame", "loads", "passes"), [(0, 0, True), (8, 0, False), (0, 4, False)])
def test_spills_and_frames_fail(frame: int, loads: int, passes: bool) -> None:
    row = Row(VARIANT, 90, read_log(LOG.format(frame=frame, stores=0, loads=loads)))
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


def test_a_tensor_core_kernel_is_clean_and_has_one_symbol(
    compiler: Nvrtc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path))
    variant = next(v for key, v in gemm.VARIANTS.items() if key[0].math == "tf32")
    (row,) = build_all(compiler, [variant], [90])
    assert row.passes, str(row)
    cubin = build_cubin(compiler, variant, "90")
    assert "gemm_tf32" in kernel_symbol(cubin)
    assert build_cubin(compiler, variant, "90") == cubin


def test_a_kernel_that_spills_or_does_not_compile_fails_the_gate(compiler: Nvrtc, tmp_path: Path) -> None:
    source = tmp_path / "bad.cu"
    source.write_text(
        '#include "netc.cuh"\n'
        "__global__ void indexed(int i, float* y) {\n"
        "  float all[64];\n"
        "  for (int j = 0; j < 64; ++j) all[j] = 0;\n"
        "  for (int j = 0; j < i; ++j) all[i * j % 64] += y[j];\n"
        "  for (int j = 0; j < 64; ++j) y[j] = all[j];\n}\n"
    )
    variants = [Variant(name, str(source), name, 32) for name in ("indexed", "missing")]
    framed, missing = build_all(compiler, variants, [90])
    assert framed.resources is not None
    assert framed.resources.frame > 0
    assert not framed.passes
    assert "cannot compile missing" in missing.error


def test_without_the_compiler_the_gate_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> Nvrtc:
        raise NetcError("NVRTC is not installed", remedy="pip install 'netc[gate]'")

    monkeypatch.setattr(kernel_gate, "Nvrtc", none)
    assert kernel_gate.main([]) == 1
    assert "pip install 'netc[gate]'" in capsys.readouterr().err
