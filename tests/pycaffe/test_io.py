"""Images and messages: loading, resizing, crops, the transformer, conversions."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import netc
from netc import NetcError
from netc.proto import netc_pb2 as pb

RED_THEN_GREY = np.array([[[255, 0, 51], [102, 102, 102]]], np.uint8)  # 1 x 2, red first


def write_image(path: Path, image: np.ndarray) -> Path:
    """Writes pixels that have red first."""
    order = {2: slice(None), 3: [2, 1, 0], 4: [2, 1, 0, 3]}[image.ndim if image.ndim == 2 else image.shape[2]]
    cv2.imwrite(str(path), image[..., order] if image.ndim == 3 else image)
    return path


# --- images ------------------------------------------------------------------------------------------------


def test_images_come_as_floats_with_red_first(tmp_path: Path) -> None:
    image = netc.io.load_image(write_image(tmp_path / "x.png", RED_THEN_GREY))
    assert (image.dtype, image.shape) == (np.float32, (1, 2, 3))
    np.testing.assert_array_equal(image, np.float32([[[1, 0, 0.2], [0.4, 0.4, 0.4]]]))


def test_grey_files_get_three_equal_channels_or_one(tmp_path: Path) -> None:
    path = write_image(tmp_path / "x.png", np.array([[0, 51]], np.uint8))
    np.testing.assert_array_equal(netc.io.load_image(path), np.float32([[[0] * 3, [0.2] * 3]]))
    np.testing.assert_array_equal(netc.io.load_image(path, color=False), np.float32([[[0], [0.2]]]))


def test_colour_becomes_grey_by_luminance(tmp_path: Path) -> None:
    grey = netc.io.load_image(write_image(tmp_path / "x.png", RED_THEN_GREY), color=False)
    assert grey.shape == (1, 2, 1)
    np.testing.assert_allclose(grey.ravel(), [0.2125 + 0.0721 * 0.2, 0.4], rtol=1e-6)


def test_transparency_is_dropped_in_colour_and_white_in_grey(tmp_path: Path) -> None:
    pixels = np.dstack([RED_THEN_GREY, np.array([[255, 0]], np.uint8)])
    path = write_image(tmp_path / "x.png", pixels)
    np.testing.assert_array_equal(netc.io.load_image(path)[0, 1], np.float32([0.4, 0.4, 0.4]))
    np.testing.assert_allclose(netc.io.load_image(path, color=False)[0, 1], [1], rtol=1e-6)


def test_sixteen_bits_keep_their_depth(tmp_path: Path) -> None:
    path = write_image(tmp_path / "x.png", np.array([[1, 65535]], np.uint16))
    np.testing.assert_allclose(netc.io.load_image(path, color=False).ravel(), [1 / 65535, 1], rtol=1e-6)


@pytest.mark.parametrize("content", [None, b"", b"no image"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(NetcError, match="cannot read the image") as caught:
        netc.io.load_image(tmp_path / "x.png")
    assert "x.png" in str(caught.value.at)


def test_shrinking_is_bilinear_between_pixel_centres() -> None:
    image = np.arange(16, dtype=np.float32).reshape(4, 4, 1)
    # Each new centre lies in the middle of four old ones.
    np.testing.assert_allclose(netc.io.resize_image(image, (2, 2))[..., 0], [[2.5, 4.5], [10.5, 12.5]])


def test_enlarging_sees_the_lowest_value_beyond_the_border() -> None:
    image = np.array([[1, 5]], np.float32)[:, :, None]
    # New centres at -0.25, 0.25, 0.75 and 1.25: the outer ones are a quarter out of the image.
    np.testing.assert_allclose(netc.io.resize_image(image, (1, 4))[0, :, 0], [1, 2, 4, 4])
    image = np.array([[5, 1]], np.float32)[:, :, None]
    np.testing.assert_allclose(netc.io.resize_image(image, (1, 4))[0, :, 0], [4, 4, 2, 1])


def test_images_of_other_channels_keep_their_corners() -> None:
    image = np.repeat(np.array([[0.0, 2.0], [4.0, 6.0]])[:, :, None], 2, axis=2)
    expected = [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    for channel in range(2):
        np.testing.assert_allclose(netc.io.resize_image(image, (3, 3))[:, :, channel], expected)


def test_resizing_may_take_the_nearest_pixel() -> None:
    image = np.array([[1, 5]], np.float32)[:, :, None]
    np.testing.assert_array_equal(netc.io.resize_image(image, (1, 4), interp_order=0)[0, :, 0], [1, 1, 5, 5])


def test_a_constant_image_stays_constant() -> None:
    np.testing.assert_array_equal(netc.io.resize_image(np.full((3, 5, 3), 7), (8, 2)), np.full((8, 2, 3), 7))


def test_the_same_size_is_the_same_image() -> None:
    image = np.random.default_rng(0).random((5, 7, 3)).astype(np.float32)
    np.testing.assert_array_equal(netc.io.resize_image(image, (5, 7)), image)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((4, 4)), {}, "axes H, W, C"),
        (np.zeros((0, 4, 3)), {}, "axes H, W, C"),
        (np.zeros((4, 4, 3)), {"interp_order": 3}, "bilinearly or to the nearest"),
    ],
)
def test_what_cannot_be_resized_is_refused(image: np.ndarray, options: dict[str, int], message: str) -> None:
    with pytest.raises(NetcError, match=message):
        netc.io.resize_image(image, (2, 2), **options)


def test_ten_crops_are_corners_centre_and_mirrored() -> None:
    image = np.arange(5 * 4, dtype=np.float32).reshape(5, 4, 1)
    crops = netc.io.oversample([image, image + 100], (2, 2))
    assert (crops.shape, crops.dtype) == ((20, 2, 2, 1), np.float32)
    np.testing.assert_array_equal(crops[:5, 0, 0, 0], [0, 2, 12, 14, 5])  # their first pixels
    np.testing.assert_array_equal(crops[5:10], crops[:5, :, ::-1])
    np.testing.assert_array_equal(crops[10:], crops[:10] + 100)


def test_crops_larger_than_the_image_are_refused() -> None:
    with pytest.raises(NetcError, match="larger than the image"):
        netc.io.oversample([np.zeros((4, 4, 1))], (5, 2))


# --- the transformer ---------------------------------------------------------------------------------------


@pytest.fixture
def transformer() -> netc.io.Transformer:
    transformer = netc.io.Transformer({"data": (10, 3, 2, 2)})
    transformer.set_transpose("data", (2, 0, 1))
    transformer.set_channel_swap("data", (2, 1, 0))
    transformer.set_raw_scale("data", 255)
    transformer.set_mean("data", np.array([1, 2, 3]))
    transformer.set_input_scale("data", 0.5)
    return transformer


def test_preprocess_takes_the_steps_in_order(transformer: netc.io.Transformer) -> None:
    image = np.zeros((2, 2, 3), np.float32)
    image[0, 1] = [0.2, 0.4, 1]
    result = transformer.preprocess("data", image)
    assert (result.shape, result.dtype) == ((3, 2, 2), np.float32)
    np.testing.assert_allclose(result[:, 0, 1], [(255 - 1) / 2, (102 - 2) / 2, (51 - 3) / 2], rtol=1e-6)
    np.testing.assert_allclose(result[:, 1, 1], [-0.5, -1, -1.5])
    assert image.max() == 1  # the image itself stays


def test_preprocess_resizes_to_the_input(transformer: netc.io.Transformer) -> None:
    result = transformer.preprocess("data", np.full((5, 7, 3), 0.2, np.float32))
    np.testing.assert_allclose(result[0], np.full((2, 2), (51 - 1) / 2), rtol=1e-6)


def test_deprocess_is_the_way_back(transformer: netc.io.Transformer) -> None:
    image = np.random.default_rng(0).random((2, 2, 3)).astype(np.float32)
    there = transformer.preprocess("data", image)
    np.testing.assert_allclose(transformer.deprocess("data", there), image, atol=1e-6)
    np.testing.assert_allclose(transformer.deprocess("data", there[None]), image, atol=1e-6)


def test_without_steps_an_array_goes_through() -> None:
    transformer = netc.io.Transformer({"data": (1, 3, 2, 2)})
    image = np.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_array_equal(transformer.preprocess("data", image), image)
    np.testing.assert_array_equal(transformer.deprocess("data", image), image)


def test_a_mean_image_is_resized_to_the_input() -> None:
    transformer = netc.io.Transformer({"data": (1, 3, 2, 2), "grey": (1, 1, 2, 2)})
    mean = np.stack([np.arange(16.0).reshape(4, 4) + 100 * c for c in range(3)])
    transformer.set_mean("data", mean)
    np.testing.assert_allclose(transformer.mean["data"][1], [[102.5, 104.5], [110.5, 112.5]])
    transformer.set_mean("grey", np.ones((2, 2)))
    assert transformer.mean["grey"].shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.preprocess("nothing", np.zeros((2, 2, 3))), "no input 'nothing'"),
        (lambda t: t.set_raw_scale("nothing", 1), "no input 'nothing'"),
        (lambda t: t.set_transpose("data", (0, 1)), "every axis"),
        (lambda t: t.set_channel_swap("data", (0, 1)), "every channel"),
        (lambda t: t.set_mean("data", [1, 2]), "a value for every channel"),
        (lambda t: t.set_mean("data", np.zeros((2, 2, 2))), "the input's channels"),
    ],
)
def test_steps_that_do_not_fit_are_refused(
    transformer: netc.io.Transformer, call: object, message: str
) -> None:
    with pytest.raises(NetcError, match=message):
        call(transformer)  # type: ignore[operator]


# --- messages ----------------------------------------------------------------------------------------------


def test_arrays_become_blobs_and_come_back() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    blob = netc.io.array_to_blobproto(array, diff=-array)
    assert isinstance(blob, pb.BlobProto)
    np.testing.assert_array_equal(netc.io.blobproto_to_array(blob), array)
    np.testing.assert_array_equal(netc.io.blobproto_to_array(blob, return_diff=True), -array)
    with pytest.raises(NetcError, match="another shape than the data"):
        netc.io.array_to_blobproto(array, diff=np.zeros(3))


def test_old_blobs_have_four_axes() -> None:
    blob = pb.BlobProto(num=1, channels=1, height=2, width=2, data=[1, 2, 3, 4])
    np.testing.assert_array_equal(netc.io.blobproto_to_array(blob), [[[[1, 2], [3, 4]]]])


def test_lists_of_arrays_become_bytes_and_come_back() -> None:
    arrays = [np.ones((2, 2), np.float32), np.zeros(3, np.float32)]
    text = netc.io.arraylist_to_blobprotovector_str(arrays)
    assert isinstance(text, bytes)
    for found, array in zip(netc.io.blobprotovector_str_to_arraylist(text), arrays, strict=True):
        np.testing.assert_array_equal(found, array)
    with pytest.raises(NetcError, match="no BlobProtoVector"):
        netc.io.blobprotovector_str_to_arraylist(b"\x0a\x7f")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_images_become_datums_and_come_back(dtype: type) -> None:
    image = np.arange(12).reshape(3, 2, 2).astype(dtype)
    datum = netc.io.array_to_datum(image, label=4)
    assert (datum.channels, datum.height, datum.width, datum.label) == (3, 2, 2, 4)
    assert bool(datum.data) == (dtype == np.uint8)
    found = netc.io.datum_to_array(pb.Datum.FromString(datum.SerializeToString()))
    assert found.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    np.testing.assert_array_equal(found, image)


def test_a_datum_without_label_has_none() -> None:
    assert not netc.io.array_to_datum(np.zeros((1, 1, 1))).HasField("label")


def test_an_encoded_datum_is_decoded() -> None:
    encoded = cv2.imencode(".png", RED_THEN_GREY[:, :, ::-1])[1].tobytes()
    found = netc.io.datum_to_array(pb.Datum(data=encoded, encoded=True))
    np.testing.assert_array_equal(found[:, 0, 0], [51, 0, 255])  # blue first


def test_what_is_no_image_is_no_datum() -> None:
    with pytest.raises(NetcError, match="three axes"):
        netc.io.array_to_datum(np.zeros((2, 2)))
    with pytest.raises(NetcError, match="does not hold an image"):
        netc.io.datum_to_array(pb.Datum(channels=1, height=2, width=2, data=b"123"))
