"""A diagram as SVG, laid out by netc itself: for machines without Graphviz."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from html import escape
from itertools import pairwise
from typing import Final

from netc.tools.diagram import Box, Diagram
from netc.tools.layered_layout import ROW_GAP, Layout, Place, lay_out

FONT_SIZE: Final = 12
LABEL_SIZE: Final = 10
LETTER: Final = 0.58  # the mean width of a letter, in font sizes
LINE: Final = 16.0
PADDING: Final = 10.0
MARGIN: Final = 20.0
TITLE: Final = 34.0
STYLE: Final = (
    "text{font-family:Helvetica,Arial,sans-serif;fill:#1f2733}"
    f".box{{stroke:#8a93a3;stroke-width:1}}.name{{font-weight:600;font-size:{FONT_SIZE}px}}"
    f".what{{font-size:{FONT_SIZE - 1}px;fill:#3c4655}}.blob{{font-size:{LABEL_SIZE}px;fill:#5b6472;"
    "stroke:#fff;stroke-width:3px;paint-order:stroke}"
    ".arrow{fill:none;stroke:#8a93a3;stroke-width:1.2}.title{font-size:17px;font-weight:600}"
)


def svg_text(diagram: Diagram, rankdir: str) -> str:
    """The diagram as an SVG document; rankdir: TB, BT, LR or RL."""
    return _Painter(diagram, rankdir).document()


class _Painter:
    """Lays out for TB; other directions swap or mirror the coordinates."""

    def __init__(self, diagram: Diagram, rankdir: str) -> None:
        self.diagram = diagram
        self.sideways = rankdir in ("LR", "RL")
        self.mirrored = rankdir in ("BT", "RL")
        sizes: dict[Hashable, tuple[float, float]] = {}
        for box in diagram.boxes:
            width, height = _box_size(box)
            sizes[box] = (height, width) if self.sideways else (width, height)
        # Sideways, labels stand in the gaps between rows and need their whole length there.
        gap = ROW_GAP + (self._longest_label() if self.sideways else 0)
        edges = [(arrow.start, arrow.end) for arrow in diagram.arrows]
        self.layout: Layout = lay_out(sizes, edges, gap)
        self.size = (self.layout.width, self.layout.height)
        if self.sideways:
            self.size = self.size[::-1]

    def _longest_label(self) -> float:
        return max((len(arrow.text) * LETTER * LABEL_SIZE for arrow in self.diagram.arrows), default=0.0)

    def document(self) -> str:
        width, height = self.size[0] + 2 * MARGIN, self.size[1] + 2 * MARGIN + TITLE
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
            f' viewBox="0 0 {width:.0f} {height:.0f}">',
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
            ' orient="auto"><path d="M0 0L8 4L0 8z" fill="#8a93a3"/></marker></defs>',
            '<rect width="100%" height="100%" fill="#fff"/>',
            f'<text class="title" x="{MARGIN}" y="{MARGIN + 8}">{escape(self.diagram.name or "net")}</text>',
            f'<g transform="translate({MARGIN} {MARGIN + TITLE})">',
        ]
        parts += [self._arrow(path) for path in self.layout.paths]
        parts += [self._box(box) for box in self.diagram.boxes]
        parts += self._labels()
        return "\n".join([*parts, "</g>", "</svg>"]) + "\n"

    def _point(self, x: float, y: float) -> tuple[float, float]:
        if self.mirrored:
            y = self.layout.height - y
        return (y, x) if self.sideways else (x, y)

    def _arrow(self, path: list[Place]) -> str:
        """A curve from row to row, straight where it passes one by."""
        parts = [f"M{self._pair(path[0].x, path[0].y + path[0].height / 2)}"]
        for upper, lower in pairwise(path):
            y0, y1 = upper.y + upper.height / 2, lower.y - lower.height / 2
            bend = (y1 - y0) / 2
            ends = ((upper.x, y0 + bend), (lower.x, y1 - bend), (lower.x, y1))
            parts.append("C" + " ".join(self._pair(*end) for end in ends))
            if lower is not path[-1]:
                parts.append(f"L{self._pair(lower.x, lower.y + lower.height / 2)}")
        return f'<path class="arrow" marker-end="url(#tip)" d="{"".join(parts)}"/>'

    def _pair(self, x: float, y: float) -> str:
        x, y = self._point(x, y)
        return f"{x:.1f} {y:.1f}"

    def _box(self, box: Box) -> str:
        place = self.layout.places[box]
        x, y = self._point(place.x, place.y)
        width, height = _box_size(box)
        lines = [
            f'<rect class="box" x="{x - width / 2:.1f}" y="{y - height / 2:.1f}" width="{width:.1f}"'
            f' height="{height:.1f}" rx="6" fill="{box.colour}"/>'
        ]
        for i, text in enumerate(box.lines):
            at = y - height / 2 + PADDING + LINE * (i + 0.75) - 2
            lines.append(
                f'<text class="{"what" if i else "name"}" x="{x:.1f}" y="{at:.1f}" text-anchor="middle">'
                f"{escape(text)}</text>"
            )
        return "<g>" + "".join(lines) + "</g>"

    def _labels(self) -> list[str]:
        """Each blob once, where its first arrow leaves its layer."""
        labels: list[str] = []
        seen: Counter[Box] = Counter()
        for text, start in dict.fromkeys(
            (arrow.text, arrow.start) for arrow in self.diagram.arrows if arrow.text
        ):
            labels.append(self._label(text, self.layout.places[start], seen[start]))
            seen[start] += 1
        return labels

    def _label(self, text: str, place: Place, nth: int) -> str:
        x, y = self._point(place.x, place.y + place.height / 2 + 13)
        if self.sideways:
            x, y = self._point(place.x, place.y + place.height / 2)
            x += (-1 if self.mirrored else 1) * 6
            y -= 5 + nth * (LABEL_SIZE + 2)
        else:
            x, y = x + 6, y + nth * (LABEL_SIZE + 2)
        anchor = "end" if self.sideways and self.mirrored else "start"
        return f'<text class="blob" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _box_size(box: Box) -> tuple[float, float]:
    letters = max(len(line) for line in box.lines)
    return letters * LETTER * FONT_SIZE + 2 * PADDING, len(box.lines) * LINE + 2 * PADDING - 4


assert ROW_GAP > 2 * (LABEL_SIZE + 2), "two labels must fit between rows"
