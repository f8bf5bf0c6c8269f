"""Layers ask no more of `xp` than CuPy has, and those that say nothing else can be recorded on a device."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netc.layer
from netc.backends.cpu import CpuBackend
from netc.backends.form import ReferenceForm
from netc.layer import Buffers
from tests.layer.cupy_rules import CUPY_NAMES, CupyRules, DeviceArray, NotForCupy, on_device
from tests.layer.golden_case import GoldenCase, GoldenRun, all_cases

SOURCES = sorted(Path(netc.layer.__file__).parent.glob("*.py"))
FORK_FOLDER = Path(__file__).parent.parent / "golden" / "fork_layers"
CASES = [*all_cases(), *all_cases(FORK_FOLDER)]


def names_of(source: str, module: str = "xp") -> Iterator[tuple[int, str]]:
    """The line and the dotted path behind `module` of every use of it, as (3, "random.Generator")."""
    tree = ast.parse(source)
    inner = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        parts, at = [], node
        while isinstance(at, ast.Attribute):
            parts.append(at.attr)
            at = at.value  # type: ignore[assignment]
        if isinstance(at, ast.Name) and at.id == module and not parts[-1].startswith("__"):
            yield node.lineno, ".".join(reversed(parts))


def test_names_are_found() -> None:
    source = "def f(xp, np):\n    return xp.random.Generator(xp.abs(np.sqrt(2))).random(xp.lib.a.b)\n"
    assert sorted(names_of(source)) == [(2, "abs"), (2, "lib.a.b"), (2, "random.Generator")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_name_asked_of_xp_is_one_of_cupys(path: Path) -> None:
    used = list(names_of(path.read_text(encoding="utf-8")))
    assert [f"{path.name}:{line}: xp.{name}" for line, name in used if name not in CUPY_NAMES] == []


def test_the_list_of_cupys_names_is_one() -> None:
    assert {
        "zeros",
        "matmul",
        "take_along_axis",
        "random.Generator",
        "lib.stride_tricks.as_strided",
    } <= CUPY_NAMES
    assert not {"errstate", "ma", "char", "random.Philox", "nosuch"} & CUPY_NAMES


class Reference(CpuBackend):
    """A CPU without any fast form."""

    @property
    def forms(self) -> dict[Any, Any]:  # type: ignore[override]
        return {}


def recorded(form: ReferenceForm, run: Callable[..., None], b: Buffers) -> Callable[[], None]:
    """Runs twice, as a recording does: first anything from the host may be brought along, then nothing."""
    fields = ("bottoms", "tops", "params", "saved", "states", "bottom_grads", "top_grads", "param_grads")
    fields = (*fields, "leftovers")

    def both() -> None:
        arrays = [a for f in fields for a in _values(getattr(b, f)) if isinstance(a, np.ndarray)]
        before = [array.copy() for array in arrays]
        device = Buffers(**{field: on_device(getattr(b, field)) for field in fields})
        run(CupyRules(uploads=True), device)
        for array, values in zip(arrays, before, strict=True):
            array[...] = values
        run(CupyRules(), device)

    return both


def _values(arrays: Any) -> list[Any]:
    return list(arrays.values()) if isinstance(arrays, dict) else list(arrays)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.path.parent.name}-{case.path.stem}")
def test_layers_that_can_be_recorded_never_look_at_values(
    case: GoldenCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bound(direction: str) -> Callable[..., Any]:
        plain = getattr(ReferenceForm, direction)

        def bind(form: ReferenceForm, b: Buffers) -> Any:
            run = plain(form, b)
            if run is None or not form.capturable:
                return run
            return recorded(form, getattr(form.node.layer, direction), b)

        return bind

    for direction in ("forward", "backward"):
        monkeypatch.setattr(ReferenceForm, direction, bound(direction))
    GoldenRun(case, tmp_path, backend=Reference()).check()


@pytest.mark.parametrize(
    "work",
    [
        lambda xp, x: float(x.sum()),
        lambda xp, x: bool((x > 0).any()),
        lambda xp, x: int(x[0]),
        lambda xp, x: [1, 2, 3][xp.arange(2)[1]],
        lambda xp, x: x[x > 0],
        lambda xp, x: x.__setitem__(x > 0, x),
        lambda xp, x: x + np.ones(3, np.float32),
        lambda xp, x: x[np.array([0, 1])],
        lambda xp, x: np.concatenate([x, x]),
        lambda xp, x: xp.add(x, x, where=x > 0),
        lambda xp, x: xp.nonzero(x),
        lambda xp, x: xp.asarray(np.ones(2)),
        lambda xp, x: xp.errstate(all="ignore"),
        lambda xp, x: x.max().tolist(),
    ],
)
def test_what_a_recording_cannot_hold_is_refused(work: Callable[..., Any]) -> None:
    with pytest.raises(NotForCupy):
        work(CupyRules(), np.arange(3, dtype=np.float32).view(DeviceArray))


def test_what_cupy_can_do_is_done() -> None:
    xp, x = CupyRules(), np.arange(6, dtype=np.float32).reshape(2, 3).view(DeviceArray)
    x[x > 4] = 0
    xp.multiply(x, x.max() / 2, out=x)
    y = xp.where(x > 2, x[::-1], -1)[xp.arange(2)[:, None], xp.arange(3)]
    assert isinstance(y, DeviceArray)
    assert isinstance(y.sum(), DeviceArray)
    np.testing.assert_array_equal(y.view(np.ndarray), [[-1, -1, 0], [0, 2, -1]])
