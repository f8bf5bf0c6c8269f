"""SSD's `resize_param`, done to images: the interpolation, and the pixels around a padded one."""

from __future__ import annotations

import cv2
import numpy as np

from netc.data.resizing import PARAM, Resizer
from netc.data.source import Origin
from netc.proto import netc_pb2 as pb

INTERPOLATIONS = {
    PARAM.LINEAR: cv2.INTER_LINEAR,
    PARAM.AREA: cv2.INTER_AREA,
    PARAM.NEAREST: cv2.INTER_NEAREST,
    PARAM.CUBIC: cv2.INTER_CUBIC,
    PARAM.LANCZOS4: cv2.INTER_LANCZOS4,
}
BORDERS = {
    PARAM.CONSTANT: cv2.BORDER_CONSTANT,
    PARAM.MIRRORED: cv2.BORDER_REFLECT_101,
    PARAM.REPEAT_NEAREST: cv2.BORDER_REPLICATE,
}


class ImageResizer(Resizer):
    """A `Resizer` that resizes images as well. Where several `interp_mode` are given, one is drawn for every
    image."""

    def __init__(self, param: pb.ResizeParameter, origin: Origin, *path: str) -> None:
        super().__init__(param, origin, *path)
        self._modes = [INTERPOLATIONS[mode] for mode in param.interp_mode] or [cv2.INTER_LINEAR]

    def image(self, pixels: np.ndarray, draw: float = 0.0) -> np.ndarray:
        """The resized image (OpenCV's layout). draw: in [0, 1), which interpolation is used."""
        param = self.param
        mode = self._modes[int(draw * len(self._modes))]
        height, width = self.inner_size(pixels.shape[:2])
        resized = cv2.resize(pixels, (width, height), interpolation=mode)
        if param.resize_mode != PARAM.FIT_LARGE_SIZE_AND_PAD:
            return resized
        above, left = (param.height - height) // 2, (param.width - width) // 2
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        value = np.resize(list(param.pad_value) or [0.0], channels).tolist()
        return cv2.copyMakeBorder(
            resized,
            above,
            param.height - height - above,
            left,
            param.width - width - left,
            BORDERS[param.pad_mode],
            value=value,
        )
