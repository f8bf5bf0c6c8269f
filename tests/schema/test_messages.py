"""The messages: Caffe's names, numbers, types and defaults, and netc's own beside them, from 5000 up."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from netc.proto import netc_pb2 as pb
from netc.schema.text import parse_text

Field = descriptor_pb2.FieldDescriptorProto

OWN = 5000  # the first number that is no fork's
# Messages that SSD's databases hold in binary form: the numbers are SSD's.
RECORDS = {
    "AnnotatedDatum": {"datum": 1, "type": 2, "annotation_group": 3},
    "AnnotationGroup": {"group_label": 1, "annotation": 2},
    "Annotation": {"instance_id": 1, "bbox": 2},
    "NormalizedBBox": {
        name: i
        for i, name in enumerate(("xmin", "ymin", "xmax", "ymax", "label", "difficult", "score", "size"), 1)
    },
}

GOLDEN = Path(__file__).parent.parent / "golden" / "schema"


def rows(name: str) -> list[dict[str, str]]:
    with open(GOLDEN / name, newline="") as file:
        return list(csv.DictReader(file))


FILE = descriptor_pb2.FileDescriptorProto.FromString(pb.DESCRIPTOR.serialized_pb)
MESSAGES = {message.name: {field.name: field for field in message.field} for message in FILE.message_type}
ENUMS = {enum.name: enum for enum in FILE.enum_type} | {
    f"{message.name}.{enum.name}": enum for message in FILE.message_type for enum in message.enum_type
}


def type_name(field: Field) -> str:
    return field.type_name.removeprefix(".netc.") or Field.Type.Name(field.type).removeprefix("TYPE_").lower()


def same_default(field: Field, stated: str) -> bool:
    if field.type in (Field.TYPE_FLOAT, Field.TYPE_DOUBLE) and stated:
        return field.HasField("default_value") and np.float32(field.default_value) == np.float32(stated)
    return field.default_value == stated


@pytest.mark.parametrize("row", rows("fields.csv"), ids=lambda row: f"{row['message']}.{row['field']}")
def test_fields_are_caffes(row: dict[str, str]) -> None:
    field = MESSAGES[row["message"]][row["field"]]
    assert field.number == int(row["number"])
    assert type_name(field) == row["type"]
    assert Field.Label.Name(field.label) == f"LABEL_{row['label'].upper()}"
    assert same_default(field, row["default"])
    assert field.options.packed == (row["packed"] == "packed")


@pytest.mark.parametrize("row", rows("enums.csv"), ids=lambda row: f"{row['enum']}.{row['value']}")
def test_enum_values_are_caffes(row: dict[str, str]) -> None:
    numbers = {value.name: value.number for value in ENUMS[row["enum"]].value}
    assert numbers[row["value"]] == int(row["number"])


def test_own_fields_take_numbers_that_no_fork_uses() -> None:
    caffes = {(row["message"], row["field"]) for row in rows("fields.csv")}
    own = {
        (message, name): field.number
        for message, fields in MESSAGES.items()
        for name, field in fields.items()
        if (message, name) not in caffes and message not in RECORDS
    }
    assert len(own) > 200
    assert [name for name, number in own.items() if number < OWN] == []


def test_own_values_of_caffes_enums_take_numbers_that_no_fork_uses() -> None:
    caffes: dict[str, set[str]] = {}
    for row in rows("enums.csv"):
        caffes.setdefault(row["enum"], set()).add(row["value"])
    own = [value for name, known in caffes.items() for value in ENUMS[name].value if value.name not in known]
    assert {value.name for value in own} == {"PRE_FIXED", "MKL2017", "MKLDNN"}
    assert all(value.number >= OWN for value in own)


def test_records_have_the_numbers_of_ssds_databases() -> None:
    for name, fields in RECORDS.items():
        assert {field.name: field.number for field in MESSAGES[name].values()} == fields


def test_numbers_of_forks_are_read_by_name() -> None:
    text = "layer { loss_param { normalization: PRE_FIXED } convolution_param { engine: MKLDNN } }"
    layer = parse_text(text, pb.NetParameter, "net.prototxt").message.layer[0]
    assert layer.loss_param.normalization == pb.LossParameter.PRE_FIXED
    assert layer.convolution_param.engine == pb.ConvolutionParameter.MKLDNN
