"""How oneDNN is found, what is refused, and what is said where there is none."""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from netc.backends.cpu.onednn import engine as engine_module
from netc.backends.cpu.onednn import library
from netc.backends.cpu.onednn.engine import open_engine
from netc.errors import NetcError
from tests.cpu.form_case import engine


@pytest.fixture(autouse=True)
def _fresh_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opens the engine anew in each test; the process's own is back afterwards."""
    kept = open_engine.__wrapped__
    monkeypatch.setattr(engine_module, "open_engine", kept)
    monkeypatch.delenv(library.VARIABLE, raising=False)


def pretend(monkeypatch: pytest.MonkeyPatch, major: int, cpu_runtime: int) -> None:
    """Every library loads, and says that it is this version with these threads."""
    version = library.Version(major, 2, 0, b"", cpu_runtime, 0)

    class Fake(SimpleNamespace):
        pass

    def tell() -> Any:
        return ctypes.pointer(version)

    monkeypatch.setattr(library.ctypes, "CDLL", lambda path: Fake(dnnl_version=tell))


def test_the_environment_names_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    engine()
    real = next(place for place in library.places() if Path(place).exists())
    monkeypatch.setenv(library.VARIABLE, real)
    monkeypatch.setattr(library, "places", lambda: iter(()))
    assert library.find() is not None


def test_off_stands_for_none(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(library.VARIABLE, "off")
    assert engine_module.open_engine() is None
    assert not caplog.records


def test_a_named_library_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(library.VARIABLE, str(tmp_path / "libdnnl.so.3"))
    with pytest.raises(NetcError, match="cannot be loaded") as caught:
        library.find()
    assert str(tmp_path) in str(caught.value)
    assert library.WHEEL in str(caught.value)


def test_a_file_that_is_no_library_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no library")
    with pytest.raises(NetcError, match="cannot be loaded"):
        library.load(str(tmp_path / "text"))


def test_another_library_is_an_error() -> None:
    name = ctypes.util.find_library("m")
    assert name is not None
    with pytest.raises(NetcError, match="cannot be loaded"):
        library.load(name)


def test_another_version_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 2, library.OPENMP)
    with pytest.raises(NetcError, match="another interface") as caught:
        library.load("libdnnl.so")
    assert "version 2.2.0" in str(caught.value)


@pytest.mark.parametrize(("runtime", "name"), [(1, "sequential"), (4, "TBB"), (99, "99")])
def test_other_threads_are_an_error(monkeypatch: pytest.MonkeyPatch, runtime: int, name: str) -> None:
    pretend(monkeypatch, 3, runtime)
    with pytest.raises(NetcError, match="other threads") as caught:
        library.load("libdnnl.so")
    assert name in str(caught.value)


def test_a_system_library_that_cannot_be_used_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 2, library.OPENMP)
    assert library.find() is None


def test_without_the_library_is_said_what_would_help(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(library, "places", lambda: iter(()))
    with caplog.at_level(logging.WARNING):
        assert engine_module.open_engine() is None
    assert [f"pip install {library.WHEEL}" in record.getMessage() for record in caplog.records] == [True]
