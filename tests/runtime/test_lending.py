"""What is lent out may have changed as long as anybody can write to it, and once more after that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.runtime.lending import Lending
from tests.runtime.test_held_parameters import NET

HOLDS: dict[str, Callable[[np.ndarray], Any]] = {
    "the array": lambda lent: lent,
    "a part": lambda lent: lent[1:, ::2],
    "a part of a part": lambda lent: lent.reshape(-1)[3:].reshape(3, 3).T[0],
    "other types": lambda lent: lent.view(np.uint8),
    "a buffer": memoryview,
    "an array over a buffer": lambda lent: np.asarray(memoryview(lent)),
    "an iterator": lambda lent: lent.flat,
}


@pytest.mark.parametrize("hold", HOLDS.values(), ids=HOLDS)
def test_it_is_noticed_when_nobody_holds_an_array_any_more(hold: Callable[[np.ndarray], Any]) -> None:
    lending = Lending()
    assert not lending.may_have_changed()
    held = hold(lending.lend(np.zeros((3, 4), np.float32)))
    assert [lending.may_have_changed() for _ in range(3)] == [True, True, True]
    del held
    assert [lending.may_have_changed() for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3)])
def test_what_is_written_lies_in_the_array(shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.float32)
    Lending().lend(array)[...] = 2
    assert (array == 2).all()
    turned = np.zeros((2, 3)).T
    Lending().lend(turned)[...] = 1
    assert turned.all()


class Prepared:
    """How often a net brings its parameters into the order of its primitives."""

    def __init__(self, net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
        self._net, self._count = net, 0
        prepare = net.program.prepare

        def counted() -> None:
            self._count += 1
            prepare()

        monkeypatch.setattr(net.program, "prepare", counted)

    def in_passes(self, passes: int) -> int:
        before = self._count
        for _ in range(passes):
            self._net.forward()
        return self._count - before


def test_looking_at_parameters_costs_no_more_than_one_pass(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    net = Net(str(tmp_path / "net.prototxt"), pb.TEST, seed=1, backward=False, keep="outputs")
    prepared = Prepared(net, monkeypatch)
    assert prepared.in_passes(3) == 1
    assert [blob.shape for blob in net.params["a"]] == [(16, 8, 3, 3), (16,)]
    assert prepared.in_passes(3) == 1
    filters = net.params["a"][0].data[0]
    assert prepared.in_passes(3) == 3
    del filters
    assert prepared.in_passes(3) == 1
    assert net.params.keys() == {"a", "bn", "b"}
    assert prepared.in_passes(3) == 0


def test_parameters_that_another_net_uses_may_change_at_any_time(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    net, other = (
        Net(str(tmp_path / "net.prototxt"), pb.TEST, seed=1, backward=False, keep="outputs") for _ in range(2)
    )
    prepared = Prepared(net, monkeypatch)
    assert prepared.in_passes(2) == 1
    other.share_params(net)
    assert prepared.in_passes(2) == 2
