"""Trained models of others load and give Caffe's outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netc.runtime import Net
from tests.layer.golden_case import agree
from tests.reference.folder import every_file


@pytest.mark.parametrize("weights", every_file("pretrained/*.caffemodel"))
def test_a_trained_net_gives_caffes_outputs(weights: Path) -> None:
    net = Net(weights.with_suffix(".prototxt"), weights=str(weights))
    compared = 0
    with np.load(weights.parent / "outputs.npz") as case:
        kind = f"{weights.stem}/"
        for name in net.inputs:
            net.blobs[name].data[...] = case[f"{kind}in/{name}"]
        net.forward()
        for key in case.files:
            if key.startswith(f"{kind}out/"):
                agree(key, net.blobs[key[len(kind) + 4 :]].data, case[key])
                compared += 1
    assert compared == len(net.outputs)
