"""Accuracy's loop against the layer's own meaning."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cpu.accuracy import make_accuracy
from netc.errors import NetcError
from tests.cpu.form_case import PLAIN, Array, FormCase, build

pytest.importorskip("numba")


class AccuracyCase(FormCase):
    """Scores of few different values, so that some are equal; bottom 1 holds labels."""

    def __init__(self, options: str, rows: int, classes: int, tops: str = 'top: "y"') -> None:
        layer = f'name: "a" type: "Accuracy" bottom: "x0" bottom: "x1" {tops} {options}'
        graph = build(f"layer {{ {layer} }}", (rows, classes), (rows,))
        self.shape, self.classes = (rows,), classes
        super().__init__(make_accuracy, graph, PLAIN, backward=False)

    def draw(self, shape: tuple[int, ...], low: float | None = None) -> Array:
        if shape == self.shape:
            return self.random.integers(0, self.classes, shape).astype(np.float32)
        return self.random.integers(0, 5, shape).astype(np.float32)


@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize(("rows", "classes"), [(64, 10), (7, 3), (1, 40)])
def test_share_of_labels_among_the_best(rows: int, classes: int, top_k: int) -> None:
    AccuracyCase(f"accuracy_param {{ top_k: {top_k} }}", rows, classes).check()


@pytest.mark.parametrize("label", [10, -1, np.nan])
def test_a_label_that_is_no_class_is_an_error(label: float) -> None:
    case = AccuracyCase("", 4, 10)
    case.bottoms = [case.draw(value.shape) for value in case.form.inputs]
    case.bottoms[1][2] = label
    with pytest.raises(NetcError, match="is not a class"):
        case.run_form(case.form)


def test_what_is_ignored_or_told_class_by_class_stays_the_layers() -> None:
    assert AccuracyCase("accuracy_param { ignore_label: 1 }", 4, 3).form is None
    assert AccuracyCase("", 4, 3, 'top: "y" top: "z"').form is None
