"""`netc upgrade_net_proto_binary OLD NEW`: writes a .caffemodel of any age in the current form."""

from __future__ import annotations

import logging

from netc.cli.command import Command
from netc.cli.flags import Flags

log = logging.getLogger(__name__)


def run(flags: Flags) -> int:
    """Upgrades the net with its weights and logs what was changed."""
    from netc.schema.upgrade import upgrade_net_binary

    old, new = flags.positionals
    upgrade_net_binary(old, new)
    log.info(
        "Wrote upgraded NetParameter binary proto to %s",
        new,
        extra={"source": "upgrade_net_proto_binary.cpp:45"},
    )
    return 0


COMMAND = Command(
    "upgrade_net_proto_binary",
    "write a .caffemodel of any age in the current form",
    run,
    positionals=("OLD NEW",),
    notes="What is changed is logged. netc reads weights of any age as they are; other programs may not.",
    examples=("netc upgrade_net_proto_binary old.caffemodel new.caffemodel",),
)
