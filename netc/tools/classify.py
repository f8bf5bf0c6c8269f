"""Says which classes a net sees in images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from netc.errors import NetcError
from netc.runtime import Net
from netc.schema.reading import read_file_text
from netc.tools.image_input import Preparation, image_input, run_batches

IMAGES_AT_ONCE: Final = 32  # that are decoded before their scores are given


@dataclass(frozen=True)
class Guess:
    """One class, its number and name, and the net's score for it."""

    label: int
    name: str
    score: float


def read_labels(path: str) -> list[str]:
    """The names of classes, one a line, from number 0. Raises NetcError."""
    names = [line.strip() for line in read_file_text(Path(path)).splitlines()]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise NetcError("the file holds no labels", at=path, expected="a name a line, of class 0, 1, ...")
    return names


def classify(
    net: Net, paths: Sequence[str], preparation: Preparation, batch: int
) -> Iterator[tuple[str, np.ndarray]]:
    """The scores of all classes for each image file: the mean over its crops, and over positions where the
    net's output has any. Raises NetcError for a file that is no image."""
    name, _ = image_input(net)
    for start in range(0, len(paths), IMAGES_AT_ONCE):
        part = paths[start : start + IMAGES_AT_ONCE]
        crops = [crop for path in part for crop in preparation.crops(preparation.load(path))]
        scores = [_scores(outputs) for outputs in run_batches(net, name, crops, batch)]
        together = np.concatenate(scores).reshape(len(part), preparation.crops_per_image, -1)
        yield from zip(part, together.mean(axis=1), strict=True)


def _scores(outputs: dict[str, np.ndarray]) -> np.ndarray:
    """The first output as items x classes."""
    scores = next(iter(outputs.values()))
    if scores.ndim < 2:
        raise NetcError(
            "the net's output holds no classes", blob=next(iter(outputs)), found=f"shape {list(scores.shape)}"
        )
    return scores.reshape(*scores.shape[:2], -1).mean(axis=2)


def best(scores: np.ndarray, count: int, names: Sequence[str] | None) -> list[Guess]:
    """The `count` highest scores, highest first; of equal ones the lower number. Raises NetcError where the
    labels are not those of this net."""
    if names is not None and len(names) != len(scores):
        raise NetcError(
            "the labels are not those of this net",
            expected=f"{len(scores)} labels, as the net has outputs",
            found=len(names),
        )
    order = np.argsort(-scores, kind="stable")[:count]
    return [Guess(int(i), names[i] if names else str(i), float(scores[i])) for i in order]
