"""Caffe's transform_param: crop, mirror, subtract a mean, scale; for batches of one size and of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from google.protobuf.message import DecodeError
from numpy.lib.stride_tricks import sliding_window_view

from netc.data.draws import generator
from netc.data.raw_images import PLACE
from netc.data.read_flags import IMREAD_COLOR, IMREAD_GRAYSCALE, IMREAD_UNCHANGED
from netc.data.source import Origin, Shape
from netc.proto import netc_pb2 as pb

FIELD = "transform_param"
SMALL_IMAGE = 4096  # values; up to here a batch is transformed as a whole


class Transformer:
    """(pixel - mean) * scale in fp32, of a crop that is random in TRAIN and central in TEST, mirrored by the
    toss of a coin.

    As in Caffe, the mean's pixel is the one at the pixel's place in the whole image, not mirrored, and the
    coin is tossed in TEST as well. The draws for a batch depend on (seed, layer, position of the batch) and
    on nothing else.
    """

    def __init__(self, param: pb.TransformationParameter, phase: int, seed: int, origin: Origin) -> None:
        """Raises NetcError where fields contradict each other or the mean file cannot be read."""
        self._origin = origin
        self._train = phase == pb.TRAIN
        self._seed = seed
        self._crop: int = param.crop_size
        self._mirror: bool = param.mirror
        self._scale = np.float32(param.scale)
        self._mean_file: str = param.mean_file
        if param.mean_file and param.mean_value:
            raise self._error(
                "mean_file and mean_value cannot both be set", "mean_value", remedy="remove one of them"
            )
        if param.force_color and param.force_gray:
            raise self._error(
                "force_color and force_gray cannot both be set", "force_gray", remedy="remove one of them"
            )
        self._mean = self._load_mean() if param.mean_file else None
        self._mirrored_mean = None if self._mean is None else np.ascontiguousarray(self._mean[:, :, ::-1])
        self._values = np.array(param.mean_value, np.float32)
        self.read_flag = (
            IMREAD_COLOR if param.force_color else IMREAD_GRAYSCALE if param.force_gray else IMREAD_UNCHANGED
        )

    @property
    def mean(self) -> np.ndarray | None:
        """The mean image of mean_file, C x H x W."""
        return self._mean

    @property
    def mean_values(self) -> np.ndarray:
        """The values of mean_value; empty where there are none."""
        return self._values

    @property
    def scale(self) -> float:
        return float(self._scale)

    @property
    def fixed_size(self) -> bool:
        """Whether every image comes out at one height and width."""
        return self._crop > 0 or self._mean is not None

    def output_shape(self, image: Shape, key: str) -> Shape:
        """The shape of an image (C, H, W) after the transformation; a NetcError if `key` does not fit."""
        channels, height, width = image
        if self._crop > min(height, width):
            raise self._error(
                f"crop_size is larger than the image {key}",
                "crop_size",
                expected=f"at most {min(height, width)}, for an image {height} high and {width} wide",
                found=self._crop,
                remedy="choose a smaller crop_size, or resize the images when they are converted",
            )
        if self._mean is not None and self._mean.shape != image:
            raise self._error(
                f"the mean {self._mean_file} does not have the shape of the image {key}",
                "mean_file",
                expected=f"{_text(image)}, as the image",
                found=_text(self._mean.shape),
                remedy="compute the mean from this database: netc compute_image_mean",
            )
        if len(self._values) not in (0, 1, channels):
            raise self._error(
                f"mean_value does not fit the channels of the image {key}",
                "mean_value",
                expected=f"1 or {channels} values",
                found=len(self._values),
            )
        return (channels, self._crop or height, self._crop or width)

    def apply(self, images: Sequence[np.ndarray] | np.ndarray, out: np.ndarray, position: int) -> None:
        """Writes the transformed images (each C x H x W, known to fit) into `out` (N x C x h x w)."""
        mirrored, draws = self._draw(len(out), position)
        if isinstance(images, np.ndarray) and self._mean is None and out[0].size <= SMALL_IMAGE:
            self._apply_together(images, out, self._offsets(draws, *images.shape[2:]), mirrored)
            return
        for i, image in enumerate(images):
            top, left = self._offsets(draws[i], *image.shape[1:])
            self.apply_at(image, out[i], int(top), int(left), bool(mirrored[i]))

    def places(self, count: int, image: Shape, position: int) -> np.ndarray:
        """PLACEs: where `apply` crops each image (C, H, W) of a batch of one size, and which it mirrors."""
        mirrored, draws = self._draw(count, position)
        places = np.empty(count, PLACE)
        places["top"], places["left"] = self._offsets(draws, *image[1:])
        places["mirrored"] = mirrored
        return places

    def _draw(self, count: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Per image: whether it is mirrored, and where its crop lies (two numbers in [0, 1))."""
        if not (self._mirror or (self._crop and self._train)):
            return np.zeros(count, bool), np.zeros((count, 2))
        draws = generator(self._seed, f"{self._origin.name}/transform", position).random((count, 3))
        return (draws[:, 0] < 0.5) & self._mirror, draws[:, 1:]

    def _offsets(self, draws: np.ndarray, height: int, width: int) -> np.ndarray:
        """The top and the left edge of each crop: two rows for many draws, two numbers for one."""
        room = np.array([height - self._crop, width - self._crop] if self._crop else [0, 0])
        return (
            (draws * (room + 1)).astype(np.int64) if self._train else room // 2 + 0 * draws.astype(np.int64)
        ).T

    def apply_at(self, image: np.ndarray, out: np.ndarray, top: int, left: int, mirrored: bool) -> None:
        """Writes one image (C x H x W), cropped at a place to the size of `out`, into `out` (C x h x w)."""
        height, width = out.shape[1:]
        pixels = image[:, top : top + height, left : left + width]
        if mirrored:
            from netc.data.image import mirror  # only now: it loads OpenCV

            pixels = mirror(pixels)  # while they are bytes: mirroring floats moves four times as much
        out[...] = pixels
        if self._mean is not None:
            out -= self._mean_under(top, left, height, width, mirrored)
        elif len(self._values):
            out -= self._values[:, None, None]
        if self._scale != 1:
            out *= self._scale

    def _mean_under(self, top: int, left: int, height: int, width: int, mirrored: bool) -> np.ndarray:
        """The part of the mean image under a crop, mirrored where the crop is."""
        assert self._mean is not None
        assert self._mirrored_mean is not None
        rows = slice(top, top + height)
        if not mirrored:
            return self._mean[:, rows, left : left + width]
        first = self._mean.shape[2] - width - left
        return self._mirrored_mean[:, rows, first : first + width]

    def _apply_together(
        self, images: np.ndarray, out: np.ndarray, offsets: np.ndarray, mirrored: np.ndarray
    ) -> None:
        """A batch of small images of one size, for which a step per image would cost more than its pixels."""
        pixels = images
        if self._crop:
            windows = sliding_window_view(images, (self._crop, self._crop), axis=(2, 3))
            pixels = windows[np.arange(len(images)), :, offsets[0], offsets[1]]
        if mirrored.any():
            pixels = np.where(mirrored[:, None, None, None], pixels[..., ::-1], pixels)
        out[...] = pixels
        if len(self._values):
            out -= self._values[:, None, None]
        if self._scale != 1:
            out *= self._scale

    def _load_mean(self) -> np.ndarray:
        path = self._mean_file
        remedy = "make it with netc compute_image_mean"
        try:
            with open(path, "rb") as file:
                blob = pb.BlobProto.FromString(file.read())
        except OSError as error:
            raise self._origin.unreadable(
                "the mean file", path, error, FIELD, "mean_file", remedy=remedy
            ) from error
        except DecodeError as error:
            raise self._error(f"{path} is not a mean file", "mean_file", remedy=remedy) from error
        dims = (
            list(blob.shape.dim)
            if blob.HasField("shape")
            else [blob.num, blob.channels, blob.height, blob.width]
        )
        while len(dims) > 3 and dims[0] == 1:
            del dims[0]
        values = np.array(blob.data, np.float32)
        if len(dims) != 3 or min(dims) <= 0 or values.size != dims[0] * dims[1] * dims[2]:
            raise self._error(
                f"{path} does not hold one mean image",
                "mean_file",
                expected="1 x channels x height x width values",
                found=f"{_text(dims)} with {values.size} values",
                remedy=remedy,
            )
        return values.reshape(dims)

    def _error(self, what: str, field: str, **details: object) -> Exception:
        return self._origin.error(what, FIELD, field, **details)


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
