"""The layout of a net's program is the faster one, asked for once."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format

from netc.backends.cpu import CpuBackend
from netc.backends.form import BLOCKED, NHWC
from netc.proto import netc_pb2 as pb
from netc.runtime import Net, layout_choice
from netc.runtime.demand import Demand
from netc.runtime.program import Program

pytestmark = pytest.mark.skipif(not CpuBackend().forms, reason="oneDNN is not installed: one layout only")

NET = """
layer { name: "data" type: "DummyData" top: "data"
        dummy_data_param { shape { dim: 2 dim: 16 dim: 32 dim: 32 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a"
        convolution_param { num_output: 16 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "b" type: "Convolution" bottom: "a" top: "b"
        convolution_param { num_output: 2 kernel_size: 3 } }
layer { name: "mean" type: "Reduction" bottom: "b" top: "mean" loss_weight: 1 }
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The layouts whose time was taken; blocked always comes out as the faster one."""
    monkeypatch.setenv("NETC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(layout_choice, "LEAST_FLOPS", 1000)
    seen: list[str] = []

    def time(program: Program, demand: Demand) -> float:
        seen.append(layout_of(program))
        return {NHWC: 2.0, BLOCKED: 1.0}[seen[-1]]

    monkeypatch.setattr(layout_choice, "_time", time)
    return seen


def layout_of(program: Program) -> str:
    return next(value.layout for value in program.graph.values() if value.name == "a")


def make(text: str = NET, **options: object) -> Net:
    definition = text_format.Parse(text, pb.NetParameter())
    return Net(definition, pb.TRAIN, seed=1, keep="outputs", **options)  # type: ignore[arg-type]


def test_the_faster_layout_is_taken_and_remembered(asked: list[str]) -> None:
    assert layout_of(make().program) == BLOCKED
    assert asked == [NHWC, BLOCKED]
    assert layout_of(make().program) == BLOCKED
    assert len(asked) == 2


def test_another_net_is_asked_anew(asked: list[str]) -> None:
    make()
    make(NET.replace("num_output: 2", "num_output: 3"))
    assert len(asked) == 4


def test_measuring_leaves_the_net_as_it_was(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    compared = make()
    monkeypatch.setattr(layout_choice, "LEAST_FLOPS", 1 << 60)
    alone = make(NET.replace("num_output: 2", "num_output: 2 "))
    assert (compared.parameters.data == alone.parameters.data).all()
    assert not compared.parameters.grad.any()


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (NET, {"backend": CpuBackend(deterministic=True)}),
        (NET + 'layer { name: "out" type: "HDF5Output" bottom: "mean" bottom: "mean" }', {}),
    ],
    ids=["deterministic", "a layer that writes a file"],
)
def test_the_first_layout_is_taken_where_nothing_may_be_tried(
    asked: list[str], text: str, options: dict[str, object], tmp_path: Path
) -> None:
    text = text.replace(
        'type: "HDF5Output"', f'type: "HDF5Output" hdf5_output_param {{ file_name: "{tmp_path}/a.h5" }}'
    )
    assert layout_of(make(text, **options).program) == NHWC
    assert not asked


def test_a_small_net_takes_the_first(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_choice, "LEAST_FLOPS", 1 << 60)
    assert layout_of(make().program) == NHWC
    assert not asked


def test_a_damaged_answer_is_asked_for_again(asked: list[str], tmp_path: Path) -> None:
    make()
    (remembered,) = (tmp_path / "layouts").iterdir()
    remembered.write_text("{")
    assert layout_of(make().program) == BLOCKED
    assert len(asked) == 4


SHARED = """
layer { name: "data" type: "DummyData" top: "data"
        dummy_data_param { shape { dim: 2 dim: 16 dim: 6 dim: 6 } data_filler { value: 1 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a"
        convolution_param { num_output: 16 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "dense" type: "InnerProduct" bottom: "a" top: "dense" loss_weight: 1
        inner_product_param { num_output: 1 weight_filler { type: "xavier" } } }
"""


def test_parameters_that_are_shared_later_find_every_layout_in_place() -> None:
    lender, sharing = (
        Net(text_format.Parse(SHARED, pb.NetParameter()), pb.TRAIN, seed=seed, keep="outputs")
        for seed in (1, 2)
    )
    assert sharing.forward() != lender.forward()
    sharing.share_params(lender)
    assert any(form.node.type == "Reorder" for form in sharing.program.forms)
    assert sharing.forward() == lender.forward()
