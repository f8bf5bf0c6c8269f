"""A net that classifies images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.pycaffe.images import oversample as ten_crops
from netc.pycaffe.images import resize_image
from netc.pycaffe.net import Net
from netc.pycaffe.transformer import Transformer

Path = str | os.PathLike[str]


class Classifier(Net):
    """A deploy net with its weights and the way images take into it.

        classifier = netc.Classifier("deploy.prototxt", "model.caffemodel", mean=np.array([104, 117, 123]),
                                     channel_swap=(2, 1, 0), raw_scale=255, image_dims=(256, 256))
        probabilities = classifier.predict([netc.io.load_image("cat.jpg")])[0]

    image_dims: height and width that images are resized to before crops of the input's size are taken; that
    size unless stated. mean, input_scale, raw_scale, channel_swap: see `netc.io.Transformer`.
    Raises NetcError.
    """

    def __init__(
        self,
        model_file: Path | pb.NetParameter,
        pretrained_file: Path | None = None,
        image_dims: Sequence[int] | None = None,
        mean: Any = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ) -> None:
        super().__init__(model_file, pb.TEST, weights=pretrained_file)
        self.transformer = image_transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.transformer.inputs[self.inputs[0]][2:])
        self.image_dims = np.array(image_dims if image_dims else self.crop_dims)
        if (self.image_dims < self.crop_dims).any():
            raise NetcError(
                "image_dims are smaller than the net's input",
                expected=f"at least {list(map(int, self.crop_dims))}",
                found=list(map(int, self.image_dims)),
            )

    def predict(self, inputs: Sequence[np.ndarray], oversample: bool = True) -> np.ndarray:
        """The net's output for each image, H x W x C as `netc.io.load_image` gives them: a row for each.

        oversample: takes the mean over ten crops (corners, centre, mirrored); otherwise the centre alone is
        seen. Raises NetcError where there are no images.
        """
        if len(inputs) == 0:
            raise NetcError("there are no images to classify")
        resized = [resize_image(image, self.image_dims.tolist()) for image in inputs]
        if oversample:
            crops = ten_crops(resized, self.crop_dims.tolist())
        else:
            top, left = (int(n) for n in (self.image_dims - self.crop_dims) // 2)
            height, width = (int(n) for n in self.crop_dims)
            crops = np.stack([image[top : top + height, left : left + width] for image in resized])
        name = self.inputs[0]
        prepared = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        found = self.forward_all(**{name: prepared})[self.outputs[0]]
        if not oversample:
            return found
        return found.reshape(len(resized), len(found) // len(resized), -1).mean(axis=1)


def image_transformer(
    net: Net,
    mean: Any,
    input_scale: float | None,
    raw_scale: float | None,
    channel_swap: Sequence[int] | None,
) -> Transformer:
    """The way of an image (H x W x C) into a net's first input. Raises NetcError for a net without one."""
    if not net.inputs or len(net.blobs[net.inputs[0]].shape) != 4:
        raise NetcError(
            "the net has no input for images",
            expected="an Input layer of shape N x C x H x W",
            found=", ".join(f"{name} {list(net.blobs[name].shape)}" for name in net.inputs) or "no inputs",
            remedy="use a deploy prototxt: one that begins with an Input layer",
        )
    name = net.inputs[0]
    transformer = Transformer({name: net.blobs[name].shape})
    transformer.set_transpose(name, (2, 0, 1))
    if mean is not None:
        transformer.set_mean(name, mean)
    if input_scale is not None:
        transformer.set_input_scale(name, input_scale)
    if raw_scale is not None:
        transformer.set_raw_scale(name, raw_scale)
    if channel_swap is not None:
        transformer.set_channel_swap(name, channel_swap)
    return transformer
