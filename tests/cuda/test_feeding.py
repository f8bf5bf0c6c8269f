"""Batches that go up raw are those that the CPU makes, to the bit; a resume finds its place among them."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from google.protobuf import text_format

from netc.backends.backend import Backend
from netc.backends.cpu import CpuBackend
from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.device import Event
from netc.backends.cuda.emulated_device import EmulatedDevice
from netc.backends.cuda.kernel import Kernel
from netc.backends.cuda.memory import Memory
from netc.data.database_source import DatabaseFeed
from netc.data.prefetch import PrefetchedSource
from netc.data.raw_images import RawBatch
from netc.data.writer import writing_database
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.solver import Solver, latest
from netc.solver.waiting import WaitingSpan
from tests.solver.small_run import make_small_run
from tests.solver.test_kill import ENVIRONMENT, final_files

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]

IMAGES = 23  # no multiple of a batch
PHASES = {"TRAIN": pb.TRAIN, "TEST": pb.TEST}
TRANSFORMS = {
    "as they are": "",
    "crop": "crop_size: 5",
    "crop, mirror, a mean, scale": "crop_size: 7 mirror: true mean_value: 104.5 scale: 0.017",
    "mirror, a mean for each channel": "mirror: true mean_value: 104 mean_value: 117 mean_value: 123.7",
    "crop, mirror, mean image": 'crop_size: 6 mirror: true scale: 0.00390625 mean_file: "mean.binaryproto"',
}


@pytest.fixture(autouse=True)
def nets(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Net]]:
    """The nets that a test makes; they are closed in the end."""
    made: list[Net] = []
    make = Net.__init__

    def remember(self: Net, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options)
        made.append(self)

    monkeypatch.setattr(Net, "__init__", remember)
    yield made
    for net in made:
        net.close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the databases of a test lie, and where it runs."""
    monkeypatch.chdir(tmp_path)
    mean = np.random.default_rng(7).uniform(0, 255, 3 * 8 * 9).astype(np.float32)
    blob = pb.BlobProto(num=1, channels=3, height=8, width=9, data=mean)
    Path("mean.binaryproto").write_bytes(blob.SerializeToString())
    return tmp_path


def picture(index: int) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (3, 8, 9), np.uint8)


def raw(index: int) -> pb.Datum:
    return pb.Datum(channels=3, height=8, width=9, data=picture(index).tobytes(), label=index % 10)


def floats(index: int) -> pb.Datum:
    return pb.Datum(channels=3, height=8, width=9, float_data=picture(index).ravel() / 3, label=index % 10)


def encoded(index: int) -> pb.Datum:
    data = cv2.imencode(".png", picture(index).transpose(1, 2, 0))[1].tobytes()
    return pb.Datum(data=data, encoded=True, label=index % 10)


def larger(index: int) -> pb.Datum:
    pixels = np.random.default_rng(index).integers(0, 256, (3, 10, 11), np.uint8)
    return pb.Datum(channels=3, height=10, width=11, data=pixels.tobytes(), label=index % 10)


def write_database(datums: list[pb.Datum]) -> None:
    with writing_database("images", "lmdb") as writer:
        for index, datum in enumerate(datums):
            writer.put(f"{index:08d}".encode(), datum.SerializeToString())


def data_layer(transform: str = "", batch: int = 5, tops: str = 'top: "data" top: "label"') -> str:
    return f"""layer {{ name: "d" type: "Data" {tops} transform_param {{ {transform} }}
      data_param {{ source: "images" backend: LMDB batch_size: {batch} prefetch: 2 }} }}"""


def net_of(text: str, backend: Backend, phase: int = pb.TRAIN) -> Net:
    return Net(text_format.Parse(text, pb.NetParameter()), phase, seed=3, backend=backend)


def batches(net: Net, count: int, names: tuple[str, ...] = ("data", "label")) -> list[list[np.ndarray]]:
    """The blobs of so many passes."""
    result = []
    for _ in range(count):
        net.forward()
        result.append([net.blobs[name].data.copy() for name in names])
    return result


def same(one: list[list[np.ndarray]], other: list[list[np.ndarray]]) -> None:
    for mine, theirs in zip(one, other, strict=True):
        for array, wanted in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(array, wanted, strict=True)


class Sent:
    """Counts what goes up raw."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.copies = 0
        send = EmulatedDevice.send

        def counted(device: EmulatedDevice, memory: Memory, *arguments: Any) -> Event:
            self.copies += memory.name.startswith("raw batch")
            return send(device, memory, *arguments)

        monkeypatch.setattr(EmulatedDevice, "send", counted)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    return Sent(monkeypatch)


@pytest.fixture
def always_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a source is asked what it has ahead, the next batch has been read."""
    raw_ahead = PrefetchedSource.raw_ahead

    def waiting(source: PrefetchedSource) -> RawBatch | None:
        end = time.monotonic() + 20
        while (batch := raw_ahead(source)) is None and time.monotonic() < end:
            time.sleep(0.001)
        return batch

    monkeypatch.setattr(PrefetchedSource, "raw_ahead", waiting)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_batches_are_those_of_the_cpu(device: EmulatedDevice, transform: str, phase: str, sent: Sent) -> None:
    write_database([raw(i) for i in range(IMAGES)])
    text = data_layer(TRANSFORMS[transform])
    epochs = 3 * IMAGES // 5
    wanted = batches(net_of(text, CpuBackend(), PHASES[phase]), epochs)
    same(batches(net_of(text, CudaBackend(device), PHASES[phase]), epochs), wanted)
    assert epochs <= sent.copies <= epochs + 1


def test_encoded_images_and_no_labels(fast: EmulatedDevice, sent: Sent) -> None:
    write_database([encoded(i) for i in range(IMAGES)])
    text = data_layer("crop_size: 6 mirror: true", batch=4, tops='top: "data"')
    wanted = batches(net_of(text, CpuBackend()), 12, ("data",))
    same(batches(net_of(text, CudaBackend(fast)), 12, ("data",)), wanted)
    assert sent.copies


def test_listed_images_that_are_resized(fast: EmulatedDevice, sent: Sent) -> None:
    for i in range(4):
        cv2.imwrite(f"{i}.png", np.random.default_rng(i).integers(0, 256, (9 + i, 12, 3), np.uint8))
    Path("list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(4)))
    text = """layer { name: "d" type: "ImageData" top: "data" top: "label"
      transform_param { crop_size: 8 mirror: true }
      image_data_param { source: "list.txt" batch_size: 3 shuffle: true new_height: 10 new_width: 10 } }"""
    same(batches(net_of(text, CudaBackend(fast)), 8), batches(net_of(text, CpuBackend()), 8))
    assert sent.copies


def test_a_damaged_record_is_replaced_as_on_the_cpu(fast: EmulatedDevice, sent: Sent) -> None:
    datums = [encoded(i) for i in range(IMAGES)]
    datums[7].data = b"no image"
    write_database(datums)
    text = data_layer("crop_size: 6 mirror: true")
    same(batches(net_of(text, CudaBackend(fast)), 6), batches(net_of(text, CpuBackend()), 6))
    assert sent.copies


def test_floats_come_finished(fast: EmulatedDevice, sent: Sent) -> None:
    write_database([floats(i) for i in range(IMAGES)])
    text = data_layer(TRANSFORMS["crop, mirror, a mean, scale"])
    net = net_of(text, CudaBackend(fast))
    assert net.sources["d"].raw is None
    same(batches(net, 7), batches(net_of(text, CpuBackend()), 7))
    assert not sent.copies


@pytest.mark.parametrize("other", [floats, larger])
def test_a_batch_that_is_not_like_the_others_comes_finished(
    fast: EmulatedDevice, sent: Sent, other: Any
) -> None:
    """The last batch of an epoch of 20 holds another kind of image."""
    write_database([(other if i == 17 else raw)(i) for i in range(20)])
    text = data_layer("crop_size: 5 mirror: true scale: 0.5")
    same(batches(net_of(text, CudaBackend(fast)), 12), batches(net_of(text, CpuBackend()), 12))
    assert 9 <= sent.copies <= 10


def test_images_of_any_size_come_finished(fast: EmulatedDevice, sent: Sent) -> None:
    write_database([(raw if i % 2 else larger)(i) for i in range(4)])
    text = data_layer(batch=1)
    same(batches(net_of(text, CudaBackend(fast)), 6), batches(net_of(text, CpuBackend()), 6))
    assert not sent.copies


def test_nets_of_doubles_get_finished_batches(fast: EmulatedDevice, sent: Sent) -> None:
    write_database([raw(i) for i in range(IMAGES)])
    parsed = text_format.Parse(data_layer("crop_size: 5"), pb.NetParameter())
    net, wanted = (
        Net(parsed, pb.TRAIN, seed=3, backend=backend, dtype=np.float64)
        for backend in (CudaBackend(fast), CpuBackend())
    )
    same(batches(net, 3), batches(wanted, 3))
    assert not sent.copies


class Moment(Event):
    """An event that says when the host waits for it."""

    def __init__(self, log: list[str], name: str, event: Event) -> None:
        self.log, self.name, self.event = log, name, event

    def wait(self) -> None:
        self.log.append(f"host waits for {self.name}")
        self.event.wait()


class LoggedDevice(EmulatedDevice):
    """Says in which order batches go up and kernels run; events are called after what they follow."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.made = "nothing"

    def send(self, memory: Memory, array: np.ndarray, after: Event | None = None) -> Event:
        slot = memory.name[-1]
        self.log.append(f"send to {slot}" + (f" after {after.name}" if isinstance(after, Moment) else ""))
        return Moment(self.log, f"slot {slot}", super().send(memory, array))

    def wait_for(self, event: Event) -> None:
        assert isinstance(event, Moment)
        self.log.append(f"{event.name} is awaited")
        super().wait_for(event.event)

    def mark(self) -> Event:
        return Moment(self.log, self.made, super().mark())

    def launch(self, kernel: Kernel, grid: Any, block: Any, arguments: Any, *rest: Any) -> None:
        (pixels,) = [a for a in arguments if isinstance(a, Memory) and a.name == "pixels"]
        self.made = f"use of slot {pixels.allocation.name[-1]}"
        self.log.append(self.made)
        super().launch(kernel, grid, block, arguments, *rest)


@pytest.mark.usefixtures("always_ahead")
def test_the_next_batch_goes_up_while_one_is_trained_on() -> None:
    """Memory is given back to the source when its copy has arrived, a slot when the kernel has read it."""
    write_database([raw(i) for i in range(IMAGES)])
    device = LoggedDevice()
    net = net_of(data_layer("crop_size: 5"), CudaBackend(device))
    net.forward()
    assert device.log == ["send to 0", "slot 0 is awaited", "use of slot 0", "send to 1"]
    net.forward()
    for here, there in ((0, 1), (1, 0)):
        device.log.clear()
        net.forward()
        assert device.log == [
            f"host waits for slot {there}",  # its memory is given back
            f"slot {here} is awaited",
            f"use of slot {here}",
            f"host waits for slot {there}",  # another batch takes its place
            f"send to {there} after use of slot {there}",
        ]


def test_a_batch_that_is_not_there_yet_is_not_waited_for(
    fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch, sent: Sent
) -> None:
    write_database([raw(i) for i in range(IMAGES)])
    wanted = batches(net_of(data_layer(), CpuBackend()), 3)
    go_on, build = threading.Event(), DatabaseFeed.build

    def held_up(feed: DatabaseFeed, material: Any, pool: Any) -> Any:
        assert material[0] == 0 or go_on.wait(30)
        return build(feed, material, pool)

    monkeypatch.setattr(DatabaseFeed, "build", held_up)
    net = net_of(data_layer(), CudaBackend(fast))
    found = batches(net, 1)
    assert (sent.copies, net.sources["d"].state()) == (1, {"position": 5})
    go_on.set()
    same(found + batches(net, 2), wanted)


@pytest.mark.usefixtures("always_ahead")
def test_a_source_goes_on_from_what_was_trained_on(fast: EmulatedDevice, sent: Sent) -> None:
    """What has gone up ahead is no part of the position, and is forgotten where the position changes."""
    write_database([raw(i) for i in range(IMAGES)])
    text = data_layer(TRANSFORMS["crop, mirror, a mean, scale"])
    wanted = batches(net_of(text, CpuBackend()), 9)
    net = net_of(text, CudaBackend(fast))
    same(batches(net, 5), wanted[:5])
    assert sent.copies == 6
    source = net.sources["d"]
    state = source.state()
    assert state == {"position": 25}
    same(batches(net, 4), wanted[5:])
    source.restore(state)
    same(batches(net, 4), wanted[5:])
    resumed = net_of(text, CudaBackend(fast))
    resumed.sources["d"].restore(state)
    same(batches(resumed, 4), wanted[5:])


@pytest.mark.usefixtures("always_ahead")
def test_programs_of_other_shapes_share_what_has_gone_up(fast: EmulatedDevice, sent: Sent) -> None:
    write_database([raw(i) for i in range(IMAGES)])
    text = (
        data_layer()
        + """layer { name: "in" type: "Input" top: "in" input_param { shape { dim: 2 } } }
      layer { name: "s" type: "Silence" bottom: "in" }"""
    )
    wanted = batches(net_of(text, CpuBackend()), 8)
    net, found = net_of(text, CudaBackend(fast)), []
    for length in (2, 3, 2, 3, 4, 3, 2, 2):
        net.reshape_input("in", (length,))
        found += batches(net, 1)
    same(found, wanted)
    assert sent.copies == 9


def test_finished_batches_go_up_without_a_wait_for_the_device() -> None:
    """Two buffers take turns; only one that is still being copied from is waited for."""
    write_database([floats(i) for i in range(IMAGES)])
    device = LoggedDevice()
    net = net_of(data_layer(), CudaBackend(device))
    assert net.sources["d"].raw is None
    sent = [f"send to {top} after nothing" for top in "hh"]  # the last letters of their memory's name
    for _ in range(2):
        device.log.clear()
        net.forward()
        assert device.log == [*sent, "slot h is awaited"]
    device.log.clear()
    net.forward()
    assert device.log == ["host waits for slot h", *sent, "slot h is awaited"]


def test_waiting_for_data_is_noted(fast: EmulatedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    write_database([raw(i) for i in range(IMAGES)])
    build = DatabaseFeed.build

    def slow(*arguments: Any) -> Any:
        time.sleep(0.2)
        return build(*arguments)

    monkeypatch.setattr(DatabaseFeed, "build", slow)
    net = net_of(data_layer(), CudaBackend(fast))
    span = WaitingSpan([net])
    net.forward()
    assert 0.1 <= net.sources["d"].waited_s <= span.seconds
    assert span.share > 0


def test_a_feed_dies_with_its_net(fast: EmulatedDevice, nets: list[Net]) -> None:
    write_database([raw(i) for i in range(IMAGES)])
    backend, free = CudaBackend(fast), fast.free_bytes()
    net = net_of(data_layer(), backend)
    net.forward()
    source = weakref.ref(net.sources["d"])
    net.close()
    nets.clear()
    del net
    gc.collect()
    fast.allocate_array(1)  # frees what nobody uses
    gc.collect()
    assert source() is None
    assert fast.free_bytes() >= free - 1


def test_a_net_that_is_let_go_takes_its_threads_along(fast: EmulatedDevice, nets: list[Net]) -> None:
    """Also while the batch after the last is on its way to the device, which outlives the net."""
    write_database([raw(i) for i in range(IMAGES)])
    before, backend = set(threading.enumerate()), CudaBackend(fast)
    net = net_of(data_layer(), backend)
    for _ in range(3):
        net.forward()
        time.sleep(0.05)
    assert set(threading.enumerate()) > before
    nets.clear()
    del net
    gc.collect()
    assert set(threading.enumerate()) <= before


CHILD = """
import os, signal
from netc.backends.cuda.backend import CudaBackend
from netc.backends.cuda.emulated_device import EmulatedDevice
from netc.solver import Solver
from netc.solver.hooks import Hook
class Killer(Hook):
    def on_iteration(self, solver):
        if solver.iter == 8:
            os.kill(os.getpid(), signal.SIGKILL)
Solver("solver.prototxt", hooks=[Killer()], backend=CudaBackend(EmulatedDevice())).solve()
"""


def test_a_killed_run_resumes_to_the_same_numbers(
    fast: EmulatedDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: Sent
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        make_small_run(folder, max_iter=12)
    monkeypatch.chdir(whole)
    Solver("solver.prototxt", backend=CudaBackend(fast)).solve()
    assert sent.copies >= 12
    monkeypatch.chdir(broken)
    child = subprocess.run([sys.executable, "-c", CHILD], env=ENVIRONMENT, timeout=120, check=False)
    assert child.returncode == -signal.SIGKILL
    solver = Solver("solver.prototxt", backend=CudaBackend(fast))
    newest = latest("snap")
    assert newest == "snap_iter_5.solverstate"
    solver.restore(newest)
    solver.solve()
    assert final_files(broken, 12) == final_files(whole, 12)


def test_training_reads_what_the_cpu_reads(fast: EmulatedDevice, folder: Path) -> None:
    """Train and test net take the same batches in the same order."""
    make_small_run(folder, max_iter=7, snapshot=7)
    seen: dict[str, list[bytes]] = {}
    for name, backend in (("cpu", CpuBackend(fast=False)), ("device", CudaBackend(fast))):
        recorder = seen[name] = []
        solver = Solver("solver.prototxt", backend=backend, keep="all")
        for net in (solver.net, *solver.test_nets):
            net.callbacks.after_forward.append(partial(note_batch, net, recorder))
        solver.solve()
    assert seen["device"] == seen["cpu"]
    assert len(seen["cpu"]) > 7


def note_batch(net: Net, recorder: list[bytes], layer: int) -> None:
    if layer == 0:
        recorder += [net.blobs[name].data.tobytes() for name in ("data", "label")]
