"""Pictures of nets."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

import netc
from netc import NetcError
from netc import layers as L
from netc import params as P
from netc.schema.net import parse_net
from tests.pycaffe.small_nets import CONV_NET, write_net


def test_a_message_is_drawn_as_svg(tmp_path: Path) -> None:
    netc.draw.draw_net_to_file(parse_net(CONV_NET).message, tmp_path / "net.svg", "TB", phase=netc.TEST)
    text = (tmp_path / "net.svg").read_text()
    assert ElementTree.fromstring(text.partition("<svg")[1] + text.partition("<svg")[2]).tag.endswith("svg")
    assert "conv" in text
    assert "prob" in text
    assert "loss" not in text  # of the other phase


def test_a_net_is_drawn_as_dot(tmp_path: Path) -> None:
    net = netc.Net(write_net(tmp_path), netc.TRAIN)
    text = netc.draw.draw_net(net, "LR", ext="dot").decode()
    assert text.startswith('digraph "small"')
    assert "rankdir=LR" in text
    assert "Convolution" in text
    assert "3x3" in text


def test_without_a_phase_the_layers_of_both_are_drawn() -> None:
    text = netc.draw.draw_net(parse_net(CONV_NET).message, "TB", ext="gv").decode()
    assert "loss" in text
    assert "prob" in text


def test_other_kinds_need_graphviz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NetcError, match="need Graphviz"):
        netc.draw.draw_net_to_file(parse_net(CONV_NET).message, tmp_path / "net.png")
    assert not (tmp_path / "net.png").exists()


def test_an_unknown_direction_is_refused() -> None:
    with pytest.raises(NetcError, match="unknown direction"):
        netc.draw.draw_net(parse_net(CONV_NET).message, "up", ext="svg")


def test_a_layers_label_says_what_it_is() -> None:
    pool = netc.to_proto(L.Pooling(L.Input(), pool=P.Pooling.AVE, kernel_size=3, stride=2)).layer[1]
    assert netc.draw.get_layer_label(pool, "TB") == "Pooling1 Pooling, AVE, 3x3, stride 2"
    assert netc.draw.get_layer_label(pool, "LR") == "Pooling1\nPooling, AVE, 3x3, stride 2"
    assert netc.draw.get_pooling_types_dict()[P.Pooling.AVE] == "AVE"
