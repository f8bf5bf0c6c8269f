"""Reads training logs: netc's, Caffe's (both generations of glog's prefix) and netc's JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from netc.errors import Location, NetcError


@dataclass
class Point:
    """What a log says at one iteration.

    kind: "display" (training) or "test"; net: which test net; seconds: since the log began, where it says so;
    outputs: the net's outputs by name, the elements of a longer output as name[0], name[1], ...; losses: the
    names of those that are losses.
    """

    kind: str
    iteration: int
    net: int = 0
    seconds: float | None = None
    loss: float | None = None
    lr: float | None = None
    outputs: dict[str, float] = field(default_factory=dict)
    losses: set[str] = field(default_factory=set)


@dataclass
class TrainingLog:
    """The points of one log in order. What a resumed run did over again replaces what came before."""

    path: Path
    points: list[Point] = field(default_factory=list)

    def add(self, point: Point) -> Point:
        """Takes in a point, and drops those of the same kind that this one does over."""
        same = (point.kind, point.net)
        if any(
            old.iteration >= point.iteration and (old.kind, old.net) == same for old in reversed(self.points)
        ):
            self.points = [
                old for old in self.points if old.iteration < point.iteration or (old.kind, old.net) != same
            ]
        self.points.append(point)
        return point

    def of(self, kind: str, net: int | None = None) -> list[Point]:
        """The points of one kind (of one test net)."""
        return [point for point in self.points if point.kind == kind and net in (None, point.net)]


def read_log(path: str | Path) -> TrainingLog:
    """Reads a log; for a folder, the newest log that `-log_dir` wrote there.

    Raises NetcError if it cannot be read. A log without a single point is no error here.
    """
    path = Path(path)
    if path.is_dir():
        path = _newest(path)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise NetcError("cannot read this log", at=str(path), found=error.strerror) from None
    log = TrainingLog(path)
    if path.suffix == ".jsonl" or text.lstrip().startswith("{"):
        _read_json_lines(log, text.splitlines())
    else:
        _GlogReader(log).read(text.splitlines())
    return log


def _newest(folder: Path) -> Path:
    link = folder / "netc.INFO"
    if not link.exists():
        raise NetcError(
            "there is no log in this folder", at=str(folder), expected="netc.INFO", remedy="name the file"
        )
    return link.resolve()


def _read_json_lines(log: TrainingLog, lines: Iterable[str]) -> None:
    """One object a line, as `netc.cli.events` writes them; a last line that was cut off is left out."""
    lines = list(lines)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event: dict[str, Any] = json.loads(line)
            if event["kind"] in ("display", "test"):
                log.add(_point_of_event(event))
        except (ValueError, KeyError, TypeError, AttributeError):
            if number == len(lines):
                return
            raise NetcError(
                "this line is none of netc's events", at=Location(str(log.path), number), found=line[:80]
            ) from None


def _point_of_event(event: dict[str, Any]) -> Point:
    point = Point(event["kind"], int(event["iter"]), int(event.get("net", 0)), event.get("seconds"))
    point.loss, point.lr = (_number(event[name]) if name in event else None for name in ("loss", "lr"))
    weights = event.get("loss_weights", {})
    for name, value in event.get("outputs", {}).items():
        elements = value if isinstance(value, list) else [value]
        for key in [_add_output(point.outputs, name, _number(element)) for element in elements]:
            if name in weights:
                point.losses.add(key)
    return point


def _number(value: Any) -> float:
    """A number of an event; null stands for one that is not finite."""
    return float("nan") if value is None else float(value)


PREFIX: Final = re.compile(r"[IWEF](\d{4})?(\d{4} \d\d:\d\d:\d\d\.\d+)\s+\d+ \S+?:\d+\] (.*)")
UNKNOWN_YEAR: Final = "2000"  # a leap year has all days
Reader = Callable[["_GlogReader", re.Match[str], float | None], None]


class _GlogReader:
    """Goes through a log line by line; output lines belong to the last line that named an iteration."""

    def __init__(self, log: TrainingLog) -> None:
        self.log = log
        self.display: Point | None = None
        self.test: Point | None = None
        self.start: datetime | None = None

    def read(self, lines: Iterable[str]) -> None:
        for line in lines:
            prefix = PREFIX.match(line)
            if prefix is None:
                continue
            for pattern, reader in LINES:
                match = pattern.match(prefix[3])
                if match is not None:
                    reader(self, match, self._seconds((prefix[1] or UNKNOWN_YEAR) + prefix[2]))
                    break

    def _seconds(self, stamp: str) -> float:
        """Seconds since the first line that counts. Where the year is left out, a step back is a new one."""
        moment = datetime.strptime(stamp, "%Y%m%d %H:%M:%S.%f")
        if self.start is None:
            self.start = moment
        passed = moment - self.start
        return (passed if passed >= timedelta(-1) else passed + timedelta(366)).total_seconds()

    def read_start(self, match: re.Match[str], seconds: float | None) -> None:
        """The solver begins; seconds count from the first line that is understood, which this is then."""

    def read_display(self, match: re.Match[str], seconds: float | None) -> None:
        point = Point("display", int(match[1]), seconds=seconds, loss=_float(match[2]))
        self.display = self.log.add(point)

    def read_lr(self, match: re.Match[str], seconds: float | None) -> None:
        if self.display is not None and self.display.iteration == int(match[1]):
            self.display.lr = _float(match[2])

    def read_test(self, match: re.Match[str], seconds: float | None) -> None:
        self.test = self.log.add(Point("test", int(match[1]), int(match[2] or 0), seconds))

    def read_output(self, match: re.Match[str], seconds: float | None) -> None:
        point = self.display if match[1] == "Train" else self.test
        if point is None:
            return
        if not point.outputs:
            point.seconds = seconds  # a test's outputs come when it is over
        name = _add_output(point.outputs, match[3], _float(match[4]))
        if match[5]:
            point.losses.add(name)

    def read_score(self, match: re.Match[str], seconds: float | None) -> None:
        if self.test is not None:
            self.test.outputs[match[1]] = _float(match[2])


LINES: Final[tuple[tuple[re.Pattern[str], Reader], ...]] = (
    (re.compile(r"Solving( |$)"), _GlogReader.read_start),
    (re.compile(r"Iteration (\d+)(?: \(.*?\))?, loss = (\S+)"), _GlogReader.read_display),
    (re.compile(r"Iteration (\d+), lr = (\S+)"), _GlogReader.read_lr),
    (re.compile(r"Iteration (\d+), Testing net(?: \(#(\d+)\))?"), _GlogReader.read_test),
    (
        re.compile(r"\s*(Train|Test) net output #(\d+): (.+?) = (\S+)(?: \(\* (\S+) = \S+ loss\))?"),
        _GlogReader.read_output,
    ),
    (re.compile(r"(Test score #\d+): (\S+)"), _GlogReader.read_score),  # Caffe of 2014 and before
)


def _add_output(outputs: dict[str, float], name: str, value: float) -> str:
    """Adds an output and returns its key. A name seen before: a longer output, with numbered elements."""
    elements = [key for key in outputs if re.fullmatch(re.escape(name) + r"(\[\d+\])?", key)]
    if elements == [name]:
        outputs[f"{name}[0]"] = outputs.pop(name)
    key = f"{name}[{len(elements)}]" if elements else name
    outputs[key] = value
    return key


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
