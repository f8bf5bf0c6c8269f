"""The single layers of the GPU's benchmark: convolutions, beside PyTorch's, and layers that memory bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

DIRECTIONS: Final = ("forward", "backward_data", "backward_weights")


@dataclass(frozen=True)
class ConvolutionRow:
    """A convolution of square images and kernels, without bias: N images of C x H x H, K kernels R x R."""

    name: str
    n: int
    c: int
    h: int
    k: int
    r: int
    stride: int = 1
    pad: int = 0
    group: int = 1

    @property
    def output(self) -> int:
        """P: the height of the output."""
        return (self.h + 2 * self.pad - self.r) // self.stride + 1

    @property
    def flops(self) -> int:
        """Floating-point operations of any of the three directions."""
        return 2 * self.n * self.k * self.output**2 * (self.c // self.group) * self.r**2

    @property
    def bottom(self) -> tuple[int, int, int, int]:
        return (self.n, self.c, self.h, self.h)

    def text(self, direction: str) -> str:
        """The net of this layer in which only the direction's gradient is wanted."""
        window = f"kernel_size: {self.r} stride: {self.stride} pad: {self.pad}"
        options = f"num_output: {self.k} {window} group: {self.group} bias_term: false"
        return net_text(
            (self.bottom,),
            "Convolution",
            f"param {{ lr_mult: {int(direction == 'backward_weights')} }} "
            f'convolution_param {{ {options} weight_filler {{ type: "msra" }} }}',
            direction,
        )


@dataclass(frozen=True)
class MemoryRow:
    """A layer whose time is that of its traffic: its type, the shapes of its bottoms, its options."""

    name: str
    type: str
    bottoms: tuple[tuple[int, ...], ...]
    options: str = ""

    def text(self, direction: str) -> str:
        """The net of this layer; for "backward" with gradients of its bottoms."""
        return net_text(self.bottoms, self.type, self.options, direction)


def net_text(bottoms: Sequence[Sequence[int]], kind: str, options: str, direction: str) -> str:
    """The net of one layer called "layer", its bottoms of these shapes and random, its top called "top".

    Backward, the top counts as a loss. Where the bottoms' gradients are wanted, a layer that learns lies in
    between: `force_backward` would want those of the parameters as well.
    """
    lines = []
    names = []
    for i, shape in enumerate(bottoms):
        dims = " ".join(f"dim: {size}" for size in shape)
        shape_given = f"input_param {{ shape {{ {dims} }} }}"
        lines.append(f'layer {{ name: "data{i}" type: "Input" top: "data{i}" {shape_given} }}')
        names.append(f"data{i}")
        if direction in ("backward", "backward_data"):
            lines.append(f'layer {{ name: "learns{i}" type: "Bias" bottom: "data{i}" top: "bottom{i}" }}')
            names[-1] = f"bottom{i}"
    reads = " ".join(f'bottom: "{name}"' for name in names)
    counts = "" if direction == "forward" else "loss_weight: 1"
    lines.append(f'layer {{ name: "layer" type: "{kind}" {reads} top: "top" {counts} {options} }}')
    return "\n".join(lines)


CONVOLUTIONS: Final[tuple[ConvolutionRow, ...]] = (
    ConvolutionRow("alexnet conv1", 128, 3, 227, 96, 11, stride=4),
    ConvolutionRow("alexnet conv2", 128, 96, 27, 256, 5, pad=2, group=2),
    ConvolutionRow("alexnet conv3", 128, 256, 13, 384, 3, pad=1),
    ConvolutionRow("alexnet conv4", 128, 384, 13, 384, 3, pad=1, group=2),
    ConvolutionRow("alexnet conv5", 128, 384, 13, 256, 3, pad=1, group=2),
    ConvolutionRow("vgg conv1_1", 64, 3, 224, 64, 3, pad=1),
    ConvolutionRow("vgg conv1_2", 64, 64, 224, 64, 3, pad=1),
    ConvolutionRow("vgg conv2_1", 64, 64, 112, 128, 3, pad=1),
    ConvolutionRow("vgg conv2_2", 64, 128, 112, 128, 3, pad=1),
    ConvolutionRow("vgg conv3_2", 64, 256, 56, 256, 3, pad=1),
    ConvolutionRow("vgg conv4_2", 64, 512, 28, 512, 3, pad=1),
    ConvolutionRow("vgg conv5_2", 64, 512, 14, 512, 3, pad=1),
    ConvolutionRow("resnet conv1", 64, 3, 224, 64, 7, stride=2, pad=3),
    ConvolutionRow("resnet 2b 1x1", 64, 256, 56, 64, 1),
    ConvolutionRow("resnet 2b 3x3", 64, 64, 56, 64, 3, pad=1),
    ConvolutionRow("resnet 2b 1x1 up", 64, 64, 56, 256, 1),
    ConvolutionRow("resnet 3a 1x1 /2", 64, 256, 56, 512, 1, stride=2),
    ConvolutionRow("resnet 3b 3x3", 64, 128, 28, 128, 3, pad=1),
    ConvolutionRow("resnet 4b 1x1", 64, 1024, 14, 256, 1),
    ConvolutionRow("resnet 4b 3x3", 64, 256, 14, 256, 3, pad=1),
    ConvolutionRow("resnet 5b 3x3", 64, 512, 7, 512, 3, pad=1),
    ConvolutionRow("resnet 5b 1x1 up", 64, 512, 7, 2048, 1),
    ConvolutionRow("mobilenet 2_1 dw", 64, 32, 112, 32, 3, pad=1, group=32),
    ConvolutionRow("mobilenet 2_2 dw /2", 64, 64, 112, 64, 3, stride=2, pad=1, group=64),
    ConvolutionRow("mobilenet 5_1 dw", 64, 512, 14, 512, 3, pad=1, group=512),
)

_WIDE = (64, 64, 112, 112)
_MIDDLE = (128, 256, 27, 27)


MEMORY_BOUND: Final[tuple[MemoryRow, ...]] = (
    MemoryRow("relu", "ReLU", (_WIDE,)),
    MemoryRow("max pooling 3x3 /2", "Pooling", (_WIDE,), "pooling_param { kernel_size: 3 stride: 2 }"),
    MemoryRow(
        "average pooling 3x3 /2", "Pooling", (_WIDE,), "pooling_param { pool: AVE kernel_size: 3 stride: 2 }"
    ),
    MemoryRow(
        "global average pooling",
        "Pooling",
        ((128, 2048, 7, 7),),
        "pooling_param { pool: AVE global_pooling: true }",
    ),
    MemoryRow("lrn", "LRN", (_MIDDLE,)),
    MemoryRow("batch norm", "BatchNorm", (_WIDE,)),
    MemoryRow("scale", "Scale", (_WIDE,), "scale_param { bias_term: true }"),
    MemoryRow("dropout", "Dropout", (_WIDE,)),
    MemoryRow("sum of two", "Eltwise", (_WIDE, _WIDE)),
    MemoryRow("concat of two", "Concat", (_WIDE, _WIDE)),
    MemoryRow("softmax", "Softmax", ((4096, 1000),)),
)
