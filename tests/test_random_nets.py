"""Nets put together at random: fused, in shared memory and in single precision, they learn what the layers'
plain meaning in double precision does."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.net import parse_net

SEEDS = (*range(20), 152)  # 152: a 1x1 convolution with a stride on few channels
PASSES = 2
FILLER = 'weight_filler { type: "msra" }'
TAIL = 4e-6  # of the largest gradient of a net: how far single precision may take a small one
Gradients = dict[tuple[object, int], np.ndarray]

ACTIVATIONS = (
    *("ReLU", "ReLU", "PReLU", "ELU", "Sigmoid", "TanH", "BNLL", "Swish", "Dropout"),
    "ReLU relu_param { negative_slope: 0.1 }",
    "Clip clip_param { min: -1 max: 1 }",
)
APART = ("Clip", "BNLL", "Swish")  # in place Caffe's gradients of these are others than the function's
JOINTS = ("", "coeff: 1 coeff: -0.5", "operation: MAX", "operation: PROD")


class RandomNet:
    """The prototxt of a net that a seed stands for: a trunk of random blocks with losses on the way."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.images = self.random.choice((1, 2, 3, 5))
        channels, size = self.random.choice((1, 3, 4, 6, 8)), self.random.choice((5, 8, 11, 16))
        self.shapes = {"data": (channels, size)}
        self.inputs = {"data": (self.images, channels, size, size), "label": (self.images,)}
        self.inputs["target"] = (self.images, 3)
        self.layers: list[str] = []
        for name, shape in self.inputs.items():
            dims = " ".join(f"dim: {size}" for size in shape)
            self.add("Input", [], f"input_param {{ shape {{ {dims} }} }}", top=name)
        blocks = (self.conv_block, self.conv_block, self.pool, self.residual, self.branches, self.lrn)
        blob = "data"
        for number in range(self.random.randint(2, 6)):
            block: Callable[[str], str] = self.random.choice(blocks)
            blob = block(blob)
            if self.random.random() < 0.3:
                scores = self.add("InnerProduct", [blob], f"inner_product_param {{ num_output: 3 {FILLER} }}")
                self.add("EuclideanLoss", [scores, "target"], "loss_weight: 0.3", top=f"aux{number}")
        hidden = self.add("InnerProduct", [blob], f"inner_product_param {{ num_output: 12 {FILLER} }}")
        self.add("ReLU", [hidden], top=hidden)
        scores = self.add("InnerProduct", [hidden], f"inner_product_param {{ num_output: 5 {FILLER} }}")
        self.add("SoftmaxWithLoss", [scores, "label"])
        self.text = "\n".join(self.layers)

    def add(self, type_: str, bottoms: list[str], options: str = "", top: str = "") -> str:
        name = f"l{len(self.layers)}"
        wiring = " ".join(f'bottom: "{bottom}"' for bottom in bottoms) + f' top: "{top or name}"'
        self.layers.append(f'layer {{ name: "{name}" type: "{type_}" {wiring} {options} }}')
        if bottoms and bottoms[0] in self.shapes:
            self.shapes[top or name] = self.shapes[bottoms[0]]
        return top or name

    def chance(self, of: float) -> bool:
        return self.random.random() < of

    def conv(self, blob: str, kernel: int, stride: int = 1, outputs: int = 0) -> str:
        channels, size = self.shapes[blob]
        outputs = outputs or self.random.choice((1, 4, 6, 8, 16))
        group = 2 if channels % 2 == outputs % 2 == 0 and self.chance(0.2) else 1
        bias = self.random.choice(("true", "false"))
        frozen = "param { lr_mult: 0 }" if self.chance(0.1) else ""
        top = self.add(
            "Convolution",
            [blob],
            f"{frozen} convolution_param {{ num_output: {outputs} kernel_size: {kernel} pad: {kernel // 2} "
            f"stride: {stride} group: {group} bias_term: {bias} {FILLER} }}",
        )
        self.shapes[top] = (outputs, (size + 2 * (kernel // 2) - kernel) // stride + 1)
        return top

    def activation(self, blob: str) -> str:
        type_, _, options = self.random.choice(ACTIVATIONS).partition(" ")
        in_place = type_ not in APART and self.chance(0.7)
        return self.add(type_, [blob], options, top=blob if in_place else "")

    def norm(self, blob: str) -> str:
        blob = self.add("BatchNorm", [blob], top=blob if self.chance(0.6) else "")
        options = 'scale_param { bias_term: true filler { type: "constant" value: 1 } }'
        return self.add("Scale", [blob], options, top=blob if self.chance(0.6) else "")

    def conv_block(self, blob: str) -> str:
        stride = self.random.choice((1, 1, 2)) if self.shapes[blob][1] > 4 else 1
        blob = self.conv(blob, self.random.choice((1, 3, 3, 5)), stride)
        blob = self.norm(blob) if self.chance(0.4) else blob
        return self.activation(blob) if self.chance(0.7) else blob

    def pool(self, blob: str) -> str:
        channels, size = self.shapes[blob]
        if size < 4:
            return self.conv_block(blob)
        top = self.add(
            "Pooling",
            [blob],
            f"pooling_param {{ pool: {self.random.choice(('MAX', 'AVE'))} kernel_size: 2 stride: 2 }}",
        )
        self.shapes[top] = (channels, -(-size // 2))
        return top

    def residual(self, blob: str) -> str:
        channels = self.shapes[blob][0]
        inner = self.conv(blob, 3, outputs=channels)
        inner = self.norm(inner) if self.chance(0.5) else self.activation(inner)
        other = blob if self.chance(0.6) else self.conv(blob, 1, outputs=channels)
        bottoms = [inner, other] if self.chance(0.5) else [other, inner]
        joined = self.add("Eltwise", bottoms, f"eltwise_param {{ {self.random.choice(JOINTS)} }}")
        return self.activation(joined) if self.chance(0.6) else joined

    def branches(self, blob: str) -> str:
        ends = [self.activation(self.conv(blob, kernel)) for kernel in self.random.sample((1, 3, 5), 2)]
        ends += [blob] if self.chance(0.3) else []
        top = self.add("Concat", ends)
        self.shapes[top] = (sum(self.shapes[end][0] for end in ends), self.shapes[blob][1])
        return top

    def lrn(self, blob: str) -> str:
        region = self.random.choice(("ACROSS_CHANNELS", "WITHIN_CHANNEL"))
        return self.add("LRN", [blob], f"lrn_param {{ local_size: 3 alpha: 0.1 norm_region: {region} }}")


def learn(drawn: RandomNet, seed: int, dtype: type, keep: str) -> tuple[list[float], Gradients]:
    """The losses of some passes over random batches, and the gradients of the last."""
    net = Net(parse_net(drawn.text).message, pb.TRAIN, seed=seed, dtype=dtype, keep=keep, fresh=True)
    numbers = np.random.default_rng(seed)
    params = net.params
    for blobs in params.values():
        for blob in blobs:
            fan = max(1, int(np.prod(blob.shape[1:])))
            blob.data[...] = numbers.normal(size=blob.shape) * (2 / fan) ** 0.5 if fan > 1 else 0.5
    losses = []
    for _ in range(PASSES):
        net.blobs["data"].data[...] = numbers.normal(size=drawn.inputs["data"])
        net.blobs["label"].data[...] = numbers.integers(5, size=drawn.images)
        net.blobs["target"].data[...] = numbers.normal(size=drawn.inputs["target"])
        net.clear_param_diffs()
        losses.append(net.forward_backward())
    gradients: Gradients = {
        (name, i): np.array(blob.diff, np.float64) for name in params for i, blob in enumerate(params[name])
    }
    net.close()
    return losses, gradients


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_net_learns_what_its_layers_mean(seed: int) -> None:
    drawn = RandomNet(seed)
    expected_losses, expected = learn(drawn, seed, np.float64, "all")
    losses, found = learn(drawn, seed, np.float32, "outputs")
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    largest = max(float(np.abs(gradient).max()) for gradient in expected.values())
    for key, gradient in expected.items():
        error = np.linalg.norm(found[key] - gradient)
        tail = TAIL * largest * gradient.size**0.5
        assert error <= 2e-3 * np.linalg.norm(gradient) + tail, f"{key} is off by {error:g} in\n{drawn.text}"
