"""What protobuf's descriptors say of a field, in words that every protobuf release understands."""

from __future__ import annotations

from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor

# `label`, the only way before protobuf 6.31, is gone in later releases; 2 is required, 3 repeated.
_REQUIRED, _REPEATED = 2, 3


def is_repeated(field: FieldDescriptor) -> bool:
    known = getattr(field, "is_repeated", None)
    return bool(getattr(field, "label", 0) == _REPEATED if known is None else known)


def is_required(field: FieldDescriptor) -> bool:
    known = getattr(field, "is_required", None)
    return bool(getattr(field, "label", 0) == _REQUIRED if known is None else known)


@cache
def required_names(message: Descriptor) -> tuple[str, ...]:
    """The fields that every message of this kind must give."""
    return tuple(field.name for field in message.fields if is_required(field))
