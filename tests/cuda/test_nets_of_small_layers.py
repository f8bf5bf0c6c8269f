"""Whole nets of the layers that move and combine values agree with the CPU, fused, recorded and replayed."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format

from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.emulator import EmulatedDevice
from netc.proto import netc_pb2 as pb
from netc.runtime.net import Net
from tests.cuda.one_chain import drawn

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

INPUT = """
layer { name: "data" type: "Input" top: "data" top: "label" top: "cont"
  input_param { shape { dim: 6 dim: 4 dim: 5 dim: 4 } shape { dim: 6 } shape { dim: 3 dim: 2 } } }
"""
FILLED = 'weight_filler { type: "gaussian" std: 0.3 }'
LOSS = """
layer { name: "score" type: "InnerProduct" bottom: "features" top: "score"
  inner_product_param { num_output: 5 FILLED } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
"""
IMAGES = """
layer { name: "scale" type: "Scale" bottom: "data" top: "scaled" scale_param { bias_term: true
  filler { type: "gaussian" std: 1 } } }
layer { name: "prelu" type: "PReLU" bottom: "scaled" top: "scaled" }
layer { name: "slice" type: "Slice" bottom: "scaled" top: "a" top: "b" slice_param { slice_point: 2 } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum"
  eltwise_param { coeff: 1 coeff: -0.5 } }
layer { name: "relu" type: "ReLU" bottom: "sum" top: "sum" relu_param { negative_slope: 0.1 } }
layer { name: "again" type: "Eltwise" bottom: "sum" bottom: "a" top: "product"
  eltwise_param { operation: PROD } }
layer { name: "most" type: "Eltwise" bottom: "sum" bottom: "b" top: "most" eltwise_param { operation: MAX } }
layer { name: "swish" type: "Swish" bottom: "most" top: "most" }
layer { name: "joined" type: "Concat" bottom: "product" bottom: "most" bottom: "sum" top: "joined" }
layer { name: "shuffled" type: "ShuffleChannel" bottom: "joined" top: "shuffled"
  shuffle_channel_param { group: 3 } }
layer { name: "turned" type: "Permute" bottom: "shuffled" top: "turned"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "bias" type: "Bias" bottom: "turned" top: "turned" bias_param { axis: -1 } }
layer { name: "dense" type: "InnerProduct" bottom: "turned" top: "dense"
  inner_product_param { num_output: 7 FILLED bias_filler { type: "constant" value: 0.1 } } }
layer { name: "rectified" type: "ReLU" bottom: "dense" top: "features" }
layer { name: "size" type: "Reduction" bottom: "features" top: "size" loss_weight: 0.01
  reduction_param { operation: SUMSQ } }
"""
SEQUENCES = """
layer { name: "sequence" type: "Reshape" bottom: "data" top: "sequence"
  reshape_param { shape { dim: 3 dim: 2 dim: -1 } } }
layer { name: "numbers" type: "Embed" bottom: "label" top: "numbers"
  embed_param { num_output: 8 input_dim: 5 FILLED } }
layer { name: "embedded" type: "Reshape" bottom: "numbers" top: "embedded"
  reshape_param { shape { dim: 3 dim: 2 dim: -1 } } }
layer { name: "inputs" type: "Concat" bottom: "sequence" bottom: "embedded" top: "inputs"
  concat_param { axis: 2 } }
layer { name: "lstm" type: "LSTM" bottom: "inputs" bottom: "cont" top: "h"
  recurrent_param { num_output: 6 FILLED } }
layer { name: "rnn" type: "RNN" bottom: "h" bottom: "cont" top: "y" recurrent_param { num_output: 4 FILLED } }
layer { name: "features" type: "Reshape" bottom: "y" top: "features"
  reshape_param { shape { dim: 6 dim: -1 } } }
"""


def passes(net: Net, count: int) -> list[np.ndarray]:
    """The losses and the last gradients of several passes over different inputs."""
    results = []
    for step in range(count):
        net.blobs["data"].data[...] = drawn(6, 4, 5, 4, seed=step)
        net.blobs["label"].data[...] = np.random.default_rng(step).integers(0, 5, 6)
        net.blobs["cont"].data[...] = np.random.default_rng(step).random((3, 2)) > 0.3
        net.clear_param_diffs()
        results.append(np.float32(net.forward()))
        net.backward()
    return results + [np.array(blob.diff) for blobs in net.params.values() for blob in blobs]


@pytest.mark.parametrize("layers", [IMAGES, SEQUENCES], ids=["images", "sequences"])
@pytest.mark.parametrize("keep", ["all", "outputs"])
def test_nets_agree_with_the_cpu(fast: EmulatedDevice, layers: str, keep: str) -> None:
    definition = text_format.Parse((INPUT + layers + LOSS).replace("FILLED", FILLED), pb.NetParameter())
    options = {"phase": pb.TRAIN, "keep": keep, "seed": 3, "poison": keep == "outputs"}
    wanted = passes(Net(definition, **options), 3)
    got = passes(Net(definition, backend=CudaBackend(fast), **options), 3)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * max(1e-3, np.abs(other).max()))
