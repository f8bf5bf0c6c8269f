"""The second syntax of Caffe, `layers { type: CONVOLUTION ... }`, brought to the current one by tables."""

from __future__ import annotations

from typing import Any

from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.schema.positions import Path
from netc.schema.upgrade_rule import Place, Report, assign

V1 = pb.V1LayerParameter
TYPES = {
    V1.NONE: "",
    V1.ABSVAL: "AbsVal",
    V1.ACCURACY: "Accuracy",
    V1.ARGMAX: "ArgMax",
    V1.BNLL: "BNLL",
    V1.CONCAT: "Concat",
    V1.CONTRASTIVE_LOSS: "ContrastiveLoss",
    V1.CONVOLUTION: "Convolution",
    V1.DATA: "Data",
    V1.DECONVOLUTION: "Deconvolution",
    V1.DROPOUT: "Dropout",
    V1.DUMMY_DATA: "DummyData",
    V1.ELTWISE: "Eltwise",
    V1.EUCLIDEAN_LOSS: "EuclideanLoss",
    V1.EXP: "Exp",
    V1.FLATTEN: "Flatten",
    V1.HDF5_DATA: "HDF5Data",
    V1.HDF5_OUTPUT: "HDF5Output",
    V1.HINGE_LOSS: "HingeLoss",
    V1.IM2COL: "Im2col",
    V1.IMAGE_DATA: "ImageData",
    V1.INFOGAIN_LOSS: "InfogainLoss",
    V1.INNER_PRODUCT: "InnerProduct",
    V1.LRN: "LRN",
    V1.MEMORY_DATA: "MemoryData",
    V1.MULTINOMIAL_LOGISTIC_LOSS: "MultinomialLogisticLoss",
    V1.MVN: "MVN",
    V1.POOLING: "Pooling",
    V1.POWER: "Power",
    V1.RELU: "ReLU",
    V1.SIGMOID: "Sigmoid",
    V1.SIGMOID_CROSS_ENTROPY_LOSS: "SigmoidCrossEntropyLoss",
    V1.SILENCE: "Silence",
    V1.SLICE: "Slice",
    V1.SOFTMAX: "Softmax",
    V1.SOFTMAX_LOSS: "SoftmaxWithLoss",
    V1.SPLIT: "Split",
    V1.TANH: "TanH",
    V1.THRESHOLD: "Threshold",
    V1.WINDOW_DATA: "WindowData",
}
# The lists with one entry for each parameter; now each parameter has a message.
PARAM_LISTS = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}
# The layers whose transforms once stood in their own messages, and those transforms.
TRANSFORMED = {
    V1.DATA: "data_param",
    V1.IMAGE_DATA: "image_data_param",
    V1.WINDOW_DATA: "window_data_param",
}
TRANSFORMS = ("scale", "mean_file", "crop_size", "mirror")


def is_v1(net: Any) -> bool:
    """Whether the net has layers in the second syntax."""
    return len(net.layers) > 0


def refuse_mixed(net: Any, place: Place) -> None:
    """Raises NetcError where a net has layers in the current syntax and in an older one."""
    if net.layer and net.layers:
        raise NetcError(
            "the net mixes `layer` and `layers`",
            at=place.at("layers", 0),
            remedy="write every layer as layer { ... }",
        )


def upgrade_v1(net: Any, place: Place) -> Report:
    """Rewrites every layer in the current syntax."""
    for old in net.layers:
        _fill(net.layer.add(), old)
    changes = [f'layers {{ type: CONVOLUTION }} -> layer {{ type: "Convolution" }}, {len(net.layer)} times']
    for name, new_name in PARAM_LISTS.items():
        times = sum(len(getattr(layer, name)) for layer in net.layers)
        if times:
            changes.append(f"{name} -> param {{ {new_name} }}, {times} times")
    net.ClearField("layers")
    place.rename(_renamed)
    return Report(changes)


def _fill(new: Any, old: Any) -> None:
    for field, value in old.ListFields():
        if field.name in PARAM_LISTS:
            for index, entry in enumerate(value):
                while len(new.param) <= index:
                    new.param.add()
                setattr(new.param[index], PARAM_LISTS[field.name], entry)
        elif field.name == "type":
            new.type = TYPES[value]
        else:
            assign(new, (field.name,), value, field)


def _renamed(path: Path) -> Path:
    """The path of a position, as it is after the upgrade."""
    if path[0] != "layers":
        return path
    if len(path) == 4 and path[2] in PARAM_LISTS:
        return ("layer", path[1], "param", path[3], PARAM_LISTS[str(path[2])])
    return ("layer", *path[1:])


# Transforms of data layers


def has_old_transforms(net: Any) -> bool:
    """Whether a data layer in the second syntax has transforms in its own message."""
    return any(_old_transforms(layer) for layer in net.layers)


def _old_transforms(layer: Any) -> list[str]:
    if layer.type not in TRANSFORMED:
        return []
    return [name for name in TRANSFORMS if getattr(layer, TRANSFORMED[layer.type]).HasField(name)]


def move_transforms(net: Any, place: Place) -> Report:
    """Moves the transforms of data layers from their own messages to transform_param."""
    changes = []
    moved: dict[Path, Path] = {}
    for index, layer in enumerate(net.layers):
        if layer.type not in TRANSFORMED:
            continue
        name = TRANSFORMED[layer.type]
        own, names = getattr(layer, name), _old_transforms(layer)
        # Where one layer needs the change, Caffe gives both messages to every data layer.
        own.SetInParent()
        layer.transform_param.SetInParent()
        for transform in names:
            setattr(layer.transform_param, transform, getattr(own, transform))
            own.ClearField(transform)
            moved["layers", index, name, transform] = ("layers", index, "transform_param", transform)
        if names:
            where = place.at("layers", index, name)
            changes.append(f"{where}: {', '.join(names)} of {name} moved to transform_param")
    place.rename(lambda path: moved.get(path, path))
    return Report(changes)
