"""Draws training curves with matplotlib: panels for loss, scores and learning rate over the iterations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from netc.cli.log_reader import Point, TrainingLog
from netc.errors import NetcError

FORMATS: Final = {".png": "png", ".svg": "svg", ".pdf": "pdf", ".jpg": "jpg", ".jpeg": "jpg"}
COLOURS: Final = ("#2b6cb0", "#dd6b20", "#2f855a", "#b83280", "#6b46c1", "#975a16", "#2c7a7b", "#c53030")
MOST_OUTPUTS: Final = 10  # of one net in one panel: a longer output would bury the rest
SMOOTHED_PART: Final = 30  # the smoothed loss averages over this part of its log
LOG_SCALE_FROM: Final = 100.0
LINE_STYLES: Final = ("-", "--", ":", "-.")
PANEL_HEIGHTS: Final = {"loss": 3.0, "score": 2.2, "learning rate": 1.1}
FIRST_COLOURS: Final = {"loss": 0, "score": 2, "learning rate": 4}  # of a single log
STYLE: Final[Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#a0aec0",
    "axes.labelcolor": "#2d3748",
    "axes.grid": True,
    "grid.color": "#e2e8f0",
    "grid.linewidth": 0.8,
    "xtick.color": "#4a5568",
    "ytick.color": "#4a5568",
    "legend.frameon": False,
    "svg.hashsalt": "netc",
}


@dataclass(frozen=True)
class Curve:
    """One line of a panel: of log number `log`, called `name`; `raw` are the values before smoothing."""

    log: int
    name: str
    iterations: np.ndarray
    values: np.ndarray
    raw: np.ndarray | None = None
    test: bool = False


def picture_format(target: Path) -> str:
    """The format that a file's ending stands for. Raises NetcError if it is none of them."""
    try:
        return FORMATS[target.suffix.lower()]
    except KeyError:
        raise NetcError(
            "pictures of this kind cannot be written",
            at=str(target),
            expected=" ".join(FORMATS),
            found=target.suffix or "no ending",
        ) from None


def draw(
    logs: Sequence[TrainingLog], target: Path, *, smooth: int = 0, scale: str = "auto", title: str = ""
) -> None:
    """Writes one picture of all logs, under a temporary name until it is whole.

    smooth: window of the smoothed training loss in points, 0 by the log's length; scale: auto, linear or log.
    """
    curves = {
        "loss": [curve for number, log in enumerate(logs) for curve in _losses(number, log, smooth)],
        "score": [curve for number, log in enumerate(logs) for curve in _scores(number, log)],
        "learning rate": [curve for number, log in enumerate(logs) for curve in _rates(number, log)],
    }
    panels = {name: found for name, found in curves.items() if found}
    labels = short_labels([log.path for log in logs])
    with matplotlib.rc_context(STYLE):
        figure = _figure(panels, labels, scale)
        figure.suptitle(title or (labels[0] if len(labels) == 1 else ""), fontweight="bold", color="#2d3748")
        _save(figure, target)


def short_labels(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    for count in range(1, max(len(path.parts) for path in paths) + 1):
        labels = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{path} ({number})" for number, path in enumerate(paths, 1)]


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """The mean over `window` neighbours, fewer at the ends; what is not finite counts as missing."""
    finite = np.isfinite(values)
    ones = np.ones(max(1, min(window, len(values))))
    total = np.convolve(np.where(finite, values, 0.0), ones, mode="same")
    count = np.convolve(finite.astype(float), ones, mode="same")
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0.5)


def _losses(number: int, log: TrainingLog, smooth: int) -> Iterator[Curve]:
    display = [point for point in log.of("display") if point.loss is not None]
    if display:
        raw = np.array([point.loss for point in display], dtype=float)
        window = smooth or max(1, len(raw) // SMOOTHED_PART)
        values = smoothed(raw, window)
        yield Curve(number, "training", _iterations(display), values, raw if window > 1 else None)
    yield from _outputs(number, log, losses=True)


def _scores(number: int, log: TrainingLog) -> Iterator[Curve]:
    yield from _outputs(number, log, losses=False)


def _rates(number: int, log: TrainingLog) -> Iterator[Curve]:
    display = [point for point in log.of("display") if point.lr is not None]
    if display:
        values = np.array([point.lr for point in display], dtype=float)
        yield Curve(number, "learning rate", _iterations(display), values)


def _outputs(number: int, log: TrainingLog, *, losses: bool) -> Iterator[Curve]:
    """The curves of all test nets' outputs that are losses, or that are none."""
    for net in sorted({point.net for point in log.of("test")}):
        points = log.of("test", net)
        names = {name: None for point in points for name in point.outputs if (name in point.losses) == losses}
        for name in list(names)[:MOST_OUTPUTS]:
            there = [point for point in points if name in point.outputs]
            values = np.array([point.outputs[name] for point in there])
            title = name if name.lower().startswith("test") else f"test {name}"
            yield Curve(number, title + (f" (#{net})" if net else ""), _iterations(there), values, test=True)


def _iterations(points: Sequence[Point]) -> np.ndarray:
    return np.array([point.iteration for point in points])


def _figure(panels: Mapping[str, Sequence[Curve]], labels: Sequence[str], scale: str) -> Figure:
    heights = [PANEL_HEIGHTS[name] for name in panels]
    figure = Figure(figsize=(8.5, 1.2 + sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})
    for (name, curves), axes in zip(panels.items(), grid[:, 0], strict=True):
        _draw_panel(axes, name, curves, labels)
        axes.set_ylabel(_axis_label(name, curves))
        if name == "loss":
            axes.set_yscale(_loss_scale(curves) if scale == "auto" else scale)
        axes.margins(x=0.01)
    grid[-1, 0].set_xlabel("iteration")
    return figure


def _draw_panel(axes: Axes, panel: str, curves: Sequence[Curve], labels: Sequence[str]) -> None:
    """For a single log, a colour for each curve; for several, a colour for each log, curves by line style."""
    several = len(labels) > 1
    names = list(dict.fromkeys(curve.name for curve in curves))
    for position, curve in enumerate(curves):
        colour = COLOURS[(curve.log if several else FIRST_COLOURS[panel] + position) % len(COLOURS)]
        style = LINE_STYLES[names.index(curve.name) % len(LINE_STYLES)] if several else "-"
        if curve.raw is not None:
            axes.plot(curve.iterations, curve.raw, color=colour, alpha=0.25, linewidth=0.8)
        few = len(curve.values) == 1 or (curve.test and len(curve.values) <= 30)
        axes.plot(
            curve.iterations,
            curve.values,
            style,
            color=colour,
            linewidth=1.6,
            marker="o" if few else None,
            markersize=3.5,
            drawstyle="steps-post" if panel == "learning rate" else "default",
            label=_legend(curve, labels, several, len(names) > 1),
        )
    if panel != "learning rate":
        axes.legend(fontsize=8.5)


def _legend(curve: Curve, labels: Sequence[str], several: bool, named: bool) -> str:
    parts = [labels[curve.log]] * several + [curve.name] * (named or not several)
    return ": ".join(parts) + (f", last {curve.values[-1]:.4g}" if curve.test else "")


def _axis_label(panel: str, curves: Sequence[Curve]) -> str:
    names = {curve.name for curve in curves}
    return names.pop() if panel == "score" and len(names) == 1 else panel


def _loss_scale(curves: Sequence[Curve]) -> str:
    values = np.concatenate([curve.values[np.isfinite(curve.values)] for curve in curves])
    if values.size == 0 or values.min() <= 0:
        return "linear"
    return "log" if values.max() / values.min() >= LOG_SCALE_FROM else "linear"


def _save(figure: Figure, target: Path) -> None:
    from netc.schema.atomic import replacing

    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as spare:
        figure.savefig(spare, format=picture_format(target), dpi=150)
