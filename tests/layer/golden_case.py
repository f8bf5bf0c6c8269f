"""Golden cases: what Caffe itself computed for small nets, run again through a Net as a user would.

A case is one npz file: the prototxt, inputs and parameters, and what came of them (blobs, loss, gradients).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from netc.graph import Value
from netc.proto import netc_pb2 as pb
from netc.runtime import Net

FOLDER = Path(__file__).parent.parent / "golden" / "layers"
RELATIVE, ABSOLUTE = 1e-5, 1e-7  # of the largest element; another BLAS moves Caffe itself by a fifth of it


@dataclass(frozen=True)
class GoldenCase:
    """One file of golden numbers."""

    path: Path

    @cached_property
    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        with np.load(self.path) as file:
            return {name: file[name] for name in file.files}

    @cached_property
    def types(self) -> set[str]:
        """The layer types of the case's net."""
        with np.load(self.path) as file:  # collecting tests asks every case: read no more than this
            return {str(name) for name in file["layer_types"]}

    def text(self, name: str, default: str = "") -> str:
        return str(self.arrays[name]) if name in self.arrays else default

    def under(self, prefix: str) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """The arrays whose names begin with `prefix/`, by the rest of their names."""
        for name, array in self.arrays.items():
            if name.startswith(prefix + "/"):
                yield name[len(prefix) + 1 :], array

    @cached_property
    def runs_backward(self) -> bool:
        with np.load(self.path) as file:
            return any(name.startswith("topdiff/") for name in file.files)


def all_cases(folder: Path = FOLDER) -> list[GoldenCase]:
    return [GoldenCase(path) for path in sorted(folder.glob("*.npz"))]


class GoldenRun:
    """One run of a case in a folder of its own, each result compared as it comes."""

    def __init__(
        self, case: GoldenCase, folder: Path, *, tolerance: float = RELATIVE, **options: Any
    ) -> None:
        self.case = case
        self.tolerance = tolerance
        self.folder = folder
        for name, content in case.under("file"):
            (folder / name).write_bytes(content.tobytes())
        (folder / "net.prototxt").write_text(case.text("prototxt"))
        with _inside(folder):
            self.net = Net(
                "net.prototxt",
                pb.Phase.Value(case.text("phase")),
                level=int(case.arrays.get("level", 0)),
                stages=[str(stage) for stage in np.atleast_1d(case.arrays.get("stages", []))],
                seed=1,
                **options,
            )

    def check(self, before_backward: Callable[[Net], None] = lambda net: None) -> None:
        """Runs the case and compares everything that it knows. Raises AssertionError naming what differs."""
        self.check_structure()
        with _inside(self.folder):
            self.check_forward()
            if self.case.runs_backward:
                before_backward(self.net)
                self.check_backward()
        self.net.close()

    def check_what_stays(self) -> None:
        """As `check`, for a net that keeps only outputs: those, the loss, the parameters' gradients."""
        net, case = self.net, self.case
        with _inside(self.folder):
            self.run_forward()
            for value in net.output_values():
                self.agree(f"out/{value.name}", value.data, case.arrays[f"out/{value.name}"])
            if case.runs_backward and all(value.loss_weight for value in net.output_values()):
                net.clear_param_diffs()
                net.backward()
                self.compare_all("pgrad", lambda name: self.param(name).diff)
        net.close()

    def check_structure(self) -> None:
        """Names and types of layers, blobs and outputs: Caffe's, split layers included."""
        for name in ("layer_names", "layer_types", "blob_names", "outputs"):
            assert list(getattr(self.net, name)) == [str(item) for item in self.case.arrays[name]], name

    def run_forward(self, after_first: Callable[[float], None] = lambda loss: None) -> None:
        """Sets the parameters, feeds the inputs and runs; `after_first` is given an earlier pass's loss."""
        net, case = self.net, self.case
        for name, values in case.under("param"):
            self.param(name).data[...] = values
        if any(True for _ in case.under("pre0")):
            self.feed("pre0")
            after_first(net.forward())
        self.feed("in")
        self.agree("loss", net.forward(), case.arrays["loss"])

    def check_forward(self) -> None:
        net, case = self.net, self.case
        self.run_forward(self.check_earlier_pass)
        self.compare_all("out", lambda name: net.blobs[name].data)
        changed = dict(case.under("paramout"))
        for name, before in case.under("param"):
            self.agree(f"paramout/{name}", self.param(name).data, changed.get(name, before))

    def check_earlier_pass(self, loss: float) -> None:
        self.compare_all("pre0_out", lambda name: self.net.blobs[name].data)
        if "pre0_loss" in self.case.arrays:
            self.agree("pre0_loss", loss, self.case.arrays["pre0_loss"])

    def check_backward(self) -> None:
        net = self.net
        for name, values in self.case.under("topdiff"):
            net.blobs[name].diff[...] = values
        net.clear_param_diffs()
        net.backward()
        self.compare_all("grad", lambda name: net.blobs[name].diff)
        self.compare_all("pgrad", lambda name: self.param(name).diff)

    def feed(self, prefix: str) -> None:
        for name, values in self.case.under(prefix):
            self.net.blobs[name].data[...] = values

    def param(self, name: str) -> Any:
        layer, index = name.rsplit("/", 1)
        return self.net.params[layer][int(index)]

    def compare_all(self, prefix: str, found: Callable[[str], Any]) -> None:
        for name, values in self.case.under(prefix):
            self.agree(f"{prefix}/{name}", found(name), values)

    def agree(self, name: str, found: Any, expected: Any) -> None:
        agree(name, found, expected, self.tolerance)


def agree(name: str, found: Any, expected: Any, tolerance: float = RELATIVE) -> None:
    """Asserts that two arrays have one shape, and differ by no more than the tolerance."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"{name}: expected shape {expected.shape}, found {found.shape}"
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected), err_msg=name)
    largest = float(np.nanmax(np.abs(expected), initial=0))
    difference = float(np.nanmax(np.abs(found - expected), initial=0))
    assert difference <= tolerance * largest + ABSOLUTE, (
        f"{name}: differs by {difference:g}, largest {largest:g}"
    )


def spoil_what_backward_does_not_read(net: Net) -> None:
    """Fills with NaN every activation that no layer declares to read in backward."""
    read: set[Value] = set()
    for node in net.graph.nodes:
        if node.needs_backward:
            for values, indices in (
                (node.inputs, node.layer.backward_bottoms),
                (node.outputs, node.layer.backward_tops),
            ):
                read.update(v.memory for i, v in enumerate(values) if indices is None or i in indices)
    for value in net.graph.values():
        if value.memory not in read:
            net.program.data(value)[...] = np.nan


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
