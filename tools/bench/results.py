"""Result files: read, added to measurement by measurement, written whole, shown as a table."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

OWN: Final = "netc"
Measurement = dict[str, Any]


class Results:
    """One machine's file: what it is, and a list of measurements, each found again by its key fields."""

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.path, self.keys = path, tuple(keys)
        self.content: dict[str, Any] = {"measurements": []}
        if path.exists():
            self.content = json.loads(path.read_text(encoding="utf-8"))

    @property
    def measurements(self) -> list[Measurement]:
        return self.content["measurements"]

    def key(self, measurement: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(measurement.get(key) for key in self.keys)

    def has(self, **fields: Any) -> bool:
        """Whether there is a measurement of these key fields."""
        return any(self.key(measurement) == self.key(fields) for measurement in self.measurements)

    def add(self, measurement: Measurement) -> None:
        """Puts a measurement in the place of an older one of the same key, or at the end, and writes."""
        for place, older in enumerate(self.measurements):
            if self.key(older) == self.key(measurement):
                self.measurements[place] = measurement
                break
        else:
            self.measurements.append(measurement)
        self.write()

    def write(self) -> None:
        """Writes the file whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, self.path)


def layer_table(measurement: Measurement, least_share: float = 0.01) -> str:
    """netc's layers that take more than a share of the step, with their GFLOP/s as a share of what the
    fastest library's matrix product reached; empty where layers were not measured."""
    layers = measurement.get("layers") or []
    total = sum(layer[way]["median_ms"] for layer in layers for way in ("forward", "backward"))
    peak = max(measurement.get("gemm_gflops", {}).values(), default=0.0)
    rows = [["layer", "type", "forward ms", "GFLOP/s", "of gemm", "backward ms", "GFLOP/s", "of gemm"]]
    rows.append(["---"] * len(rows[0]))
    for layer in layers:
        cells = [layer["name"], layer["type"]]
        for way in ("forward", "backward"):
            gflops = layer[way]["gflops"]
            cells.append(f"{layer[way]['median_ms']:.3f}")
            cells += [f"{gflops:.1f}", f"{gflops / peak:.0%}"] if gflops and peak else ["-", "-"]
        if layer["forward"]["median_ms"] + layer["backward"]["median_ms"] > least_share * total:
            rows.append(cells)
    return markdown(rows) if len(rows) > 2 else ""


def advantage(measurement: Measurement) -> float | None:
    """How many times as long the best peer takes as netc, by medians; None where either is missing."""
    medians = {name: figure["median_ms"] for name, figure in measurement["contenders"].items()}
    peers = [median for name, median in medians.items() if not name.startswith(OWN)]
    return min(peers) / medians[OWN] if OWN in medians and peers else None


def memory_share(measurement: Measurement) -> float | None:
    """netc's peak memory as a share of that peer's which takes least; a GPU's, where it ran there."""
    memory = measurement.get("memory", {})
    field = "device" if any(peak["device"] for peak in memory.values()) else "peak_of_steps"
    peaks = {name: peak[field] for name, peak in memory.items()}
    peers = [peak for name, peak in peaks.items() if not name.startswith(OWN)]
    return peaks[OWN] / min(peers) if OWN in peaks and peers and min(peers) else None


def table(measurements: Sequence[Measurement], columns: Sequence[str]) -> str:
    """The measurements as a Markdown table: the columns' fields, every contender's median (least to most) in
    milliseconds, and how much faster and smaller netc is than the best of the others."""
    names = list(dict.fromkeys(name for m in measurements for name in m["contenders"]))
    rows = [[*columns, *names, "netc is faster", "memory"]]
    for m in measurements:
        cells = [str(m.get(column, "")) for column in columns]
        cells += [_cell(m["contenders"].get(name)) for name in names]
        cells += [_times(advantage(m)), _share(memory_share(m))]
        rows.append(cells)
    rows.insert(1, ["---"] * len(rows[0]))
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _cell(figure: Mapping[str, Any] | None) -> str:
    if not figure:
        return "-"
    least, median, most = (f"{figure[name]:.4g}" for name in ("min_ms", "median_ms", "max_ms"))
    return f"{median} ({least} to {most})"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"


def _share(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}x"
