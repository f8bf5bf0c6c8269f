"""Images and windows of images through a deploy net."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import netc
from netc import NetcError
from tests.pycaffe.small_nets import write_net

# Its output: the mean of each channel of its input, and the value at its top left, channel 0.
MEANS = """
name: "means"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 4 dim: 4 } } }
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean"
  pooling_param { pool: AVE global_pooling: true } }
layer { name: "means" type: "Flatten" bottom: "mean" top: "means" }
"""


@pytest.fixture
def deploy(tmp_path: Path) -> str:
    return write_net(tmp_path, MEANS)


def image(height: int = 4, width: int = 4) -> np.ndarray:
    return np.random.default_rng(height).random((height, width, 3)).astype(np.float32)


def test_a_classifier_is_a_net_that_prepares_images(deploy: str) -> None:
    classifier = netc.Classifier(
        deploy, mean=np.array([1, 2, 3]), raw_scale=255, channel_swap=(2, 1, 0), input_scale=0.5
    )
    assert isinstance(classifier, netc.Net)
    assert classifier.phase == netc.TEST
    images = [image(), image() * 0.5]
    found = classifier.predict(images, oversample=False)
    assert found.shape == (2, 3)
    for each, row in zip(images, found, strict=True):
        blue_first = each.mean((0, 1))[::-1] * 255
        np.testing.assert_allclose(row, (blue_first - [1, 2, 3]) / 2, rtol=1e-5)


def test_a_prediction_is_the_mean_over_ten_crops(deploy: str) -> None:
    classifier = netc.Classifier(deploy, image_dims=(6, 5))
    resized = netc.io.resize_image(image(9, 8), (6, 5))
    crops = netc.io.oversample([resized], (4, 4))
    found = classifier.predict([image(9, 8)])
    np.testing.assert_allclose(found, [crops.mean((0, 1, 2))], rtol=1e-5)


def test_without_oversampling_the_centre_is_seen(deploy: str) -> None:
    classifier = netc.Classifier(deploy, image_dims=(6, 8))
    found = classifier.predict([image(6, 8)], oversample=False)
    np.testing.assert_allclose(found, [image(6, 8)[1:5, 2:6].mean((0, 1))], rtol=1e-5)


def test_images_come_in_any_number_and_size(deploy: str) -> None:
    classifier = netc.Classifier(deploy)
    found = classifier.predict([image(4, 4), image(7, 5), image(6, 6)])  # 30 crops in batches of 4
    assert found.shape == (3, 3)
    np.testing.assert_allclose(found[0], image(4, 4).mean((0, 1)), rtol=1e-5)


def test_what_a_classifier_cannot_do_is_an_exception(deploy: str, tmp_path: Path) -> None:
    with pytest.raises(NetcError, match="smaller than the net's input"):
        netc.Classifier(deploy, image_dims=(3, 8))
    with pytest.raises(NetcError, match="no images to classify"):
        netc.Classifier(deploy).predict([])
    flat = write_net(tmp_path, MEANS.replace("dim: 4 dim: 3 dim: 4 dim: 4", "dim: 4 dim: 3"), "flat.prototxt")
    with pytest.raises(NetcError):
        netc.Classifier(flat)


# --- windows -----------------------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """8 x 8: row r and column c hold 30 r and 30 c in red and green."""
    rows, columns = np.indices((8, 8))
    pixels = np.stack([np.zeros((8, 8)), 30 * columns, 30 * rows], axis=2)
    cv2.imwrite(str(tmp_path / "picture.png"), pixels.astype(np.uint8))
    return tmp_path / "picture.png"


def test_windows_are_cut_out_and_classified(deploy: str, picture: Path) -> None:
    detector = netc.Detector(deploy, raw_scale=255)
    found = detector.detect_windows([(picture, [(0, 0, 4, 4), (4, 2, 8, 6)]), (picture, [(0, 0, 8, 8)])])
    assert [tuple(each["window"]) for each in found] == [(0, 0, 4, 4), (4, 2, 8, 6), (0, 0, 8, 8)]
    assert {each["filename"] for each in found} == {picture}
    np.testing.assert_allclose(found[0]["prediction"], [45, 45, 0], rtol=1e-5)
    np.testing.assert_allclose(found[1]["prediction"], [165, 105, 0], rtol=1e-5)
    np.testing.assert_allclose(found[2]["prediction"], [105, 105, 0], rtol=1e-5)
    assert detector.detect_windows([(picture, [])]) == []


def test_context_surrounds_a_window(deploy: str) -> None:
    detector = netc.Detector(deploy, context_pad=1)
    # The window is half as wide as the input of 4: the crop, grown by 2 about its centre, is the image.
    rows = np.repeat(np.arange(8, dtype=np.float32)[:, None, None], 8, axis=1).repeat(3, axis=2)
    crop = detector.crop(rows, [2, 2, 5, 5])
    assert crop.shape == (4, 4, 3)
    np.testing.assert_allclose(crop[:, 0, 0], netc.io.resize_image(rows[0:8], (4, 4))[:, 0, 0])


def test_beyond_the_image_a_window_shows_the_mean(deploy: str) -> None:
    detector = netc.Detector(
        deploy, mean=np.array([10, 20, 30]), raw_scale=100, channel_swap=(2, 1, 0), context_pad=1
    )
    crop = detector.crop(np.ones((8, 8, 3), np.float32), [0, 0, 3, 3])
    # Blue comes first in the net: red's mean is 30 of 100. Two of the crop's eight rows lie above the image.
    np.testing.assert_allclose(crop[0, 0], [0.3, 0.2, 0.1], rtol=1e-6)
    np.testing.assert_allclose(crop[-1, -1], [1, 1, 1])
    prepared = detector.transformer.preprocess("data", crop)
    np.testing.assert_allclose(prepared[:, 0, 0], [0, 0, 0], atol=1e-5)


@pytest.mark.parametrize("window", [(0, 0, 0, 4), (9, 9, 12, 12), (3, 3, 2, 5)])
def test_a_window_without_a_pixel_is_refused(deploy: str, picture: Path, window: tuple[int, ...]) -> None:
    with pytest.raises(NetcError, match="without a pixel of the image"):
        netc.Detector(deploy).detect_windows([(picture, [window])])


def test_what_a_detector_cannot_do_is_an_exception(deploy: str, picture: Path) -> None:
    with pytest.raises(NetcError, match="context_pad needs a square input"):
        netc.Detector(deploy, context_pad=2)
    with pytest.raises(NetcError, match="selective search"):
        netc.Detector(deploy).detect_selective_search([picture])
