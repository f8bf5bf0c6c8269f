"""What comes before a first iteration is measured on the kernels and programs that a GPU would run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bench_compile
from bench import compiling_device
from bench.compiling_device import CompilingDevice
from bench.nets import net_named
from netc.backends.cuda.compilation import Variant


class NoCompiler:
    """Stands in for NVRTC where nothing is compiled."""


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Variant]:
    """Fills up with what would be compiled."""
    asked: list[Variant] = []

    def build(device: CompilingDevice, variant: Variant) -> Path:
        asked.append(variant)
        device.built[variant.name] = 1.0
        return tmp_path

    monkeypatch.setattr(compiling_device, "Nvrtc", NoCompiler)
    monkeypatch.setattr(CompilingDevice, "_build", build)
    monkeypatch.setattr(CompilingDevice, "_open", lambda *_: "a kernel")
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path))
    return asked


def test_each_kernel_of_a_training_program_is_compiled_once(built: list[Variant]) -> None:
    made = bench_compile.first_iteration(net_named("lenet"), "fp32", 90)
    names = [variant.name for variant in built]
    assert len(names) == len(set(names)) == len(made["built"])
    assert {"gemm fp32 64x64 NT", "update SGD L2 pack 4", "write_row"} <= set(names)
    assert made["steps"] > 10


def test_kernels_of_every_layout_that_is_compared_are_compiled(built: list[Variant]) -> None:
    bench_compile.first_iteration(net_named("lenet"), "tf32", 90)
    names = {variant.name for variant in built}
    assert {"pack images planes tf32", "pack images last tf32"} <= names


def test_what_has_been_timed_is_not_compiled_again(built: list[Variant]) -> None:
    first = bench_compile.first_iteration(net_named("lenet"), "fp32", 90)
    second = bench_compile.first_iteration(net_named("lenet"), "fp32", 90)
    assert set(second["built"]) < set(first["built"])


def test_all_parts_of_the_time_are_told(built: list[Variant]) -> None:
    made = bench_compile.first_iteration(net_named("lenet"), "fp32", 90)
    assert list(made["parts"]) == list(bench_compile.PARTS)
    assert all(made["parts"][part] > 0 for part in ("graph", "parameters", "rehearsal", "forms", "binding"))


def test_no_kernel_is_compiled_that_the_device_cannot_run(built: list[Variant]) -> None:
    bench_compile.first_iteration(net_named("lenet"), "tf32", 75)
    assert built
    assert all(variant.runs_on(75) for variant in built)


def test_the_page_shows_every_measurement(tmp_path: Path) -> None:
    results = bench_compile.Results(tmp_path / "compile.json", bench_compile.KEYS)
    results.content |= {"machine": {"processor": "Some", "cores": 2}, "versions": {"nvrtc": "13.5"}}
    row: dict[str, Any] = dict.fromkeys(bench_compile.COLUMNS, 1.5)
    for net, seconds in (("lenet", 0.25), ("alexnet", 1.75)):
        parts = dict.fromkeys(("import", *bench_compile.PARTS, "rest"), 0.25)
        known = {**row, "warm_parts": parts, "slowest": {"gemm": seconds}}
        results.add({"net": net, "math": "fp32", "architecture": 90, **known})
    page = bench_compile.page(results)
    assert "| lenet | fp32 | 90 | 1.5 |" in page
    assert "| alexnet | fp32 | 90 | 1.5 |" in page
    assert "| alexnet | fp32 | 0.25 | 0.25 |" in page
    assert "| gemm | 1.75 |" in page
