"""MemoryData: the caller's arrays in batches, round and round."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from netc.data.memory_source import MemorySource
from netc.errors import NetcError
from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.text import parse_text

LAYER = """layer { name: "memory" type: "MemoryData" top: "data" top: "label"
  memory_data_param { batch_size: 2 channels: 1 height: 2 width: 3 } }"""
DATA = np.arange(36, dtype=np.float32).reshape(6, 1, 2, 3)
LABELS = np.arange(6, dtype=np.float32)


def memory(opened: Any, text: str = LAYER) -> MemorySource:
    source = opened(text)
    assert isinstance(source, MemorySource)
    return source


def test_batches_go_round(opened: Any) -> None:
    source = memory(opened)
    assert [top.shape for top in source.tops] == [(2, 1, 2, 3), (2,)]
    source.set_arrays(DATA, LABELS)
    for first in (0, 2, 4, 0):
        data, labels = source.next()
        np.testing.assert_array_equal(data, DATA[first : first + 2])
        np.testing.assert_array_equal(labels, [first, first + 1])


def test_the_arrays_are_used_where_they_lie(opened: Any) -> None:
    source, data = memory(opened), DATA.copy()
    source.set_arrays(data, LABELS)
    data[0] = -1
    assert (source.next()[0][0] == -1).all()


def test_other_arrays_begin_at_their_first_item(opened: Any) -> None:
    source = memory(opened)
    source.set_arrays(DATA, LABELS)
    source.next()
    source.set_arrays(DATA[2:4], LABELS[2:4, None])
    assert source.next()[1].tolist() == [2, 3]


def test_a_position_is_restored(opened: Any) -> None:
    source, resumed = memory(opened), memory(opened)
    for one in (source, resumed):
        one.set_arrays(DATA, LABELS)
    source.next()
    resumed.restore(source.state())
    np.testing.assert_array_equal(resumed.next()[1], source.next()[1])


def test_a_net_serves_the_arrays() -> None:
    net = Net(parse_text(LAYER, pb.NetParameter, "net.prototxt").message)
    net.sources["memory"].set_arrays(DATA, LABELS)
    net.forward()
    net.forward()
    np.testing.assert_array_equal(net.blobs["data"].data, DATA[2:4])
    assert net.blobs["label"].data.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (DATA[:5], LABELS[:5], "multiple of batch_size"),
        (DATA[:0], LABELS[:0], "multiple of batch_size"),
        (DATA[..., :2], LABELS, "do not fit the layer"),
        (DATA[:, 0], LABELS, "do not fit the layer"),
        (DATA, LABELS[:4], "as many labels as items"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(opened: Any, data: Any, labels: Any, message: str) -> None:
    with pytest.raises(NetcError, match=message):
        memory(opened).set_arrays(data, labels)


def test_a_layer_without_arrays_says_what_to_call(opened: Any) -> None:
    with pytest.raises(NetcError, match="set_input_arrays"):
        memory(opened).next()


@pytest.mark.parametrize("missing", ["batch_size", "channels", "height", "width"])
def test_every_dimension_must_be_stated(opened: Any, missing: str) -> None:
    with pytest.raises(NetcError, match=f"needs {missing}"):
        opened(_without(missing))


def _without(dimension: str) -> str:
    words = LAYER.split()
    at = words.index(f"{dimension}:")
    return " ".join(words[:at] + words[at + 2 :])


def test_a_transformation_without_effect_is_named(opened: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        opened(LAYER.replace("memory_data_param", "transform_param { scale: 2 } memory_data_param"))
    assert "transform_param has no effect" in caplog.text
