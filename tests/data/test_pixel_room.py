"""Decoded images find room in memory that is used again, and no thread's lie in another's."""

from __future__ import annotations

import threading

import numpy as np

from netc.data.image import planes
from netc.data.pixel_room import PixelRoom


def test_what_is_taken_until_the_next_clearing_does_not_overlap() -> None:
    room = PixelRoom()
    for _ in range(3):
        room.clear()
        taken = [room.take((3, size, 7)) for size in (1, 20, 5, 400, 2)]
        for number, array in enumerate(taken):
            array[...] = number
        assert [array.shape for array in taken] == [(3, size, 7) for size in (1, 20, 5, 400, 2)]
        assert all((array == number).all() for number, array in enumerate(taken))


def test_memory_is_used_again() -> None:
    room = PixelRoom()
    room.take((1000,))
    room.clear()
    first = room.take((1000,))
    room.clear()
    assert np.shares_memory(first, room.take((600,)))


def test_every_thread_has_memory_of_its_own() -> None:
    room = PixelRoom()
    room.take((1000,))
    room.clear()
    taken = [room.take((1000,))]
    thread = threading.Thread(target=lambda: taken.append(room.take((1000,))))
    thread.start()
    thread.join()
    assert not np.shares_memory(*taken)


def test_planes_put_into_a_room_are_the_same() -> None:
    rng = np.random.default_rng(0)
    room = PixelRoom()
    for shape in [(5, 7, 3), (4, 4, 1), (3, 9, 4), (6, 5)]:
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        expected = image.transpose(2, 0, 1) if image.ndim == 3 else image[None]
        np.testing.assert_array_equal(planes(image), expected)
        np.testing.assert_array_equal(planes(image, room), expected)
        np.testing.assert_array_equal(planes(image[1:, 1:], room), expected[:, 1:, 1:])
