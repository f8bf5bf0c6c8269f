"""`netc lint FILE...`: says what is likely wrong with nets and solvers, where, and what to do about it."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags, UsageError
from netc.cli.net_flags import LEVEL_FLAGS, SHAPE_FLAG, read_shapes
from netc.cli.table import Table, is_drawn

if TYPE_CHECKING:
    from netc.tools.lint import Finding

log = logging.getLogger(__name__)

FLAGS = (
    Flag("strict", "bool", False, "End with exit code 1 where there is an error or a warning."),
    Flag("notes", "bool", True, "Show notes as well: what may well be meant."),
    Flag("rules", "bool", False, "Show the table of rules and stop."),
    Flag("json", "bool", False, "Print JSON for other programs."),
    SHAPE_FLAG,
    *LEVEL_FLAGS,
)
STYLES: Final = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def run(flags: Flags) -> int:
    """Prints the findings of every file named."""
    from netc.tools.lint import lint_file
    from netc.tools.sketch import Request

    if flags.rules:
        _rules_table().show()
        return 0
    if not flags.positionals:
        raise UsageError("netc lint needs a net or a solver", remedy="netc lint solver.prototxt")
    request = Request(level=flags.level, stages=flags.stage, shapes=read_shapes(flags.shape))
    findings = [finding for path in flags.positionals for finding in lint_file(path, request)]
    if not flags.notes:
        findings = [finding for finding in findings if finding.severity != "note"]
    if flags.json:
        print(json.dumps([finding.as_json() for finding in findings], indent=2))
    else:
        _show(findings)
    grave = any(finding.severity != "note" for finding in findings)
    return 1 if flags.strict and grave else 0


def _rules_table() -> Table:
    from netc.tools.lint import ALL_RULES

    table = Table(("rule", "severity", "what it finds"))
    for rule in ALL_RULES:
        table.add(rule.name, rule.severity, rule.about)
    return table


def _show(findings: Sequence[Finding]) -> None:
    if is_drawn():
        from rich.console import Console
        from rich.text import Text

        console = Console(highlight=False)
        for finding in findings:
            head, rest = _lines(finding)
            style = STYLES[finding.severity]
            console.print(Text.assemble((f"{finding.at}: ", "bold"), (finding.severity, style), head))
            console.print(Text(rest, style="dim"))
        console.print(Text(_totals(findings), style="bold"))
        return
    for finding in findings:
        head, rest = _lines(finding)
        print(f"{finding.at}: {finding.severity}{head}\n{rest}")
    print(_totals(findings))


def _lines(finding: Finding) -> tuple[str, str]:
    layer = f" layer {finding.layer}:" if finding.layer else ""
    return f":{layer} {finding.what} [{finding.rule}]", f"  remedy: {finding.remedy or 'as the message says'}"


def _totals(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.severity for finding in findings)
    said = [f"{count} {name}{'s' if count > 1 else ''}" for name in STYLES if (count := counts[name])]
    return ", ".join(said) or "nothing to say"


COMMAND = Command(
    "lint",
    "say what is likely wrong with a net or a solver",
    run,
    FLAGS,
    positionals=("FILE...", ""),
    first=("model", "solver"),
    notes="""
        FILE is the prototxt of a net or of a solver; with a solver its nets are looked at as well. The data
        need not be there, but rules on labels and on counts of records can only then say anything.
    """,
    examples=("netc lint models/lenet/solver.prototxt", "netc lint -strict *.prototxt", "netc lint -rules"),
)
