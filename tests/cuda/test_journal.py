"""What recorded iterations come to lies on the device, in order, until the host asks."""

from __future__ import annotations

import numpy as np
import pytest

from netc.backends.cuda.device import Device, Event
from netc.backends.cuda.emulator import EmulatedDevice
from netc.backends.cuda.iteration.journal import AHEAD, NUMBERS, ROWS, DeviceJournal
from netc.layer import Array

pytestmark = [pytest.mark.cuda, pytest.mark.usefixtures("emulator")]


class Numbers:
    """Arrays of one number each on a device, and the rows that a journal should have of them."""

    def __init__(self, device: Device, count: int) -> None:
        self._device = device
        self.arrays: list[Array] = [device.allocate_array(4).view(np.float32) for _ in range(count)]
        self.rows: list[list[float]] = []

    def become(self, first: float) -> None:
        values = [first + i / 8 for i in range(len(self.arrays))]
        for array, value in zip(self.arrays, values, strict=True):
            self._device.upload(self._device.memory_of(array), np.array([value], np.float32))
        self.rows.append(values)

    def taken(self, journal: DeviceJournal) -> bool:
        rows, self.rows = self.rows, []
        return bool(journal.take().tolist() == rows)


@pytest.mark.parametrize(("notes", "losses"), [(0, 1), (2, 1), (2, NUMBERS), (0, 2 * NUMBERS + 1)])
def test_rows_are_read_in_order(device: Device, notes: int, losses: int) -> None:
    """Also where the ring begins anew, and whether few or as many as fit are read at once."""
    numbers = Numbers(device, notes + losses)
    journal = DeviceJournal(device, notes + losses, numbers.arrays[:notes])
    write = journal.writing(numbers.arrays[notes:])
    assert journal.take().shape == (0, notes + losses)
    for count in (1, 3, ROWS, ROWS - 1, 1):
        for run in range(count):
            numbers.become(100 * count + run)
            write()
        assert numbers.taken(journal)
    assert numbers.taken(journal)


def test_rows_are_written_by_recorded_work(device: Device) -> None:
    numbers = Numbers(device, 2)
    journal = DeviceJournal(device, 2)
    write = journal.writing(numbers.arrays)
    with device.capture() as graphs:
        write()
    for run in range(5):
        numbers.become(run)
        graphs[0].replay()
    assert numbers.taken(journal)


def test_numbers_are_copied_bit_by_bit(device: Device) -> None:
    array = device.allocate_array(4)
    bits = np.array([0x7F812345], np.uint32)  # a signalling NaN
    device.upload(device.memory_of(array), bits)
    journal = DeviceJournal(device, 1)
    journal.writing([array])()
    assert journal.take().view(np.uint32).tolist() == [bits.tolist()]


class Moment(Event):
    """An event that notes when it is waited for."""

    def __init__(self, awaited: list[int], number: int) -> None:
        self._awaited, self._number = awaited, number

    def wait(self) -> None:
        self._awaited.append(self._number)


class Marked(EmulatedDevice):
    """Counts the moments that are marked; `awaited` are those that the host has waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.marks = 0
        self.awaited: list[int] = []

    def mark(self) -> Event:
        self.marks += 1
        return Moment(self.awaited, self.marks)


def test_the_host_runs_ahead_of_the_device_by_a_few_runs_only() -> None:
    device = Marked()
    journal = DeviceJournal(device, 1)
    for run in range(1, 3 * AHEAD):
        journal.pace()
        assert device.awaited == list(range(1, run - AHEAD + 1))
    journal.take()  # waits for all of them
    device.awaited.clear()
    for _ in range(AHEAD):
        journal.pace()
    assert not device.awaited
