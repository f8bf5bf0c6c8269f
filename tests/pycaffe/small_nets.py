"""Nets small enough to be worked out by hand, or to train in a moment."""

from __future__ import annotations

from pathlib import Path

CONV_NET = """
name: "small"
force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" }
    bias_filler { type: "constant" value: 0.1 } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss"
  include { phase: TRAIN } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include { stage: "judge" } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" include { phase: TEST not_stage: "judge" } }
"""

# y = 2 x + 1, item by item; loss = 3 * sum of y.
LINE = """
name: "line" force_backward: true
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "y" type: "Power" bottom: "x" top: "y" power_param { scale: 2 shift: 1 } }
"""


def write_net(folder: Path, text: str = CONV_NET, name: str = "net.prototxt") -> str:
    """The path of a prototxt with this text."""
    path = folder / name
    path.write_text(text)
    return str(path)
