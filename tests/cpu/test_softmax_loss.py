"""SoftmaxWithLoss on oneDNN against the layer's own meaning."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cpu import softmax_loss
from netc.backends.cpu.softmax_loss import LoopForm, make_softmax_loss
from netc.errors import NetcError
from tests.cpu.form_case import PLAIN, Array, FormCase, build


class LossCase(FormCase):
    """Bottom 1 holds labels, the first of them as Caffe would cut it."""

    def __init__(self, layers: str, rows: int, classes: int, labels: Array | None = None) -> None:
        graph = build(layers, (rows, classes), (rows,))
        self.labels = labels
        self.shape = (rows,)
        self.classes = classes
        super().__init__(make_softmax_loss, graph, PLAIN)

    def draw(self, shape: tuple[int, ...], low: float | None = None) -> Array:
        if shape != self.shape:
            return 4 * super().draw(shape, low)
        if self.labels is not None:
            return self.labels
        labels = self.random.integers(0, self.classes, shape).astype(np.float32)
        labels[0] += 0.5
        return labels


def loss(options: str = "", tops: str = 'top: "y"') -> str:
    return f'layer {{ name: "l" type: "SoftmaxWithLoss" bottom: "x0" bottom: "x1" {tops} {options} }}'


@pytest.fixture(autouse=True, params=["loops", "NumPy"])
def after_the_softmax(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the rest is computed with."""
    if request.param == "loops":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(softmax_loss, "compiled", missing)
    return str(request.param)


def missing(module: str, name: str) -> None:
    raise ImportError("No module named 'numba'")


def test_loops_are_taken_where_they_can_be_had(after_the_softmax: str) -> None:
    form = LossCase(loss(), 4, 3).form
    assert isinstance(form, LoopForm) == (after_the_softmax == "loops")


@pytest.mark.parametrize("normalization", ["FULL", "VALID", "BATCH_SIZE", "NONE"])
@pytest.mark.parametrize(("rows", "classes"), [(64, 10), (1, 3), (5, 1), (130, 1000)])
def test_loss_and_gradient(rows: int, classes: int, normalization: str) -> None:
    LossCase(loss(f"loss_param {{ normalization: {normalization} }}"), rows, classes).check()


def test_probabilities_as_a_second_top() -> None:
    LossCase(loss(tops='top: "y" top: "p"'), 6, 4).check()


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_a_score_that_is_no_number_makes_the_loss_none(score: float) -> None:
    """Whether it is the label's or another class's."""
    case = LossCase(loss(), 3, 40, np.array([1, 2, 0], np.float32))
    scores, labels = (case.draw(value.shape) for value in case.form.inputs)
    scores[1, 9] = score
    case.bottoms, case.none_given, case.top_grads = [scores, labels], set(), [np.ones((), np.float32)]
    assert np.isnan(case.run_form(case.form)["top 0"])


@pytest.mark.parametrize("label", [10, -1, 1e9, np.nan])
def test_a_label_that_is_no_class_is_an_error(label: float) -> None:
    case = LossCase(loss(), 4, 10, np.array([1, 2, label, 3], np.float32))
    case.bottoms = [case.draw(value.shape) for value in case.form.inputs]
    case.none_given, case.top_grads = set(), []
    with np.errstate(all="ignore"), pytest.raises(NetcError, match=r"(?s)is not a class.*1 of 4"):
        case.run_form(case.form)


@pytest.mark.parametrize(
    "options", ["loss_param { ignore_label: 1 }", "loss_param { class_weight: [1, 2, 3] }"]
)
def test_labels_that_do_not_count_alike_stay_the_layers(options: str) -> None:
    assert LossCase(loss(options), 4, 3).form is None
