"""`netc classify`: images reach the net as a data layer would bring them, and the best classes come first."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from netc.cli.main import main
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.blobs import array_to_blob

IMAGES = [f"{i}.png" for i in range(3)]
BODY = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""
DEPLOY = (
    'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 6 dim: 6 } } }'
    + BODY
)
FLAGS = [
    "-model",
    "deploy.prototxt",
    "-weights",
    "w.caffemodel",
    "-mean_file",
    "mean.binaryproto",
    "-scale=0.5",
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three images of 12x10, a mean image of 8x8, and a net of random weights for 6x6."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    for name in IMAGES:
        cv2.imwrite(name, rng.integers(0, 256, (12, 10, 3), np.uint8))
    mean = rng.uniform(80, 160, (1, 3, 8, 8)).astype(np.float32)
    Path("mean.binaryproto").write_bytes(array_to_blob(mean).SerializeToString())
    Path("deploy.prototxt").write_text(DEPLOY)
    Path("labels.txt").write_text("cat\ndog\nred panda\ntrain\n")
    net = Net("deploy.prototxt", seed=1)
    net.save("w.caffemodel")
    return tmp_path


def classify(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["classify", "-json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def scores(found: Any) -> np.ndarray:
    """Of each image and class."""
    return np.array(
        [[guess["score"] for guess in sorted(g, key=lambda g: g["label"])] for g in found.values()]
    )


def test_images_are_prepared_as_a_data_layer_does(capsys: pytest.CaptureFixture[str]) -> None:
    """Resized to 8x8, cropped to 6x6 in the middle, less the mean's pixels there, times the scale."""
    Path("list.txt").write_text("".join(f"{name} 0\n" for name in IMAGES))
    Path("test.prototxt").write_text(
        'layer { name: "d" type: "ImageData" top: "data" top: "label"'
        ' transform_param { crop_size: 6 mean_file: "mean.binaryproto" scale: 0.5 }'
        ' image_data_param { source: "list.txt" batch_size: 3 new_height: 8 new_width: 8 } }' + BODY
    )
    net = Net("test.prototxt", pb.TEST, weights="w.caffemodel")
    net.forward()
    found = classify(capsys, *FLAGS, "-resize=8", *IMAGES)
    assert list(found) == IMAGES
    assert np.allclose(scores(found), net.blobs["prob"].data, atol=1e-6)
    net.close()


def test_the_best_classes_come_first_with_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    (guesses,) = classify(capsys, *FLAGS, "-labels=labels.txt", "-top=3", "0.png").values()
    assert len(guesses) == 3
    assert guesses == sorted(guesses, key=lambda guess: -guess["score"])
    names = ["cat", "dog", "red panda", "train"]
    assert all(guess["name"] == names[guess["label"]] for guess in guesses)


def test_a_folder_stands_for_its_images(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert list(classify(capsys, *FLAGS, str(folder))) == [str(folder / name) for name in IMAGES]


def test_batches_make_no_difference(capsys: pytest.CaptureFixture[str]) -> None:
    one, many = (classify(capsys, *FLAGS, f"-batch={n}", *IMAGES) for n in (1, 2))
    assert np.allclose(scores(one), scores(many), atol=1e-6)


def test_ten_crops_are_averaged(capsys: pytest.CaptureFixture[str]) -> None:
    """On an image of one colour all crops are alike, and mirrored ones too."""
    cv2.imwrite("flat.png", np.full((9, 9, 3), (10, 100, 200), np.uint8))
    flags = [*FLAGS[:4], "-mean_value", "104,117,123", "-resize", "8x9"]
    plain, crops = (classify(capsys, *flags, *more, "flat.png") for more in ([], ["-oversample"]))
    assert np.allclose(scores(plain), scores(crops), atol=1e-6)
    plain, crops = (classify(capsys, *flags, *more, "0.png") for more in ([], ["-oversample"]))
    assert not np.allclose(scores(plain), scores(crops), atol=1e-6)


def test_a_gray_net_gets_gray_images(capsys: pytest.CaptureFixture[str]) -> None:
    Path("gray.prototxt").write_text(DEPLOY.replace("dim: 3", "dim: 1"))
    Net("gray.prototxt", seed=1).save("gray.caffemodel")
    assert len(classify(capsys, "-model=gray.prototxt", "-weights=gray.caffemodel", *IMAGES)) == 3


def test_a_crop_of_another_size_reshapes_a_convolutional_net(capsys: pytest.CaptureFixture[str]) -> None:
    Path("fcn.prototxt").write_text(
        DEPLOY.replace("InnerProduct", "Convolution").replace(
            "inner_product_param {", "convolution_param { kernel_size: 3"
        )
    )
    Net("fcn.prototxt", seed=1).save("fcn.caffemodel")
    found = classify(
        capsys, "-model=fcn.prototxt", "-weights=fcn.caffemodel", "-crop=8", "-resize=10", "0.png"
    )
    assert np.isclose(scores(found).sum(), 1)


def test_the_table_names_each_image_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", *FLAGS, "-labels=labels.txt", "-top=2", *IMAGES]) == 0
    captured = capsys.readouterr()
    assert [captured.out.count(name) for name in IMAGES] == [1, 1, 1]
    assert captured.out.splitlines()[0].split() == ["image", "score", "class"]
    assert "Creating Layer" not in captured.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([*FLAGS, "missing.png"], 1, "missing.png: cannot read the image"),
        ([*FLAGS, "labels.txt"], 1, "labels.txt: cannot read the image"),
        ([*FLAGS, "-resize=4", "0.png"], 1, "resized to less than the net's input"),
        ([*FLAGS, "-resize=big", "0.png"], 2, "-resize cannot be read"),
        ([*FLAGS, "-mean_value=1", "0.png"], 2, "-mean_file and -mean_value"),
        ([*FLAGS[:4], "-mean_value=1,2", "0.png"], 1, "the mean does not fit"),
        ([*FLAGS[:4], "-mean_value=x", "0.png"], 2, "-mean_value has a value of the wrong type"),
        ([*FLAGS, "-labels=list.txt", "0.png"], 1, "list.txt: no such file"),
        ([*FLAGS, "-top=0", "0.png"], 2, "-top must be positive"),
        (["-model=deploy.prototxt", "0.png"], 2, "-weights is missing"),
        (FLAGS, 2, "IMAGE..."),
    ],
)
def test_errors(arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", *arguments]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_labels_of_another_net_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    Path("labels.txt").write_text("cat\ndog\n")
    assert main(["classify", *FLAGS, "-labels=labels.txt", "0.png"]) == 1
    assert "the labels are not those of this net" in capsys.readouterr().err


def test_a_net_for_training_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("deploy.prototxt").write_text(DEPLOY.replace("dim: 3 dim: 6 dim: 6", "dim: 108"))
    assert main(["classify", *FLAGS, "0.png"]) == 1
    assert "netc deploy" in capsys.readouterr().err
