"""Kernels that are asked for together are compiled at the same time, and are ready when they are needed."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from netc.backends.cuda.compilation import Variant, loader
from netc.backends.cuda.compilation.loader import Loader
from netc.backends.cuda.emulator import EmulatedDevice
from netc.errors import NetcError
from tests.cuda.arrays import get, planted, room

pytestmark = pytest.mark.cuda

ONE, TWO, BROKEN = (Variant(name, "none.cu", name, 32) for name in ("one", "two", "broken"))


class Compiler:
    """Compiles nothing; `built` is what was asked for. Two compilations that are not broken need each other
    where `meet` is set."""

    def __init__(self, meet: bool = False) -> None:
        self.built: list[str] = []
        self.barrier = threading.Barrier(2) if meet else None

    def build(self, variant: Variant) -> Path:
        self.built.append(variant.name)
        if variant is BROKEN:
            raise NetcError("broken cannot be compiled")
        if self.barrier:
            self.barrier.wait(timeout=30)
        return Path(variant.name)

    def open_kernel(self, variant: Variant, path: Path) -> object:
        return f"handle of {path}"


def loader_of(compiler: Compiler) -> Loader:
    return Loader(compiler.build, compiler.open_kernel)


def load_together(loader: Loader, *variants: Variant, error: Exception | None = None) -> None:
    """Loads kernels in a context, which then ends with the error."""
    with loader.together():
        for variant in variants:
            loader.load(variant)
        if error:
            raise error


def test_a_kernel_is_compiled_once() -> None:
    compiler = Compiler()
    loader = loader_of(compiler)
    assert loader.load(ONE) is loader.load(ONE)
    assert loader.load(ONE).handle == "handle of one"
    assert compiler.built == ["one"]


def test_kernels_loaded_together_are_compiled_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "cores_allowed", lambda: 2)
    both = loader_of(Compiler(meet=True))  # one after the other, they would wait for each other in vain
    with both.together():
        kernels = [both.load(ONE), both.load(TWO), both.load(ONE)]
    assert [kernel.handle for kernel in kernels] == ["handle of one", "handle of two", "handle of one"]


def test_an_inner_context_makes_its_kernels_ready_too() -> None:
    loader = loader_of(Compiler())
    with loader.together():
        with loader.together():
            kernel = loader.load(ONE)
        assert kernel.handle
        later = loader.load(TWO)
    assert later.handle


def test_what_does_not_compile_is_an_error_at_the_end_and_may_be_tried_again() -> None:
    compiler = Compiler()
    loader = loader_of(compiler)
    with pytest.raises(NetcError, match="broken cannot be compiled"):
        load_together(loader, BROKEN, ONE)
    assert loader.load(ONE).handle == "handle of one"
    assert not loader.has(BROKEN)
    with pytest.raises(NetcError, match="broken cannot be compiled"):
        loader.load(BROKEN)
    assert compiler.built == ["broken", "one", "broken"]


def test_an_error_of_the_context_is_the_one_that_is_seen() -> None:
    loader = loader_of(Compiler())
    with pytest.raises(ValueError, match="of the context"):
        load_together(loader, BROKEN, ONE, error=ValueError("of the context"))
    assert loader.load(ONE).handle


def test_a_kernel_may_be_launched_before_the_others_are_ready(fast: EmulatedDevice) -> None:
    memory = room(fast, 64)
    with fast.loading_together():
        kernel = fast.load(planted("limits.cu", "writes_number", 64))
        fast.launch(kernel, (1,), (64,), [memory])
        np.testing.assert_array_equal(get(fast, memory), np.arange(64))
