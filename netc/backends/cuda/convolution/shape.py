"""What a convolution on the device is: its sizes, and whether kernels can count them."""

from __future__ import annotations

from dataclasses import dataclass

from netc.backends.form import PLAIN
from netc.layer.base import Shape
from netc.layer.window import Window

Pair = tuple[int, int]  # (along H, along W)
Sizes = tuple[int, int, int]  # channels, height and width of an image

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
    def x_sizes(self) -> Sizes:
        return self.c, self.h, self.w

    @property
    def y_sizes(self) -> Sizes:
        return self.k, self.p, self.q

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
    def square(self) -> Pair | None:
        """The kernel's side and the stride, where both axes have the same and the kernel has no gaps."""
        same = self.r == self.s and self.stride[0] == self.stride[1] and self.dilation == (1, 1)
        return (self.r, self.stride[0]) if same else None

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


@dataclass(frozen=True)
class Layouts:
    """How the images of both sides lie: PLAIN or NHWC of netc.backends.form."""

    x: str = PLAIN
    y: str = PLAIN

    @property
    def are_plain(self) -> bool:
        return self.x == self.y == PLAIN


PLAIN_SIDES = Layouts()


def pieces(count: int, each: int) -> int:
    """How many pieces of one size it takes for so many."""
    return -(-count // each)
