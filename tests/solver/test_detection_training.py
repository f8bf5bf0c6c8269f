"""A small SSD learns to find the squares that it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from netc.data.writer import writing_database
from netc.proto import netc_pb2 as pb
from netc.runtime import OutputValue
from netc.solver import Solver
from netc.solver.hooks import Hook

SIDE = 32
BOXES_A_CELL = 2
CLASSES = 3  # the background, bright squares, dark squares
GREY = {1: 200, 2: 10}


def conv(name: str, bottom: str, outputs: int, stride: int = 1) -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{ '
        f"num_output: {outputs} kernel_size: 3 pad: 1 stride: {stride} "
        'weight_filler { type: "xavier" } } }'
    )


def stage(name: str, bottom: str, outputs: int, stride: int = 1) -> str:
    return (
        conv(name, bottom, outputs, stride)
        + f'layer {{ name: "relu_{name}" type: "ReLU" bottom: "{name}" top: "{name}" }}'
    )


def head(name: str, outputs: int) -> str:
    return (
        conv(name, "c3", outputs * BOXES_A_CELL)
        + f'layer {{ name: "{name}_perm" type: "Permute" bottom: "{name}" top: "{name}_perm" '
        "permute_param { order: 0 order: 2 order: 3 order: 1 } }"
        f'layer {{ name: "{name}_flat" type: "Flatten" bottom: "{name}_perm" top: "{name}_flat" }}'
    )


def data(phase: str, transform: str) -> str:
    return (
        f'layer {{ name: "data" type: "AnnotatedData" top: "data" top: "label" include {{ phase: {phase} }} '
        f"transform_param {{ mean_value: 100 scale: 0.02 {transform} }} "
        'data_param { source: "squares" batch_size: 8 } }'
    )


NET = (
    data("TRAIN", "mirror: true")
    + data("TEST", "")
    + stage("c1", "data", 12, stride=2)
    + stage("c2", "c1", 16, stride=2)
    + stage("c3", "c2", 24)
    + head("loc", 4)
    + head("conf", CLASSES)
    + """
layer {
  name: "priors" type: "PriorBox" bottom: "c3" bottom: "data" top: "priors"
  prior_box_param { min_size: 8 max_size: 16 variance: 0.1 variance: 0.1 variance: 0.2 variance: 0.2 }
}
layer {
  name: "loss" type: "MultiBoxLoss" include { phase: TRAIN }
  propagate_down: true propagate_down: true propagate_down: false propagate_down: false
  bottom: "loc_flat" bottom: "conf_flat" bottom: "priors" bottom: "label" top: "loss"
  multibox_loss_param { num_classes: 3 code_type: CENTER_SIZE }
}
layer {
  name: "rows" type: "Reshape" bottom: "conf_flat" top: "rows" include { phase: TEST }
  reshape_param { shape { dim: 0 dim: -1 dim: 3 } }
}
layer {
  name: "prob" type: "Softmax" bottom: "rows" top: "prob" include { phase: TEST } softmax_param { axis: 2 }
}
layer { name: "prob_flat" type: "Flatten" bottom: "prob" top: "prob_flat" include { phase: TEST } }
layer {
  name: "found" type: "DetectionOutput" include { phase: TEST }
  bottom: "loc_flat" bottom: "prob_flat" bottom: "priors" top: "found"
  detection_output_param {
    num_classes: 3 code_type: CENTER_SIZE confidence_threshold: 0.05 keep_top_k: 20
    nms_param { nms_threshold: 0.45 top_k: 50 }
  }
}
layer {
  name: "mAP" type: "DetectionEvaluate" bottom: "found" bottom: "label" top: "mAP" include { phase: TEST }
  detection_evaluate_param { num_classes: 3 }
}
"""
)
SOLVER = """
net: "net.prototxt" type: "Adam" base_lr: 0.002 lr_policy: "fixed" momentum: 0.9 max_iter: 150
test_iter: 8 test_interval: 150 test_initialization: false eval_type: "detection"
random_seed: 2 snapshot_after_train: false solver_mode: CPU
"""


def squares(number: int) -> bytes:
    """An image with one or two squares, and where they are."""
    random = np.random.default_rng(number)
    pixels = random.integers(90, 110, (3, SIDE, SIDE)).astype(np.uint8)
    annotated = pb.AnnotatedDatum(type=pb.AnnotatedDatum.BBOX)
    for instance in range(int(random.integers(1, 3))):
        side, label = int(random.integers(8, 14)), int(random.integers(1, CLASSES))
        left, top = random.integers(0, SIDE - side, 2).tolist()
        pixels[:, top : top + side, left : left + side] = GREY[label]
        item = annotated.annotation_group.add(group_label=label).annotation.add(instance_id=instance)
        item.bbox.xmin, item.bbox.xmax = left / SIDE, (left + side) / SIDE
        item.bbox.ymin, item.bbox.ymax = top / SIDE, (top + side) / SIDE
    annotated.datum.CopyFrom(pb.Datum(channels=3, height=SIDE, width=SIDE, data=pixels.tobytes()))
    return annotated.SerializeToString()


class Watch(Hook):
    """Keeps what the test net says."""

    scores: Sequence[OutputValue] = ()

    def on_test(self, solver: Solver, test_net_index: int, results: Sequence[OutputValue]) -> None:
        self.scores = results


def test_a_small_ssd_learns_to_find_squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with writing_database("squares", "lmdb") as writer:
        for i in range(64):
            writer.put(f"{i:08d}".encode(), squares(i))
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)

    watch = Watch()
    solver = Solver("solver.prototxt")
    solver.hooks.append(watch)
    solver.solve()
    (score,) = watch.scores
    assert score.name == "mAP"
    assert float(score.data) > 0.8
