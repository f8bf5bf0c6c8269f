"""Databases and sources that the tests of the data room share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format

from netc.data import Source, open_source
from netc.data.convert import convert_imageset
from netc.data.writer import writing_database
from netc.proto import netc_pb2 as pb

Open = Callable[..., Source]


def parse_layer(text: str) -> pb.LayerParameter:
    """The layer of a prototxt that holds one."""
    net = pb.NetParameter()
    text_format.Parse(text, net)
    return net.layer[0]


@pytest.fixture(scope="session")
def imageset(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden folder with every variant of the database, each under the name that the golden nets use.

    The two that Caffe made are Caffe's; the others are converted here.
    """
    folder = tmp_path_factory.mktemp("imageset") / "work"
    shutil.copytree(golden / "imageset", folder)
    shipped = {path.name.removesuffix("_lmdb"): path for path in folder.glob("*_lmdb")}
    for variant, path in shipped.items():
        path.rename(folder / variant)
    for variant, made in json.loads((folder / "manifest.json").read_text())["convert_imageset"].items():
        if variant not in shipped:
            flags = parse_flags(made["flags"])
            convert_imageset(
                str(folder / "images"), str(folder / made["list"]), str(folder / variant), **flags
            )
    return folder


def parse_flags(flags: list[str]) -> dict[str, Any]:
    """The command line's flags as the function's arguments."""
    pairs = (flag.removeprefix("--").partition("=") for flag in flags)
    return {name: (int(value) if value.isdigit() else value) if value else True for name, _, value in pairs}


@pytest.fixture
def opened() -> Iterator[Open]:
    """Opens the source of a prototxt layer: `opened(text, phase, seed=...)`; closes it after the test."""
    sources: list[Source] = []

    def open_one(text: str, phase: int = pb.TRAIN, **options: Any) -> Source:
        sources.append(open_source(parse_layer(text), phase, **options))
        return sources[-1]

    yield open_one
    for source in sources:
        source.close()


@pytest.fixture
def make_database(tmp_path: Path) -> Callable[..., str]:
    """Writes images (each C x H x W, uint8) as raw Datums, labelled 0, 1, ...; gives the folder."""

    def make(
        images: Any, name: str = "db", backend: str = "lmdb", extra: dict[int, bytes] | None = None
    ) -> str:
        folder = str(tmp_path / name)
        with writing_database(folder, backend) as writer:
            for i, image in enumerate(images):
                replaced = (extra or {}).get(i)
                writer.put(f"{i:08d}".encode(), raw_datum(image, i) if replaced is None else replaced)
        return folder

    return make


def raw_datum(image: np.ndarray, label: int) -> bytes:
    channels, height, width = image.shape
    datum = pb.Datum(
        channels=channels, height=height, width=width, data=image.tobytes(), label=label, encoded=False
    )
    return datum.SerializeToString()


@pytest.fixture
def pictures() -> np.ndarray:
    """23 images of 3 x 8 x 9 whose pixels tell them, and their places, apart."""
    return np.random.default_rng(5).integers(0, 256, (23, 3, 8, 9), dtype=np.uint8)
