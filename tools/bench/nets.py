"""The nets of the benchmarks: the zoo's, with inputs that are filled once in place of their data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from netc.errors import NetcError
from netc.graph.rules import included
from netc.layer import LAYER_TYPES, SourceLayer
from netc.proto import netc_pb2 as pb
from netc.schema.net import read_net
from netc.tools.sketch import Request

ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class BenchNet:
    """A net of the zoo: how many images a pass of each benchmark holds (0: not in it), the standard deviation
    of its made-up pixels, its classes, and the learning rate at which contenders are held against each
    other (batch norms over few images blow rounding up: the less, the smaller the step)."""

    name: str
    folder: str
    cpu_batch: int
    gpu_batch: int = 0
    pixels: float = 50.0
    classes: int = 1000
    check_rate: float = 1e-3

    def file(self, name: str) -> Path:
        return ROOT / "models" / self.folder / name


NETS: Final[tuple[BenchNet, ...]] = (
    BenchNet("lenet", "lenet", 64, 64, pixels=0.3, classes=10),
    BenchNet("cifar", "cifar10_quick", 100, 100, classes=10),
    BenchNet("alexnet", "alexnet", 16, 128),
    BenchNet("googlenet", "googlenet", 8, 128),
    BenchNet("vgg16", "vgg16", 4, 64),
    BenchNet("resnet50", "resnet50", 8, 64, check_rate=1e-5),
    BenchNet("squeezenet", "squeezenet", 16),
    BenchNet("mobilenet", "mobilenet", 16),
)


def net_named(name: str) -> BenchNet:
    """The net of a name. Raises NetcError with the names there are."""
    for net in NETS:
        if net.name == name:
            return net
    raise NetcError("the benchmark has no such net", expected=", ".join(net.name for net in NETS), found=name)


def definition_for(net: BenchNet, task: str, batch: int, dropout: bool = True) -> pb.NetParameter:
    """The net of a task, "train" or "infer", as a message whose data come from Input layers.

    dropout: False leaves dropout out, so that two programs can be held against each other.
    """
    definition = training_net(net, batch) if task == "train" else inference_net(net, batch)
    for layer in definition.layer:
        if layer.type == "Dropout" and not dropout:
            layer.dropout_param.dropout_ratio = 0
    return definition


def training_net(net: BenchNet, batch: int) -> pb.NetParameter:
    """The TRAIN net, its data layer replaced by inputs "data" and "label" for `batch` images."""
    whole = read_net(net.file("train_val.prototxt")).message
    training = pb.NetParameter(name=whole.name)
    state = Request(pb.TRAIN).state
    for layer in whole.layer:
        if not included(layer, state):
            continue
        kind = LAYER_TYPES.get(layer.type)
        if kind is not None and issubclass(kind, SourceLayer):
            shapes = ((batch, *image_shape(net)), (batch,))
            layer = _input(layer.name, layer.top, shapes)
        training.layer.append(layer)
    return training


def inference_net(net: BenchNet, batch: int) -> pb.NetParameter:
    """The deploy net for `batch` images."""
    deploy = pb.NetParameter()
    deploy.CopyFrom(read_net(net.file("deploy.prototxt")).message)
    deploy.layer[0].input_param.shape[0].dim[0] = batch
    return deploy


def image_shape(net: BenchNet) -> tuple[int, ...]:
    """Channels, height and width of one image."""
    deploy = read_net(net.file("deploy.prototxt")).message
    return tuple(deploy.layer[0].input_param.shape[0].dim[1:])


def images(net: BenchNet, batch: int) -> dict[str, np.ndarray]:
    """One batch, always the same: data (N, C, H, W) and label (N), in float32."""
    rng = np.random.default_rng(7)
    return {
        "data": (net.pixels * rng.standard_normal((batch, *image_shape(net)))).astype(np.float32),
        "label": rng.integers(0, net.classes, batch).astype(np.float32),
    }


def _input(name: str, tops: Sequence[str], shapes: Sequence[Sequence[int]]) -> pb.LayerParameter:
    layer = pb.LayerParameter(name=name, type="Input", top=tops)
    for shape in shapes:
        layer.input_param.shape.add().dim.extend(shape)
    return layer
