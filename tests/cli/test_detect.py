"""`netc detect`: boxes in pixels, from nets that find them and from windows that are given."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from netc.cli.main import main
from netc.runtime import Net
from netc.tools.detect import Detection, suppress

# One prior box; the location (0, 0, 0, 0) leaves it where it is, and the scores favour class 1.
SSD = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "loc" type: "InnerProduct" bottom: "data" top: "loc"
  inner_product_param { num_output: 4 } }
layer { name: "conf" type: "InnerProduct" bottom: "data" top: "conf"
  inner_product_param { num_output: 3 } }
layer { name: "priors" type: "DummyData" top: "priors"
  dummy_data_param { shape { dim: 1 dim: 2 dim: 4 } data_filler { type: "constant" value: 0.25 } } }
layer { name: "bias" type: "Bias" bottom: "priors" top: "box" bias_param { axis: 1 num_axes: 2 } }
layer { name: "out" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "box" top: "out"
  detection_output_param { num_classes: 3 share_location: true background_label_id: 0
    nms_param { nms_threshold: 0.45 top_k: 10 } code_type: CENTER_SIZE keep_top_k: 5
    confidence_threshold: 0.01 } }
"""
WINDOW_NET = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }
layer { name: "pool" type: "Pooling" bottom: "data" top: "pool"
  pooling_param { pool: AVE global_pooling: true } }
layer { name: "flat" type: "Flatten" bottom: "pool" top: "flat" }
layer { name: "prob" type: "Softmax" bottom: "flat" top: "prob" }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image of 40x20, green but for a red square, and the names of three classes."""
    monkeypatch.chdir(tmp_path)
    image = np.zeros((20, 40, 3), np.uint8)
    image[..., 1] = 250
    image[4:12, 8:16] = (0, 0, 250)
    cv2.imwrite("image.png", image)
    Path("labels.txt").write_text("blue\ngreen\nred\n")
    return tmp_path


def detect(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["detect", "-json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def make_ssd() -> None:
    Path("ssd.prototxt").write_text(SSD)
    net = Net("ssd.prototxt")
    net.params["conf"][1].data[...] = [0.1, 0.7, 0.2]
    # The prior xmin 0.25, ymin 0.25, xmax 0.5, ymax 0.75; variances of 0.25.
    net.params["bias"][0].data[...] = [[0, 0, 0.25, 0.5], [0, 0, 0, 0]]
    net.save("ssd.caffemodel")


def test_a_net_that_finds_boxes_gives_them_in_pixels(capsys: pytest.CaptureFixture[str]) -> None:
    make_ssd()
    flags = ["-model=ssd.prototxt", "-weights=ssd.caffemodel", "-labels=labels.txt", "image.png"]
    (found,) = detect(capsys, *flags, "-threshold=0.1").values()
    assert [each["name"] for each in found] == ["green", "red"]
    assert [each["score"] for each in found] == pytest.approx([0.7, 0.2])
    box = [found[0][edge] for edge in ("xmin", "ymin", "xmax", "ymax")]
    assert box == pytest.approx([10, 5, 20, 15], abs=1e-4)
    (sure,) = detect(capsys, *flags).values()
    assert [each["name"] for each in sure] == ["green"]


def test_windows_are_classified_one_by_one(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """The net's scores are the mean colours: a window in the red square is red, one beside it green."""
    Path("net.prototxt").write_text(WINDOW_NET)
    Net("net.prototxt").save("w.caffemodel")
    Path("windows.csv").write_text(
        "filename,ymin,xmin,ymax,xmax\nimage.png,4,8,12,16\nimage.png,2,22,18,38\n"
    )
    flags = [
        "-model=net.prototxt",
        "-weights=w.caffemodel",
        "-labels=labels.txt",
        "-windows=windows.csv",
        "-scale=0.1",
    ]
    (found,) = detect(capsys, *flags).values()
    assert {(each["name"], each["xmin"], each["ymin"], each["xmax"], each["ymax"]) for each in found} == {
        ("red", 8, 4, 16, 12),
        ("green", 22, 2, 38, 18),
    }
    (found,) = detect(capsys, *flags, "-background=1").values()
    assert [each["name"] for each in found] == ["red"]
    assert main(["detect", *flags, "-draw", str(folder)]) == 0
    drawn = cv2.imread("image.png")
    assert (drawn[4, 8:16] != (0, 0, 250)).any()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["image", "class", "score", "xmin", "ymin", "xmax", "ymax"]
    assert len(lines) == 4


def test_overlapping_boxes_of_one_class_leave_the_best() -> None:
    def box(label: int, score: float, xmin: float, xmax: float) -> Detection:
        return Detection(label, str(label), score, xmin, 0, xmax, 10)

    worse, best, apart, other = (
        box(1, 0.6, 0, 10),
        box(1, 0.9, 1, 11),
        box(1, 0.5, 30, 40),
        box(2, 0.3, 0, 10),
    )
    assert suppress([worse, best, apart, other], 0.3) == [best, apart, other]
    assert suppress([worse, best], 9 / 11) == [best, worse]  # as much overlap as is allowed


@pytest.mark.parametrize(
    ("windows", "said"),
    [
        ("image.png,1,2,3,4\n", "the windows have no heading"),
        ("filename,ymin,xmin,ymax,xmax\nimage.png,1,2,x,4\n", "windows.csv:2: a window is four numbers"),
        ("filename,ymin,xmin,ymax,xmax\nimage.png,1,2\n", "windows.csv:2: a window is four numbers"),
        ("filename,ymin,xmin,ymax,xmax\nmissing.png,1,2,3,4\n", "cannot read the image"),
    ],
)
def test_windows_that_make_no_sense_are_errors(
    windows: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("net.prototxt").write_text(WINDOW_NET)
    Net("net.prototxt").save("w.caffemodel")
    Path("windows.csv").write_text(windows)
    assert main(["detect", "-model=net.prototxt", "-weights=w.caffemodel", "-windows=windows.csv"]) == 1
    assert said in capsys.readouterr().err


def test_a_net_without_boxes_needs_windows(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.prototxt").write_text(WINDOW_NET)
    Net("net.prototxt").save("w.caffemodel")
    assert main(["detect", "-model=net.prototxt", "-weights=w.caffemodel", "image.png"]) == 1
    assert "-windows" in capsys.readouterr().err
    assert main(["detect", "-model=net.prototxt", "-weights=w.caffemodel"]) == 2
