"""Which layers apply the forks' fields of transform_param; elsewhere they would be passed over in silence."""

from __future__ import annotations

from typing import Final

from netc.data.source import Origin
from netc.proto import netc_pb2 as pb

CROPS: Final = {"crop_h", "crop_w"}
FORK_FIELDS: Final = {
    "resize_param",
    "noise_param",
    "distort_param",
    "expand_param",
    "emit_constraint",
    "scale_factors",
    "crop_height",
    "crop_width",
    *CROPS,
}
APPLIED: Final[dict[str, set[str]]] = {
    "ImageSegData": {"scale_factors", "crop_height", "crop_width", *CROPS},
    "AnnotatedData": {
        "resize_param",
        "noise_param",
        "distort_param",
        "expand_param",
        "emit_constraint",
        *CROPS,
    },
}


def check_transform_fields(spec: pb.LayerParameter, origin: Origin) -> None:
    """Raises NetcError where transform_param has a field that this layer type does not apply."""
    for field, _ in spec.transform_param.ListFields():
        if field.name in FORK_FIELDS - APPLIED.get(spec.type, set()):
            types = [name for name, applied in APPLIED.items() if field.name in applied]
            raise origin.error(
                f"a {spec.type} layer does not apply {field.name}",
                "transform_param",
                field.name,
                expected=f"a layer of type {' or '.join(types)}",
                found=spec.type,
                remedy=f"remove {field.name}; images can be resized when they are converted",
            )
