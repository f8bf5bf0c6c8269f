"""The gradient checker: passes a net of many layers, and notices a gradient that is wrong."""

from __future__ import annotations

import pytest

from netc.layer import Buffers
from netc.layer.norm import LRN
from tests.layer.gradient_check import check_gradients

FILLERS = 'weight_filler { type: "gaussian" std: 0.5 } bias_filler { type: "gaussian" }'
NET = f"""
force_backward: true
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 2 dim: 3 dim: 8 dim: 8 }} }} }}
layer {{ name: "label" type: "Input" top: "label" input_param {{ shape {{ dim: 2 }} }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 {FILLERS} }} }}
layer {{ name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }}
layer {{ name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param {{ bias_term: true }} }}
layer {{ name: "lrn" type: "LRN" bottom: "conv" top: "lrn" lrn_param {{ local_size: 3 alpha: 0.5 }} }}
layer {{ name: "pool" type: "Pooling" bottom: "lrn" top: "pool"
  pooling_param {{ kernel_size: 3 stride: 2 }} }}
layer {{ name: "drop" type: "Dropout" bottom: "pool" top: "pool" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
  inner_product_param {{ num_output: 5 {FILLERS} }} }}
layer {{ name: "bias" type: "Bias" bottom: "ip" top: "ip" }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
layer {{ name: "average" type: "Pooling" bottom: "lrn" top: "average"
  pooling_param {{ pool: AVE kernel_size: 3 stride: 2 pad: 1 }} }}
"""


def test_a_net_of_many_layers_passes() -> None:
    check_gradients(NET, {"label": [1, 4]}, fixed=["label"])


def test_a_wrong_gradient_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = LRN.backward

    def wrong(layer: LRN, xp: object, b: Buffers) -> None:
        right(layer, xp, b)  # type: ignore[arg-type]
        b.bottom_grads[0] *= 1.001  # type: ignore[operator]

    monkeypatch.setattr(LRN, "backward", wrong)
    with pytest.raises(AssertionError, match="slope"):
        check_gradients(NET, {"label": [1, 4]}, fixed=["label"])
