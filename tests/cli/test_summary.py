"""`netc summary`: counts that are known from lectures and papers, receptive fields worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from netc.cli.main import main

MODELS = Path(__file__).parents[2] / "models"
VGG16 = str(MODELS / "vgg16" / "deploy.prototxt")
LENET = str(MODELS / "lenet" / "train_val.prototxt")


def summary(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["summary", "-json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def rows(found: Any) -> dict[str, Any]:
    return {layer["name"]: layer for layer in found["layers"]}


def write(folder: Path, text: str) -> str:
    path = folder / "net.prototxt"
    path.write_text(text)
    return str(path)


def test_vgg16_has_the_parameters_of_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    found = summary(capsys, VGG16)
    assert found["totals"]["parameters"] == 138_357_544
    first_dense = rows(found)["fc6"]
    assert first_dense["params"] == [[4096, 25088], [4096]]
    assert 4096 * 25088 == 102_760_448
    assert first_dense["multiply_adds"] == 102_760_448


def test_vgg16_has_the_memory_column_of_the_lecture(capsys: pytest.CaptureFixture[str]) -> None:
    """Stanford's CS231n prints 150K, 3.2M, 3.2M, 800K, ... for one image; ReLUs take no memory."""
    lecture = [
        *[150_528, 3_211_264, 3_211_264, 802_816, 1_605_632, 1_605_632, 401_408],
        *[802_816, 802_816, 802_816, 200_704, 401_408, 401_408, 401_408, 100_352],
        *[100_352, 100_352, 100_352, 25_088, 4096, 4096, 1000],
    ]
    found = summary(capsys, VGG16)
    own = [layer["activation_values"] for layer in found["layers"] if not layer["in_place"]]
    assert own == [*lecture, 1000]  # the probabilities come on top
    assert sum(lecture) == 15_237_608
    assert round(4 * sum(lecture) / 2**20) == 58
    assert found["totals"]["activation_bytes"] == 4 * (15_237_608 + 1000)


def test_vgg16_has_the_multiply_adds_of_the_literature(capsys: pytest.CaptureFixture[str]) -> None:
    totals = summary(capsys, VGG16)["totals"]
    assert totals["multiply_adds"] == 15_470_264_320
    # Backward: as much for the weights, as much for the bottoms, but for that of the first layer.
    assert totals["multiply_adds_with_backward"] == 3 * 15_470_264_320 - 86_704_128


@pytest.mark.parametrize(
    ("layer", "size", "stride", "centre"),
    [("conv1_1", 3, 1, 0), ("pool1", 6, 2, 0.5), ("conv3_3", 40, 4, 1.5), ("conv5_3", 196, 16, 7.5),
     ("pool5", 212, 32, 15.5)],
)  # fmt: skip
def test_vgg16_receptive_fields(
    layer: str, size: int, stride: int, centre: float, capsys: pytest.CaptureFixture[str]
) -> None:
    field = rows(summary(capsys, VGG16))[layer]["receptive_field"]
    assert field == {"size": [size] * 2, "stride": [stride] * 2, "centre": [centre] * 2}


def test_behind_an_inner_product_every_value_sees_the_whole_image(capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(summary(capsys, VGG16))
    assert [found[name]["receptive_field"] for name in ("fc6", "relu6", "prob")] == ["whole"] * 3


def test_fields_through_branches_and_uneven_kernels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A branch with a 5x3 kernel beside one of 1x1: together they see what the larger sees."""
    net = write(
        tmp_path,
        """
        layer { name: "data" type: "Input" top: "data"
          input_param { shape { dim: 1 dim: 3 dim: 20 dim: 20 } } }
        layer { name: "wide" type: "Convolution" bottom: "data" top: "wide"
          convolution_param { num_output: 2 kernel_h: 5 kernel_w: 3 pad_h: 2 pad_w: 1 dilation: 1 } }
        layer { name: "narrow" type: "Convolution" bottom: "data" top: "narrow"
          convolution_param { num_output: 2 kernel_size: 1 } }
        layer { name: "both" type: "Concat" bottom: "narrow" bottom: "wide" top: "both" }
        layer { name: "holes" type: "Convolution" bottom: "both" top: "holes"
          convolution_param { num_output: 1 kernel_size: 3 dilation: 2 stride: 2 } }
        """,
    )
    found = rows(summary(capsys, net))
    assert found["both"]["receptive_field"] == {"size": [5, 3], "stride": [1, 1], "centre": [0, 0]}
    assert found["holes"]["receptive_field"] == {"size": [9, 7], "stride": [2, 2], "centre": [2, 2]}


@pytest.mark.parametrize(
    ("layer", "parameters", "multiply_adds"),
    [
        ('type: "Convolution" convolution_param { num_output: 8 kernel_size: 3 group: 2 }', 152, 2304),
        ('type: "Convolution" convolution_param { num_output: 2 kernel_size: 3 bias_term: false }', 72, 1152),
        ('type: "InnerProduct" inner_product_param { num_output: 5 }', 725, 720),
        ('type: "Deconvolution" convolution_param { num_output: 3 kernel_size: 2 stride: 2 }', 51, 1728),
        ('type: "Scale" scale_param { bias_term: true }', 8, 144),
        ('type: "ReLU"', 0, 0),
        ('type: "Pooling" pooling_param { kernel_size: 2 }', 0, 0),
    ],
)  # fmt: skip
def test_what_one_layer_costs(
    layer: str, parameters: int, multiply_adds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On an image of 4 channels and 6x6 cells."""
    net = write(
        tmp_path,
        'layer { name: "data" type: "Input" top: "data"'
        " input_param { shape { dim: 7 dim: 4 dim: 6 dim: 6 } } }"
        f'layer {{ name: "l" bottom: "data" top: "l" {layer} }}',
    )
    found = rows(summary(capsys, net))["l"]
    assert (found["parameters"], found["multiply_adds"]) == (parameters, multiply_adds)
    whole_batch = rows(summary(capsys, "-batch=0", net))["l"]
    assert (whole_batch["parameters"], whole_batch["multiply_adds"]) == (parameters, 7 * multiply_adds)


def test_shared_parameters_count_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin = 'inner_product_param { num_output: 3 } param { name: "w" } param { name: "b" }'
    net = write(
        tmp_path,
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 } } }'
        f'layer {{ name: "a" type: "InnerProduct" bottom: "data" top: "a" {twin} }}'
        f'layer {{ name: "b" type: "InnerProduct" bottom: "a" top: "b" {twin} }}',
    )
    found = summary(capsys, net)
    assert found["totals"]["parameters"] == 12
    assert rows(found)["b"]["parameters"] == 0


def test_shapes_stand_in_for_data_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    found = summary(capsys, "-shape", "data:64,1,28,28", "-phase", "TRAIN", LENET)
    assert found["totals"]["parameters"] == 431_080
    assert found["batch"] == 1
    assert found["guessed_inputs"] == []


def test_without_data_and_shape_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["summary", LENET]) == 1
    assert "-shape data:1,3,224,224" in capsys.readouterr().err


def test_crop_size_stands_in_for_data_and_is_called_a_guess(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = write(
        tmp_path,
        'layer { name: "d" type: "Data" top: "data" top: "label" transform_param { crop_size: 12 }'
        ' data_param { source: "nowhere" batch_size: 4 } }'
        'layer { name: "pool" type: "Pooling" bottom: "data" top: "pool" pooling_param { kernel_size: 2 } }',
    )
    assert summary(capsys, net)["guessed_inputs"] == ["d"]
    assert main(["summary", net]) == 0
    assert "the data of d cannot be read: shapes from crop_size" in capsys.readouterr().out


def test_a_net_that_takes_one_batch_only_is_shown_for_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = write(
        tmp_path,
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 6 dim: 4 } } }'
        'layer { name: "r" type: "Reshape" bottom: "data" top: "r"'
        " reshape_param { shape { dim: 3 dim: 8 } } }",
    )
    assert summary(capsys, net)["batch"] == 6


def test_piped_output_is_plain_aligned_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "-shape", "data:1,1,28,28", LENET]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "LeNet, phase TEST, one item"
    assert lines[1].split("  ")[0] == "layer"
    end = lines[1].index("parameters") + len("parameters")
    conv1 = next(line for line in lines if line.startswith("conv1"))
    assert conv1[:end].endswith(" 520")
    assert conv1.split() == [
        "conv1", "Convolution", "1x20x24x24", "520", "288,000", "11,520", "45.0", "KiB", "5", "1", "2",
    ]  # fmt: skip
    assert all(ord(letter) < 128 for line in lines for letter in line)


@pytest.mark.parametrize("shape", ["data", "data:", "data:1,a", ":1,2", "data:0,1"])
def test_a_shape_that_cannot_be_read_is_a_usage_error(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "-shape", shape, VGG16]) == 2
    assert "-shape cannot be read" in capsys.readouterr().err
