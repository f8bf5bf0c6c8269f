"""`netc upgrade_net_proto_text OLD NEW`: writes a net's prototxt of any age in the current form."""

from __future__ import annotations

import logging

from netc.cli.command import Command
from netc.cli.flags import Flags
from netc.cli.text_file import write_text

log = logging.getLogger(__name__)


def run(flags: Flags) -> int:
    """Upgrades the net and logs what was changed."""
    from netc.schema.text import format_text
    from netc.schema.upgrade import upgrade_net_text

    old, new = flags.positionals
    write_text(new, format_text(upgrade_net_text(old)))
    log.info(
        "Wrote upgraded NetParameter text proto to %s", new, extra={"source": "upgrade_net_proto_text.cpp:49"}
    )
    return 0


COMMAND = Command(
    "upgrade_net_proto_text",
    "write a net's prototxt of any age in the current form",
    run,
    positionals=("OLD NEW",),
    notes="What is changed is logged. Comments are lost.",
    examples=("netc upgrade_net_proto_text old.prototxt new.prototxt",),
)
