"""The first syntax of Caffe, `layers { layer { type: "conv" ... } }`, brought to the second by tables.

Zero padding was a layer of its own then; it becomes the `pad` of the convolution or pooling that reads it.
"""

from __future__ import annotations

from typing import Any

from netc.errors import NetcError, raise_errors
from netc.proto import netc_pb2 as pb
from netc.schema.positions import Path
from netc.schema.suggestions import did_you_mean
from netc.schema.upgrade_rule import Place, Report, assign

PADDING = "padding"
PADDED = ("conv", "pool")
NET_INPUT = -1

V1 = pb.V1LayerParameter
TYPES = {
    "accuracy": V1.ACCURACY,
    "bnll": V1.BNLL,
    "concat": V1.CONCAT,
    "conv": V1.CONVOLUTION,
    "data": V1.DATA,
    "dropout": V1.DROPOUT,
    "euclidean_loss": V1.EUCLIDEAN_LOSS,
    "flatten": V1.FLATTEN,
    "hdf5_data": V1.HDF5_DATA,
    "hdf5_output": V1.HDF5_OUTPUT,
    "im2col": V1.IM2COL,
    "images": V1.IMAGE_DATA,
    "infogain_loss": V1.INFOGAIN_LOSS,
    "innerproduct": V1.INNER_PRODUCT,
    "lrn": V1.LRN,
    "multinomial_logistic_loss": V1.MULTINOMIAL_LOGISTIC_LOSS,
    "pool": V1.POOLING,
    "relu": V1.RELU,
    "sigmoid": V1.SIGMOID,
    "softmax": V1.SOFTMAX,
    "softmax_loss": V1.SOFTMAX_LOSS,
    "split": V1.SPLIT,
    "tanh": V1.TANH,
    "window_data": V1.WINDOW_DATA,
}
MESSAGES = {
    "concat": "concat_param",
    "conv": "convolution_param",
    "data": "data_param",
    "dropout": "dropout_param",
    "hdf5_data": "hdf5_data_param",
    "images": "image_data_param",
    "infogain_loss": "infogain_loss_param",
    "innerproduct": "inner_product_param",
    "lrn": "lrn_param",
    "pool": "pooling_param",
    "window_data": "window_data_param",
}
# Where a field goes whatever the layer's type.
EVERYWHERE: dict[str, tuple[str, ...]] = {
    "name": ("name",),
    "blobs": ("blobs",),
    "blobs_lr": ("blobs_lr",),
    "weight_decay": ("weight_decay",),
    "scale": ("transform_param", "scale"),
    "meanfile": ("transform_param", "mean_file"),
    "cropsize": ("transform_param", "crop_size"),
    "mirror": ("transform_param", "mirror"),
}
# The fields that only some types have: those types, and the field's name in their own messages.
OF_TYPES: dict[str, tuple[tuple[str, ...], str]] = {
    "num_output": (("conv", "innerproduct"), "num_output"),
    "biasterm": (("conv", "innerproduct"), "bias_term"),
    "weight_filler": (("conv", "innerproduct"), "weight_filler"),
    "bias_filler": (("conv", "innerproduct"), "bias_filler"),
    "pad": (("conv", "pool"), "pad"),
    "kernelsize": (("conv", "pool"), "kernel_size"),
    "stride": (("conv", "pool"), "stride"),
    "group": (("conv",), "group"),
    "pool": (("pool",), "pool"),
    "dropout_ratio": (("dropout",), "dropout_ratio"),
    "local_size": (("lrn",), "local_size"),
    "alpha": (("lrn",), "alpha"),
    "beta": (("lrn",), "beta"),
    "k": (("lrn",), "k"),
    "source": (("data", "hdf5_data", "images", "window_data", "infogain_loss"), "source"),
    "batchsize": (("data", "hdf5_data", "images", "window_data"), "batch_size"),
    "rand_skip": (("data", "images"), "rand_skip"),
    "shuffle_images": (("images",), "shuffle"),
    "new_height": (("images",), "new_height"),
    "new_width": (("images",), "new_width"),
    "concat_dim": (("concat",), "concat_dim"),
    "det_fg_threshold": (("window_data",), "fg_threshold"),
    "det_bg_threshold": (("window_data",), "bg_threshold"),
    "det_fg_fraction": (("window_data",), "fg_fraction"),
    "det_context_pad": (("window_data",), "context_pad"),
    "det_crop_mode": (("window_data",), "crop_mode"),
}
KEPT = ("layer", "bottom", "top")  # what Caffe takes of `layers { ... }` itself


def is_v0(net: Any) -> bool:
    """Whether any layer is written in the first syntax."""
    return any(layer.HasField("layer") for layer in net.layers)


def upgrade_v0(net: Any, place: Place) -> Report:
    """Rewrites every layer in the second syntax, padding layers folded away first."""
    report = Report(_fold_padding(net, place))
    errors = []
    types: dict[int, str] = {}
    for index, layer in enumerate(net.layers):
        if not layer.HasField("layer"):
            continue
        types[index] = layer.layer.type
        try:
            upgraded = _layer(layer, place, index, report.problems)
        except NetcError as error:
            errors.append(error)
        else:
            layer.CopyFrom(upgraded)
    raise_errors(errors)
    place.rename(lambda path: _renamed(path, types))
    report.changes.append(
        f'layers {{ layer {{ type: "conv" }} }} -> layers {{ type: CONVOLUTION }}, {len(types)} times'
    )
    return report


def _layer(old: Any, place: Place, index: int, problems: list[str]) -> Any:
    """One layer in the second syntax. Raises NetcError for a type that there never was."""
    kind = old.layer.type
    if kind not in TYPES:
        raise NetcError(
            f'unknown layer type "{kind}"' if kind else "the layer has no type",
            at=place.at("layers", index, "layer", "type"),
            layer=old.layer.name or None,
            expected="" if kind else ", ".join(TYPES),
            remedy=did_you_mean(kind, TYPES) or f"known types: {', '.join(TYPES)}",
        )
    new = V1(bottom=old.bottom, top=old.top, type=TYPES[kind])
    for field, value in old.layer.ListFields():
        path = _target(field.name, kind)
        if path:
            assign(new, path, value, field)
        elif field.name != "type":
            where = place.at("layers", index, "layer", field.name)
            problems.append(
                f'{where}: {field.name} has no meaning in a layer of type "{kind}" and is left out'
            )
    for field, _ in old.ListFields():
        if field.name not in KEPT:
            where = place.at("layers", index, field.name)
            problems.append(f"{where}: {field.name} beside layer {{ }} is left out; it is of a later syntax")
    return new


def _target(name: str, kind: str) -> tuple[str, ...] | None:
    """The path of an old field in the new layer; None where the type has no such field."""
    if name in EVERYWHERE:
        return EVERYWHERE[name]
    if name == "hdf5_output_param":
        return (name,) if kind == "hdf5_output" else None
    kinds, new_name = OF_TYPES.get(name, ((), ""))
    return (MESSAGES[kind], new_name) if kind in kinds else None


def _renamed(path: Path, types: dict[int, str]) -> Path | None:
    """The path of a position, as it is after the upgrade."""
    if len(path) < 3 or path[0] != "layers" or path[2] != "layer":
        return path
    index = path[1]
    if not isinstance(index, int) or index not in types or len(path) == 3:
        return None
    name = str(path[3])
    target = ("type",) if name == "type" else _target(name, types[index])
    return ("layers", index, *target, *path[4:]) if target else None


# Padding


def _fold_padding(net: Any, place: Place) -> list[str]:
    """Gives every padding layer's pad to the layer that reads it, removes it, and says so."""
    changes: list[str] = []
    errors: list[NetcError] = []
    makers = dict.fromkeys(net.input, NET_INPUT)
    for index, layer in enumerate(net.layers):
        for j, name in enumerate(layer.bottom):
            if name not in makers:
                errors.append(_unknown_bottom(name, layer, place.at("layers", index, "bottom", j), makers))
                continue
            maker = makers[name]
            if maker == NET_INPUT or net.layers[maker].layer.type != PADDING:
                continue
            padding = net.layers[maker]
            error = _padding_error(layer, padding)
            if error:
                error.at, error.layer = place.at("layers", index), layer.layer.name
                errors.append(error)
                continue
            layer.layer.pad = padding.layer.pad
            layer.bottom[j] = padding.bottom[0]
            place.copy(("layers", maker, "layer", "pad"), ("layers", index, "layer", "pad"))
            changes.append(
                f"{place.at('layers', maker)}: padding layer {padding.layer.name} is now "
                f"pad: {padding.layer.pad} of layer {layer.layer.name}"
            )
        makers.update(dict.fromkeys(layer.top, index))
    raise_errors(errors)
    _remove_padding(net, place)
    return changes


def _unknown_bottom(name: str, layer: Any, at: Any, makers: dict[str, int]) -> NetcError:
    return NetcError(
        f"unknown bottom blob {name!r}",
        at=at,
        layer=layer.layer.name or None,
        blob=name,
        remedy=did_you_mean(name, makers) or "name a top of an earlier layer, or one of the net's inputs",
    )


def _padding_error(reader: Any, padding: Any) -> NetcError | None:
    """Why a layer cannot take in the padding layer that it reads; without its place."""
    if reader.layer.type not in PADDED:
        return NetcError(
            "a padding layer must be read by a convolution or a pooling layer",
            expected=" or ".join(PADDED),
            found=reader.layer.type or "a layer in a later syntax",
        )
    if len(reader.bottom) != 1:
        return NetcError("a padded layer has one bottom", expected=1, found=len(reader.bottom))
    if len(padding.bottom) != 1 or len(padding.top) != 1:
        found = f"{len(padding.bottom)} and {len(padding.top)} (layer {padding.layer.name})"
        return NetcError("a padding layer has one bottom and one top", expected="1 and 1", found=found)
    return None


def _remove_padding(net: Any, place: Place) -> None:
    stays = [layer.layer.type != PADDING for layer in net.layers]
    new_index = [sum(stays[:index]) for index in range(len(stays))]
    for index in reversed(range(len(stays))):
        if not stays[index]:
            del net.layers[index]

    def moved(path: Path) -> Path | None:
        if path[0] != "layers" or len(path) < 2 or not isinstance(path[1], int):
            return path
        return ("layers", new_index[path[1]], *path[2:]) if stays[path[1]] else None

    place.rename(moved)
