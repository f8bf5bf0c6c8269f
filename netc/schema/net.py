"""Reads net definitions: prototxt of any age, brought up to the current schema."""

from __future__ import annotations

import os
from dataclasses import dataclass

from netc.proto import netc_pb2 as pb
from netc.schema.positions import Positions
from netc.schema.text import parse_text, read_text
from netc.schema.upgrade import upgrade_net


@dataclass(frozen=True)
class ParsedNet:
    """A current NetParameter and the places of its fields in the file."""

    message: pb.NetParameter
    positions: Positions


def read_net(path: str | os.PathLike[str]) -> ParsedNet:
    """The net in a prototxt file. Raises NetcError, or NetcErrors with all errors of the file."""
    parsed = read_text(path, pb.NetParameter)
    upgrade_net(parsed.message, parsed.positions)
    return ParsedNet(parsed.message, parsed.positions)


def parse_net(text: str | bytes, file: str = "<text>") -> ParsedNet:
    """The net that `text` spells out. Raises as `read_net`."""
    parsed = parse_text(text, pb.NetParameter, file)
    upgrade_net(parsed.message, parsed.positions)
    return ParsedNet(parsed.message, parsed.positions)
