"""Reads net definitions: prototxt of any age, brought up to the current schema."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

from netc.proto import netc_pb2 as pb
from netc.schema.positions import Positions
from netc.schema.text import Parsed, parse_text, read_text
from netc.schema.upgrade import net_needs_upgrade, upgrade_net

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParsedNet:
    """A current NetParameter and the places of its fields in the file."""

    message: pb.NetParameter
    positions: Positions


def read_net(path: str | os.PathLike[str]) -> ParsedNet:
    """The net in a prototxt file. Raises NetcError, or NetcErrors with all errors of the file."""
    name = os.fspath(path)
    net, was_old = _current(read_text(path, pb.NetParameter))
    if was_old:
        log.warning("%s is of an old form; `netc upgrade_net_proto_text %s NEW` writes it anew", name, name)
    return net


def parse_net(text: str | bytes, file: str = "<text>") -> ParsedNet:
    """The net that `text` spells out. Raises as `read_net`."""
    return _current(parse_text(text, pb.NetParameter, file))[0]


def current_net(message: Any, name: str = "the net") -> Any:
    """A NetParameter of any age as a current one: itself where it is, else a copy. Raises NetcError."""
    if not message.layers and not net_needs_upgrade(message):
        return message
    upgraded = pb.NetParameter()
    upgraded.CopyFrom(message)
    upgrade_net(upgraded, Positions.unknown(name))
    return upgraded


def _current(parsed: Parsed[Any]) -> tuple[ParsedNet, bool]:
    was_old = upgrade_net(parsed.message, parsed.positions)
    return ParsedNet(parsed.message, parsed.positions), was_old
