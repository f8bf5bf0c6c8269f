"""Others' nets of every age are upgraded to what Caffe makes of them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from netc.proto import netc_pb2 as pb
from netc.schema.text import read_text
from netc.schema.upgrade import upgrade_net_text
from tests.reference.folder import every_file
from tests.schema.upgrade_case import caffes_words, words_of


@pytest.mark.parametrize("path", every_file("upgrade/*.in.prototxt"))
def test_a_net_is_upgraded_as_caffe_does(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stem = path.name.removesuffix(".in.prototxt")
    with caplog.at_level(logging.INFO, "netc"):
        found = upgrade_net_text(path)
    assert found == read_text(path.with_name(f"{stem}.out.prototxt"), pb.NetParameter).message
    assert words_of(caplog) == caffes_words(path.with_name(f"{stem}.log"), path)
