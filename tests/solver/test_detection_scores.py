"""Test nets that find boxes are scored by mean average precision."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text
from netc.solver.detection_scores import DetectionScores, average_precision
from netc.solver.scores import mean_scores

# Found in the order right, wrong, right, wrong of 4 true boxes: precisions 1, 1/2, 2/3, 1/2.
FOUND = np.array([[0.6, 0, 1], [0.9, 1, 0], [0.8, 0, 1], [0.7, 1, 0]])


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("Integral", (1 + 2 / 3) / 4),
        ("MaxIntegral", (1 + 2 / 3) / 4),
        ("11point", (3 * 1 + 3 * 2 / 3) / 11),  # recalls 0, 0.1, 0.2, then 0.3, 0.4, 0.5
    ],
)
def test_average_precision_of_a_worked_example(version: str, expected: float) -> None:
    assert average_precision(FOUND, 4, version) == pytest.approx(expected)


def test_the_best_precision_at_a_recall_or_more_counts_where_asked() -> None:
    found = np.array([[0.9, 0, 1], [0.8, 1, 0], [0.7, 1, 0]])  # precisions 0, 1/2, 2/3
    assert average_precision(found, 2, "Integral") == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert average_precision(found, 2, "MaxIntegral") == pytest.approx(2 / 3)


def test_nothing_found_or_nothing_to_be_found_is_zero() -> None:
    assert average_precision(np.zeros((0, 3)), 3) == 0
    assert average_precision(FOUND, 0) == 0


def test_an_unknown_version_is_named() -> None:
    with pytest.raises(NetcError, match="unknown ap_version"):
        average_precision(FOUND, 4, "VOC")


def test_batches_are_gathered_and_classes_averaged() -> None:
    scores = DetectionScores()
    scores.add(np.array([[-1, 1, 1, -1, -1], [-1, 2, 1, -1, -1], [0, 1, 0.9, 1, 0], [0, 1, 0.95, 0, 0]]))
    scores.add(np.array([[-1, 1, 1, -1, -1], [-1, 2, 0, -1, -1], [0, 1, 0.5, 0, 1], [0, 1, 0.3, 1, 0]]))
    assert scores.by_class("Integral") == {1: pytest.approx((1 + 2 / 3) / 2), 2: 0}
    assert scores.mean("Integral") == pytest.approx((1 + 2 / 3) / 4)


NET = """
layer { name: "found" type: "Input" top: "found" input_param { shape { dim: 1 dim: 1 dim: 2 dim: 7 } } }
layer { name: "truth" type: "Input" top: "truth" input_param { shape { dim: 1 dim: 1 dim: 1 dim: 8 } } }
layer {
  name: "eval" type: "DetectionEvaluate" bottom: "found" bottom: "truth" top: "eval"
  detection_evaluate_param { num_classes: 2 }
}
"""


def test_a_test_net_of_changing_detections_gives_one_score(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = Net(parse_text(NET, pb.NetParameter).message, pb.TEST)
    net.blobs["truth"].data[0, 0, 0] = [0, 1, 0, 0, 0, 0.5, 0.5, 0]
    batches = iter([(1, -1), (1, 1)])  # classes of the two boxes that are found

    def next_batch() -> bool:
        for row, label in enumerate(next(batches)):
            net.blobs["found"].data[0, 0, row] = [0, label, 0.9 - 0.1 * row, 0, 0, 0.5, 0.5]
        return False

    with caplog.at_level(logging.INFO, "netc"):
        scores = mean_scores(net, 2, next_batch, per_class=True)
    assert scores is not None
    (output,) = scores.outputs
    # Right, right and wrong, of 2 true boxes.
    assert (output.name, float(output.data)) == ("eval", pytest.approx(1))
    assert "class1: 1" in caplog.text
