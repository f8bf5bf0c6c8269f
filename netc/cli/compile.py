"""`netc compile -dump`: shows the program that a net becomes."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags, UsageError
from netc.cli.net_flags import (
    MEMORY_FLAG,
    MODEL,
    NET_FLAGS,
    SHAPE_FLAG,
    choose_device,
    limit_threads,
    read_shapes,
    require,
)
from netc.cli.table import Table

if TYPE_CHECKING:
    from netc.tools.listing import ListedStep, Listing

log = logging.getLogger(__name__)

FLAGS = (
    Flag("model", "string", "", MODEL, metavar="FILE"),
    Flag("phase", "string", "TRAIN", "The net's phase.", choices=("TRAIN", "TEST")),
    Flag("batch", "int", 0, "The items per pass; 0: as the prototxt says."),
    SHAPE_FLAG,
    Flag("dump", "bool", False, "Print every step of the program, not only its totals."),
    Flag(
        "without",
        "list",
        [],
        "Leave out fuse (run chains of layers at once), layout, memory (reuse it) or recompute.",
        metavar="NAME,...",
    ),
    Flag(
        "layout",
        "string",
        "",
        "The layout of images between layers, such as plain or nhwc; by default the backend's first.",
    ),
    Flag("json", "bool", False, "Print JSON for other programs, in place of the table."),
    *NET_FLAGS,
    MEMORY_FLAG,
)
EXAMPLE = "netc compile -model train_val.prototxt -dump"
COLUMNS = ("", "layers", "types", "form", "kernels", "layout", "bytes", "multiply-adds")
ARROWS = {"forward": "->", "again": "again", "backward": "<-"}


def run(flags: Flags) -> int:
    """Compiles the net and prints its program."""
    model = require(flags, "model", EXAMPLE)
    if flags.batch < 0:
        raise UsageError("flag -batch is negative", expected="1 or more, or 0", found=flags.batch)
    shapes = read_shapes(flags.shape)
    limit_threads(flags)
    backend = choose_device(flags)
    from netc.proto import netc_pb2 as pb
    from netc.runtime.demand import CHOICES
    from netc.schema.net import read_net
    from netc.tools.listing import list_program
    from netc.tools.sketch import Request, sketch

    phase = pb.Phase.Value(flags.phase)
    request = Request(phase, flags.level, flags.stage, flags.batch or None, shapes)
    without = frozenset(flags.without)
    if unknown := without - set(CHOICES):
        raise UsageError(
            "flag -without names no step of the compilation",
            expected=", ".join(CHOICES),
            found=", ".join(sorted(unknown)),
        )
    graph = sketch(read_net(model), request)
    listing = list_program(
        graph, backend, backward=phase == pb.TRAIN, without=without, layout=flags.layout or None
    )
    if flags.json:
        print(json.dumps(asdict(listing), indent=2))
    else:
        make_table(listing, steps=flags.dump).show()
    return 0


def make_table(listing: Listing, steps: bool = True) -> Table:
    """The table of a listing; without `steps` only its totals."""
    table = Table(
        COLUMNS, right=frozenset(COLUMNS[-2:]), title=f"{listing.net or 'net'} on {listing.backend}"
    )
    for step in listing.steps if steps else ():
        table.add(*_cells(step))
    saved = 100 * (1 - listing.arena_bytes / listing.unshared_bytes) if listing.unshared_bytes else 0.0
    slow = [step for step in listing.steps if step.variant == "reference"]
    table.notes = [
        f"{len(listing.steps)} steps, {len(slow)} of them by the layers' own meaning"
        + (f": {_types(slow)}" if slow else ""),
        f"activations, gradients and workspaces: {listing.arena_bytes:,} bytes, "
        f"{listing.unshared_bytes:,} without sharing ({saved:.0f} % saved)",
        *_recomputed(listing),
        f"parameters: {listing.parameter_bytes:,} bytes, and as many for their gradients",
    ]
    return table


def _recomputed(listing: Listing) -> list[str]:
    """What is said of steps that run again, where some do."""
    again = sum(len(step.layers) for step in listing.steps if step.direction == "again")
    if not again:
        return []
    without, more = listing.bytes_without_recompute, 100 * listing.extra_work
    return [f"computed again: {again} layers, {more:.1f} % more FLOPs; without that {without:,} bytes"]


def _cells(step: ListedStep) -> tuple[str, ...]:
    return (
        ARROWS[step.direction],
        " + ".join(step.layers),
        " + ".join(step.types),
        step.variant,
        ", ".join(step.kernels) or "-",
        ", ".join(step.layouts) or "-",
        f"{step.bytes:,}",
        f"{step.multiply_adds:,}" if step.multiply_adds else "-",
    )


def _types(steps: list[ListedStep]) -> str:
    return ", ".join(dict.fromkeys(name for step in steps for name in step.types))


COMMAND = Command(
    "compile",
    "show the program that a net becomes",
    run,
    FLAGS,
    notes="""
        Each step is a layer, or several that run at once, in one direction. The form says how it runs: by
        kernels or primitives, or, as `reference`, by the layer's own meaning in NumPy or CuPy. Nothing is
        trained and no data is read: where data cannot be opened, -shape says what it would be. With
        -memory_limit, steps marked `again` make anew what there was no room to keep for backward.
    """,
    examples=(EXAMPLE, "netc compile -model deploy.prototxt -phase TEST -gpu emulated -dump"),
)
