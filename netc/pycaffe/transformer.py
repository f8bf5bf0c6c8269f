"""From an image to what a net's input wants, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from netc.errors import NetcError
from netc.pycaffe.images import resize_image

Array = np.ndarray


class Transformer:
    """Prepares images for inputs of a net.

        transformer = netc.io.Transformer({"data": net.blobs["data"].data.shape})
        transformer.set_transpose("data", (2, 0, 1))      # H x W x C becomes C x H x W
        transformer.set_channel_swap("data", (2, 1, 0))   # red first becomes blue first
        transformer.set_raw_scale("data", 255)            # 0 to 1 becomes 0 to 255
        transformer.set_mean("data", mean)
        net.blobs["data"].data[...] = transformer.preprocess("data", image)

    inputs: the shape of each input (N, C, H, W), by name. The steps are taken in this order: resize,
    transpose, channel swap, raw scale, minus mean, input scale; those that are not set are left out.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]) -> None:
        self.inputs: dict[str, tuple[int, ...]] = {name: tuple(shape) for name, shape in inputs.items()}
        self.transpose: dict[str, tuple[int, ...]] = {}
        self.channel_swap: dict[str, tuple[int, ...]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, Array] = {}
        self.input_scale: dict[str, float] = {}

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """The order of the image's axes in the input, e.g. (2, 0, 1) for an image H x W x C."""
        axes = len(self._shape(in_)) - 1
        if sorted(order) != list(range(axes)):
            raise self._error(in_, "the order must name every axis of the image once", axes, list(order))
        self.transpose[in_] = tuple(order)

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """The order of the image's channels in the input, e.g. (2, 1, 0) to turn red first into blue
        first."""
        channels = self._shape(in_)[1]
        if sorted(order) != list(range(channels)):
            raise self._error(in_, "the order must name every channel once", channels, list(order))
        self.channel_swap[in_] = tuple(order)

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """What pixels are multiplied by before the mean is taken off: 255 for images that `load_image` has
        read and nets that were trained on bytes."""
        self._shape(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: Any) -> None:
        """What is taken off: one number a channel, or an image C x H x W (H x W for one channel).

        An image of another size than the input is resized to it.
        """
        shape = self._shape(in_)
        values = np.asarray(mean, np.float32)
        if values.ndim == 1:
            if len(values) != shape[1]:
                raise self._error(in_, "the mean needs a value for every channel", shape[1], len(values))
            self.mean[in_] = values[:, None, None]
            return
        if values.ndim == 2:
            values = values[None]
        if values.ndim != 3 or values.shape[0] != shape[1]:
            raise self._error(
                in_, "the mean image must have the input's channels", list(shape[1:]), list(values.shape)
            )
        if values.shape != shape[1:]:
            values = resize_image(values.transpose(1, 2, 0), shape[2:]).transpose(2, 0, 1)
        self.mean[in_] = values

    def set_input_scale(self, in_: str, scale: float) -> None:
        """What the result is multiplied by after the mean was taken off."""
        self._shape(in_)
        self.input_scale[in_] = scale

    def preprocess(self, in_: str, data: Array) -> Array:
        """An image (H x W x C) as the input wants it; the image itself stays as it is. Raises NetcError for
        an input that the transformer does not know."""
        shape = self._shape(in_)
        result = np.asarray(data, np.float32)
        if result.shape[:2] != shape[2:]:
            result = resize_image(result, shape[2:])
        if in_ in self.transpose:
            result = result.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            result = result[list(self.channel_swap[in_])]
        result = result.copy()
        for step, settings in self._steps():
            if in_ in settings:
                step(result, settings[in_], out=result)
        return result

    def _steps(self) -> list[tuple[Callable[..., Any], Mapping[str, Any]]]:
        """The arithmetic, in order."""
        return [
            (np.multiply, self.raw_scale),
            (np.subtract, self.mean),
            (np.multiply, self.input_scale),
        ]

    def deprocess(self, in_: str, data: Array) -> Array:
        """An input's array as the image that `preprocess` would make it of; its size stays."""
        self._shape(in_)
        result = np.array(data, np.float32).squeeze()
        if in_ in self.input_scale:
            result = result / np.float32(self.input_scale[in_])
        if in_ in self.mean:
            result = result + self.mean[in_]
        if in_ in self.raw_scale:
            result = result / np.float32(self.raw_scale[in_])
        if in_ in self.channel_swap:
            result = result[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            result = result.transpose(np.argsort(self.transpose[in_]))
        return result

    def _shape(self, in_: str) -> tuple[int, ...]:
        if in_ not in self.inputs:
            raise NetcError(
                f"the transformer has no input {in_!r}", blob=in_, expected=", ".join(self.inputs) or "none"
            )
        return self.inputs[in_]

    @staticmethod
    def _error(in_: str, what: str, expected: Any, found: Any) -> NetcError:
        return NetcError(what, blob=in_, expected=expected, found=found)
