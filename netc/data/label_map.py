"""Label maps: the classes of a detection data set, by number."""

from __future__ import annotations

from netc.data.source import Origin
from netc.proto import netc_pb2 as pb
from netc.schema.text import read_text


def read_label_map(path: str, origin: Origin, *field: str) -> dict[int, str]:
    """The name of every label of a label map file (`item { name label display_name }`).

    field: where the path stands in its layer, for messages. Raises NetcError where the file cannot be read,
    or a label or a name stands in it twice.
    """
    names: dict[int, str] = {}
    for item in read_text(path, pb.LabelMap).message.item:
        if item.label in names or item.name in names.values():
            raise origin.error(
                f"the label map {path} holds label {item.label} ({item.name}) twice",
                *field,
                remedy="give every class a label and a name of its own",
            )
        names[item.label] = item.name
    return names
