"""The sizes of values in each layout, and the layout that suits a net."""

from __future__ import annotations

import pytest

from netc.backends.cpu.layout import best_layout, descriptor_of, elements_of
from netc.backends.form import BLOCKED, NHWC
from tests.cpu.form_case import LAYOUTS, build, engine


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 16, 2, 2), (3, 24, 1, 1), (1, 1, 1, 1)])
def test_values_take_what_onednn_says(layout: str, shape: tuple[int, ...]) -> None:
    opened = engine()
    assert 4 * elements_of(shape, layout, opened.block) == descriptor_of(opened, shape, layout).nbytes


def convolutions(*filters: int) -> str:
    layers = []
    for i, number in enumerate(filters):
        options = f"num_output: {number} kernel_size: 3 pad: 1"
        bottom = f"c{i}" if i else "x0"
        layers.append(
            f'layer {{ name: "c{i + 1}" type: "Convolution" bottom: "{bottom}" top: "c{i + 1}" '
            f"convolution_param {{ {options} }} }}"
        )
    return "\n".join(layers)


@pytest.mark.parametrize(
    ("filters", "block", "layout"),
    [
        ((96, 256, 384), 16, BLOCKED),
        ((20, 50), 16, NHWC),
        ((20, 50), 8, NHWC),
        ((64, 64, 20), 8, BLOCKED),
        ((24, 24), 16, NHWC),
        ((24, 24), 8, BLOCKED),
    ],
)
def test_blocks_that_channels_fill(filters: tuple[int, ...], block: int, layout: str) -> None:
    assert best_layout(build(convolutions(*filters), (1, 3, 16, 16)), block) == layout
