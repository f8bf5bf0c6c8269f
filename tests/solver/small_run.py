"""A small run with all that a resume must bring back: shuffle, mirror, crop, dropout, test net, loss window.

Its batch of 8 does not divide the 22 images of an epoch, nor does the test net's batch of 5 its 13.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

NET = """
name: "small"
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TRAIN }
  transform_param { mirror: true crop_size: 8 scale: 0.0078125 mean_value: 128 }
  image_data_param { source: "train.txt" batch_size: 8 shuffle: true is_color: false } }
layer { name: "data" type: "ImageData" top: "data" top: "label" include { phase: TEST }
  transform_param { crop_size: 8 scale: 0.0078125 mean_value: 128 }
  image_data_param { source: "test.txt" batch_size: 5 is_color: false } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" dropout_param { dropout_ratio: 0.3 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { phase: TEST } }
"""

SOLVER = """
net: "net.prototxt" type: "{type}" base_lr: 0.02 momentum: {momentum} lr_policy: "multistep" gamma: 0.5
stepvalue: 7 stepvalue: 15 weight_decay: 0.001 iter_size: {iter_size} average_loss: 4
test_iter: 2 test_interval: 3 display: 1 max_iter: {max_iter}
snapshot: {snapshot} snapshot_prefix: "snap" snapshot_format: {snapshot_format} solver_mode: CPU
random_seed: {random_seed}
"""


def make_small_run(folder: Path, **options: object) -> Path:
    """Writes images, lists, net and solver into a folder; returns the solver's path.

    options: type, momentum, iter_size, max_iter, snapshot, snapshot_format, random_seed.
    """
    rng = np.random.default_rng(5)
    for name, count in (("train", 22), ("test", 13)):
        lines = []
        for index in range(count):
            label = index % 3
            image = rng.integers(0, 120, (10, 11), dtype=np.uint8)
            image[2 + 2 * label : 5 + 2 * label] += 100
            cv2.imwrite(str(folder / f"{name}_{index}.png"), image)
            lines.append(f"{name}_{index}.png {label}\n")
        (folder / f"{name}.txt").write_text("".join(lines))
    (folder / "net.prototxt").write_text(NET)
    values = {
        "type": "SGD",
        "momentum": 0.9,
        "iter_size": 1,
        "max_iter": 20,
        "snapshot": 5,
        "snapshot_format": "BINARYPROTO",
        "random_seed": 11,
        **options,
    }
    solver = folder / "solver.prototxt"
    solver.write_text(SOLVER.format(**values))
    return solver
