"""A diagram in Graphviz' language, and the pictures that Graphviz makes of it where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess

from netc.errors import NetcError
from netc.tools.diagram import Diagram

FONT = "Helvetica"


def has_graphviz() -> bool:
    """Whether Graphviz' program `dot` can be run."""
    return shutil.which("dot") is not None


def dot_text(diagram: Diagram, rankdir: str) -> str:
    """The diagram in the dot language; rankdir: TB, BT, LR or RL."""
    names = {box: f"layer{i}" for i, box in enumerate(diagram.boxes)}
    lines = [
        f"digraph {_quoted(diagram.name or 'net')} {{",
        f"  rankdir={rankdir};",
        f'  node [shape=box style="rounded,filled" color="#8a93a3" fontname={FONT} fontsize=11];',
        f'  edge [color="#8a93a3" fontcolor="#5b6472" fontname={FONT} fontsize=9];',
    ]
    for box in diagram.boxes:
        label = _quoted("\n".join(box.lines))
        lines.append(f'  {names[box]} [label={label} fillcolor="{box.colour}"];')
    for arrow in diagram.arrows:
        lines.append(f"  {names[arrow.start]} -> {names[arrow.end]} [label={_quoted(arrow.text)}];")
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def render(dot: str, kind: str) -> bytes:
    """A picture of a dot text, of a kind that Graphviz knows (svg, png, pdf, ...). Raises NetcError."""
    done = subprocess.run(["dot", f"-T{kind}"], input=dot.encode(), capture_output=True, check=False)
    if done.returncode:
        raise NetcError(f"Graphviz failed: {done.stderr.decode(errors='replace').strip()[:500]}")
    return done.stdout
