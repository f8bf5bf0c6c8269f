"""The options that both benchmarks have."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.nets import NETS, ROOT


def words(text: str) -> list[str]:
    """Words separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str) -> list[int]:
    """Whole numbers separated by commas."""
    return [int(part) for part in words(text)]


def add_options(parser: argparse.ArgumentParser, seconds: float, round_seconds: float) -> None:
    """Adds what both have; seconds, round_seconds: what a measurement and a contender's turn take."""
    parser.add_argument("-nets", type=words, default=[net.name for net in NETS], help="which nets")
    parser.add_argument("-seconds", type=float, default=seconds, help="for the rounds of one measurement")
    parser.add_argument("-round_seconds", type=float, default=round_seconds, help="for a contender's turn")
    parser.add_argument("-again", action="store_true", help="measure anew what the result file has")
    parser.add_argument("-results", type=Path, default=ROOT / "benchmarks" / "results", help="where to write")
    parser.add_argument("-folder", type=Path, default=ROOT / "build" / "bench", help="for scratch files")
