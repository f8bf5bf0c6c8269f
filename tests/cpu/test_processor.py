"""What the system says of the processor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from netc.backends.cpu.loops import processor

DESCRIPTION = """\
processor\t: 0
model name\t: A Processor
cpu MHz\t\t: {mhz}
flags\t\t: fpu sse2 {flags}
power management:

processor\t: 1
model name\t: Another
flags\t\t: avx512f
"""


@pytest.fixture
def described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that describes the processors; not there yet."""
    monkeypatch.setattr(processor, "DESCRIPTION", tmp_path / "cpuinfo")
    processor._described.cache_clear()
    yield tmp_path / "cpuinfo"
    processor._described.cache_clear()


@pytest.mark.parametrize(("flags", "lanes"), [("avx fma", 8), ("fma avx512f", 16), ("avx", 0), ("fma4", 0)])
def test_vectors_have_the_lanes_that_the_processor_multiplies_and_adds(
    described: Path, flags: str, lanes: int
) -> None:
    described.write_text(DESCRIPTION.format(mhz=1000, flags=flags))
    assert processor.vector_lanes() == lanes


def test_a_processor_is_its_model_and_its_flags_not_its_clock(described: Path) -> None:
    named = []
    for mhz, flags in ((1000, "fma"), (2000, "fma"), (1000, "avx")):
        described.write_text(DESCRIPTION.format(mhz=mhz, flags=flags))
        processor._described.cache_clear()
        named.append(processor.processor())
    assert named[0] == named[1] != named[2]
    assert "A Processor" in named[0]
    assert "Another" not in named[0]


def test_a_system_that_describes_nothing(described: Path) -> None:
    assert processor.vector_lanes() == 0
    assert processor.processor()


def test_llvm_sees_the_same_vectors() -> None:
    binding = pytest.importorskip("llvmlite.binding", reason="LLVM comes with numba (netc[cpu])")
    features = binding.get_host_cpu_features()
    wanted = next((lanes for name, lanes in processor.LANES.items() if features.get(name)), 0)
    assert processor.vector_lanes() == wanted
