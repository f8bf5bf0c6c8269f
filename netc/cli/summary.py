"""`netc summary NET`: a table of the layers with what each costs and sees, and the totals."""

from __future__ import annotations

import json
import logging
from fractions import Fraction
from typing import TYPE_CHECKING

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags, UsageError
from netc.cli.net_flags import LEVEL_FLAGS, PHASE_FLAG, SHAPE_FLAG, read_shapes
from netc.cli.table import Table

if TYPE_CHECKING:
    from netc.tools.receptive_field import Field
    from netc.tools.summary import LayerSummary, Summary

log = logging.getLogger(__name__)

FLAGS = (
    PHASE_FLAG,
    Flag("batch", "int", 1, "The items per pass; 0: as the prototxt says."),
    SHAPE_FLAG,
    Flag("json", "bool", False, "Print JSON for other programs."),
    *LEVEL_FLAGS,
)
COLUMNS = (
    "layer",
    "type",
    "output",
    "parameters",
    "multiply-adds",
    "activations",
    "bytes",
    "field",
    "stride",
    "centre",
)
TEXT_COLUMNS = {"layer", "type", "output"}


def run(flags: Flags) -> int:
    """Prints the summary of the net named."""
    if flags.batch < 0:
        raise UsageError("flag -batch is negative", expected="1 or more, or 0", found=flags.batch)
    shapes = read_shapes(flags.shape)
    from netc.proto import netc_pb2 as pb
    from netc.schema.net import read_net
    from netc.tools.sketch import Request, sketch
    from netc.tools.summary import as_json, summarize

    request = Request(pb.Phase.Value(flags.phase), flags.level, flags.stage, flags.batch or None, shapes)
    summary = summarize(sketch(read_net(flags.positionals[0]), request))
    if flags.json:
        print(json.dumps(as_json(summary), indent=2))
    else:
        make_table(summary).show()
    return 0


def make_table(summary: Summary) -> Table:
    """The table of a summary."""
    items = "one item" if summary.batch == 1 else f"a batch of {summary.batch}"
    table = Table(
        COLUMNS,
        right=frozenset(COLUMNS) - TEXT_COLUMNS,
        title=f"{summary.net or 'net'}, phase {summary.phase}, {items}",
    )
    for layer in summary.layers:
        table.add(*_cells(layer))
    total = summary.total
    table.total = (
        "total",
        "",
        "",
        f"{total.parameters:,}",
        f"{total.multiply_adds:,}",
        f"{total.values:,}",
        byte_text(total.values * 4),
        *[""] * 3,
    )
    table.notes = list(_notes(summary))
    return table


def _cells(layer: LayerSummary) -> tuple[str, ...]:
    cost = layer.cost
    return (
        layer.name,
        layer.type,
        ", ".join("x".join(map(str, shape)) or "scalar" for _, shape in layer.tops) or "-",
        f"{cost.parameters:,}" if cost.parameters else ("shared" if layer.params else "-"),
        f"{cost.multiply_adds:,}" if cost.multiply_adds else "-",
        f"{cost.values:,}" if cost.values else ("in place" if layer.in_place else "-"),
        byte_text(cost.values * 4) if cost.values else "-",
        *_field_cells(layer.field),
    )


def _field_cells(field: Field | None) -> tuple[str, str, str]:
    if field is None:
        return ("-", "-", "-")
    if field.whole:
        return ("whole", "-", "-")
    sizes, strides, centres = (
        [getattr(axis, name) for axis in field.axes] for name in ("size", "stride", "centre")
    )
    return _per_axis(sizes), _per_axis(strides), _per_axis(centres)


def _per_axis(numbers: list[Fraction]) -> str:
    """One number where all axes agree."""
    texts = [f"{float(number):g}" for number in numbers]
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)


def _notes(summary: Summary) -> list[str]:
    total = summary.total
    both = total.multiply_adds + total.backward_multiply_adds
    notes = [
        f"forward: {count_text(total.multiply_adds)} multiply-adds, activations {byte_text(total.values * 4)}"
        f" (as netc lays them out: {byte_text(summary.forward_bytes)})",
        f"forward and backward: {count_text(both)} multiply-adds, activations with gradients"
        f" {byte_text((total.values + total.gradient_values) * 4)}"
        + (
            f" (as netc lays them out: {byte_text(summary.training_bytes)})" if summary.training_bytes else ""
        ),
        f"parameters: {byte_text(total.parameters * 4)}; with gradients and momentum"
        f" {byte_text(total.parameters * 12)}",
    ]
    if summary.guessed:
        notes.append(f"the data of {', '.join(summary.guessed)} cannot be read: shapes from crop_size")
    return notes


def byte_text(number: int) -> str:
    """Bytes with a unit of 1024: 58.1 MiB."""
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def count_text(number: int) -> str:
    """A large count in thousands, millions or thousand millions: 15.5 G."""
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.4g} {letter}"
    return str(number)


COMMAND = Command(
    "summary",
    "show what every layer of a net costs and sees",
    run,
    FLAGS,
    positionals=("NET",),
    first=("model",),
    notes="""
        NET is a prototxt. Multiply-adds are the multiplications by weights; activations are the values that
        get memory of their own, 4 bytes each; the field is how many pixels of the image one cell of the
        layer's output sees, stride how far the next cell's field is away, centre where that of the first
        cell lies (the first pixel is 0).

        The data need not be there: a crop_size or -shape says as much.
    """,
    examples=(
        "netc summary models/vgg16/deploy.prototxt",
        "netc summary -shape data:1,1,28,28 -json models/lenet/train_val.prototxt",
    ),
)
