"""What a convolution on the device is: its sizes, and what a family of kernels offers for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from netc.backends.cuda.device import Device
from netc.backends.cuda.memory import Memory
from netc.backends.form import Run
from netc.layer.base import Shape
from netc.layer.window import Window

Pair = tuple[int, int]  # (along H, along W)

MOST_CELLS = 2**31 - 1024
MOST_WEIGHTS = 1 << 27  # padded they may become 16 times as many
MOST_REACH = 1 << 15  # cells from one end of a kernel to the other, and of a pad
MOST_BLOCKS = 65535  # along the second and third axis of a grid


@dataclass(frozen=True)
class ConvShape:
    """A cross-correlation of x (N, C, H, W) with filters w (K, C / group, R, S) to y (N, K, P, Q).

    The cell h = p stride + r dilation - pad of x meets the cell p of y; cells of x outside it are zeros. A
    deconvolution is the backward pass to x of the convolution that this says, run forward: its bottom is y,
    its top x.
    """

    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    p: int
    q: int
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    dilation: Pair = (1, 1)
    group: int = 1

    @classmethod
    def of(cls, window: Window, x: Shape, y: Shape, group: int) -> ConvShape:
        """From a layer's two-axes window and the shapes of the large (x) and the small (y) side."""
        (n, c, h, w), (_, k, p, q), (r, s) = x, y, window.kernel
        stride, pad, dilation = ((at[0], at[1]) for at in (window.stride, window.pad, window.dilation))
        return cls(n, c, h, w, k, r, s, p, q, stride, pad, dilation, group)

    @property
    def group_c(self) -> int:
        """Channels of x in a group."""
        return self.c // self.group

    @property
    def group_k(self) -> int:
        """Filters of a group."""
        return self.k // self.group

    @property
    def taps(self) -> int:
        return self.r * self.s

    @property
    def x_count(self) -> int:
        return self.n * self.c * self.h * self.w

    @property
    def y_count(self) -> int:
        return self.n * self.k * self.p * self.q

    @property
    def weight_count(self) -> int:
        return self.k * self.group_c * self.taps

    @property
    def is_pointwise(self) -> bool:
        """Whether an image, as it lies, is the matrix that the filters are multiplied with."""
        return self.taps == 1 and self.stride == (1, 1) and self.pad == (0, 0)

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel has one filter, and every filter one channel."""
        return self.group == self.c == self.k

    @property
    def flops(self) -> int:
        """Of one direction: a multiplication and an addition for each weight and cell of y."""
        return 2 * self.y_count * self.group_c * self.taps

    @property
    def fits(self) -> bool:
        """Whether cells of all images, elements of one image and padded weights can be counted in 32 bits,
        and the rest is within the limits of a launch."""
        cells = max(self.n * self.h * self.w, self.n * self.p * self.q)
        image = max(self.c * self.h * self.w, self.k * self.p * self.q)
        reach = max(self.dilation[0] * self.r, self.dilation[1] * self.s, *self.pad)
        classes = self.stride[0] * self.stride[1]
        return (
            0 < cells <= MOST_CELLS
            and 0 < image <= MOST_CELLS
            and self.weight_count <= MOST_WEIGHTS
            and reach < MOST_REACH
            and max(self.group, classes) <= MOST_BLOCKS
        )


class Forward(Protocol):
    """Binds y = relu(w * x + bias). slope: the ReLU's negative slope, 1 for none; bias may be None."""

    def __call__(
        self,
        device: Device,
        shape: ConvShape,
        x: Memory,
        w: Memory,
        y: Memory,
        bias: Memory | None = None,
        slope: float = 1.0,
        workspace: Memory | None = None,
    ) -> Run: ...


class BackwardData(Protocol):
    """Binds dx = relu(w turned * dy + bias); a deconvolution's forward has a bias and perhaps a ReLU."""

    def __call__(
        self,
        device: Device,
        shape: ConvShape,
        dy: Memory,
        w: Memory,
        dx: Memory,
        bias: Memory | None = None,
        slope: float = 1.0,
        workspace: Memory | None = None,
    ) -> Run: ...


class BackwardWeights(Protocol):
    """Binds dw += dy * x, in the same order of additions every time."""

    def __call__(
        self,
        device: Device,
        shape: ConvShape,
        x: Memory,
        dy: Memory,
        dw: Memory,
        workspace: Memory | None = None,
    ) -> Run: ...


class WorkspaceFloats(Protocol):
    """How many floats of workspace a direction needs; 0 for none (then it is given None)."""

    def __call__(self, device: Device, shape: ConvShape) -> int: ...


@dataclass(frozen=True)
class ConvKernels:
    """One family's convolution. Each function decides all when it is called, and returns what to run."""

    variant: str
    forward: Forward
    backward_data: BackwardData
    backward_weights: BackwardWeights
    forward_floats: WorkspaceFloats
    backward_data_floats: WorkspaceFloats
    backward_weights_floats: WorkspaceFloats
