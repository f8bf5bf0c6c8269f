"""What a misspelt or misplaced name was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from google.protobuf.descriptor import Descriptor, FieldDescriptor


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """`did you mean X?` for the nearest of the known names; a difference in case alone counts as none."""
    names = list(known)
    folded = {candidate.lower(): candidate for candidate in reversed(names)}
    if name.lower() in folded:
        return f"did you mean {folded[name.lower()]}?"
    near = difflib.get_close_matches(name[:100].lower(), list(folded), n=1, cutoff=0.6)
    return f"did you mean {folded[near[0]]}?" if near else None


def remedy_for_field(
    name: str, message: Descriptor, around: Sequence[tuple[str, Descriptor]], layer_type: str = ""
) -> str | None:
    """What to do about a field `name` that `message` does not have.

    around: the enclosing fields and their messages, outermost first, the last being `message` itself;
    layer_type: the type of the layer, if its message is the one that lacks the field.
    """
    inner = _messages_with(name, message, layer_type)
    if inner:
        shown = " or ".join(f"{field.name} {{ {name} }}" for field in inner[:3])
        return f"it belongs inside: {shown}"
    for depth in range(len(around) - 2, -1, -1):
        outer_name, outer = around[depth]
        if name in outer.fields_by_name:
            return f"it belongs to the {outer_name or outer.name} around it"
        siblings = [
            field for field in _messages_with(name, outer, layer_type) if field.message_type != message
        ]
        if siblings and depth == len(around) - 2:
            near = did_you_mean(name, message.fields_by_name)
            shown = " or ".join(f"{field.name} {{ {name} }}" for field in siblings[:3])
            return f"{near} {name} belongs inside: {shown}" if near else f"it belongs inside: {shown}"
    return did_you_mean(name, message.fields_by_name)


def _messages_with(name: str, message: Descriptor, layer_type: str) -> list[FieldDescriptor]:
    """The message fields of `message` that have a field `name`; if the layer's own is one, that alone."""
    found = [f for f in message.fields if f.message_type and name in f.message_type.fields_by_name]
    own = [f for f in found if f.name.replace("_", "") == layer_type.lower() + "param"]
    return own or found
