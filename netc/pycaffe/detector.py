"""A net that classifies windows of images, as R-CNN does (Girshick et al., CVPR 2014)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.pycaffe.classifier import image_transformer
from netc.pycaffe.images import load_image, resize_image
from netc.pycaffe.net import Net

Path = str | os.PathLike[str]
Window = Sequence[float]  # ymin, xmin, ymax, xmax, in pixels


class Detector(Net):
    """A deploy net with its weights, run on windows of images.

    context_pad: how many pixels of the net's input, on each side, show what surrounds the window.
    mean, input_scale, raw_scale, channel_swap: see `netc.io.Transformer`. Raises NetcError.
    """

    def __init__(
        self,
        model_file: Path | pb.NetParameter,
        pretrained_file: Path | None = None,
        mean: Any = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ) -> None:
        super().__init__(model_file, pb.TEST, weights=pretrained_file)
        self.transformer = image_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def configure_crop(self, context_pad: int | None) -> None:
        """Sets how much context windows are shown with. Raises NetcError where none of the window is left."""
        name = self.inputs[0]
        channels, height, width = self.transformer.inputs[name][1:]
        self.crop_dims = np.array([height, width, channels])
        self.context_pad = context_pad or 0
        if self.context_pad and (height != width or 2 * self.context_pad >= width):
            raise NetcError(
                "context_pad needs a square input of more than twice its size",
                expected=f"more than {2 * self.context_pad} x {2 * self.context_pad}",
                found=f"{height} x {width}",
            )
        # What lies outside the image shows the mean, as images have it before they are prepared.
        self.crop_mean = np.zeros((height, width, channels), np.float32)
        if name in self.transformer.mean:
            planes = np.broadcast_to(self.transformer.mean[name], (channels, height, width))
            if name in self.transformer.channel_swap:
                planes = planes[np.argsort(self.transformer.channel_swap[name])]
            self.crop_mean[...] = planes.transpose(1, 2, 0) / self.transformer.raw_scale.get(name, 1.0)

    def detect_windows(self, images_windows: Iterable[tuple[Path, Iterable[Window]]]) -> list[dict[str, Any]]:
        """The net's output for windows of images.

        images_windows: pairs of an image file and its windows (ymin, xmin, ymax, xmax). Returns for each
        window, in order, a dict of "window", "prediction" and "filename". Raises NetcError for a window
        without a pixel of the image.
        """
        found: list[dict[str, Any]] = []
        crops = []
        for filename, windows in images_windows:
            image = load_image(filename)
            for window in windows:
                found.append({"window": np.asarray(window), "filename": filename})
                crops.append(self.crop(image, window))
        if not crops:
            return []
        name = self.inputs[0]
        prepared = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        predictions = self.forward_all(**{name: prepared})[self.outputs[0]]
        for detection, prediction in zip(found, predictions, strict=True):
            detection["prediction"] = prediction.reshape(-1)
        return found

    def detect_selective_search(self, image_fnames: Iterable[Path]) -> list[dict[str, Any]]:
        """Raises NetcError: the program that proposes windows, a MATLAB package, is not part of netc."""
        raise NetcError(
            "selective search is a program of others, in MATLAB, and not part of netc",
            remedy="propose windows by any means and give them to detect_windows",
        )

    def crop(self, im: np.ndarray, window: Window) -> np.ndarray:
        """A window of an image (H x W x C), with context where `context_pad` says so."""
        box = np.asarray(window, np.float64)
        if not self.context_pad:
            return _cut(im, box, window)
        size = int(self.crop_dims[1])
        box = self._with_context(box, size)
        # A window's last row and column belong to it.
        scale = size / (box[2:] - box[:2] + 1)
        before = np.maximum(0, -box[:2])
        pad = np.round(before * scale).astype(int)
        inside = np.clip(box, 0, [*im.shape[:2], *im.shape[:2]])
        extent = np.round((inside[2:] - inside[:2] + 1) * scale).astype(int)
        extent = np.minimum(extent, size - pad)
        part = _cut(im, inside, window)
        result = self.crop_mean.copy()
        if (extent > 0).all():
            rows, columns = (slice(start, start + length) for start, length in zip(pad, extent, strict=True))
            result[rows, columns] = resize_image(part, extent.tolist())
        return result

    def _with_context(self, box: np.ndarray, size: int) -> np.ndarray:
        """The box grown about its centre, so that its own pixels fill all but the padding."""
        scale = size / (size - 2 * self.context_pad)
        half = (box[2:] - box[:2] + 1) / 2
        centre = box[:2] + half
        return np.round(np.concatenate([centre - scale * half, centre + scale * half]))


def _cut(im: np.ndarray, box: np.ndarray, window: Window) -> np.ndarray:
    """What a box shows of an image. Raises NetcError, naming the window it belongs to, where that is
    nothing."""
    ymin, xmin, ymax, xmax = (max(int(n), 0) for n in box)
    part = im[ymin:ymax, xmin:xmax]
    if part.size == 0:
        raise NetcError(
            "a window without a pixel of the image",
            expected=f"ymin < ymax, xmin < xmax within {im.shape[0]} x {im.shape[1]}",
            found=list(map(float, window)),
        )
    return part
