"""A siamese net, used as in Caffe's tutorial: it learns from pairs of handwritten digits which are alike."""

from __future__ import annotations

import tarfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

import netc
from netc import layers as L
from netc.proto import caffe_pb2

ARCHIVE = Path(__file__).parents[2] / "models" / "digits" / "digits.tar.xz"
DIGITS = (0, 1, 4, 6)  # few enough for two features
XAVIER = {"type": "xavier"}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netc.set_random_seed(1)
    monkeypatch.chdir(tmp_path)


def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """The shipped images of some digits, 1 x 8 x 8 in 0..1, and which digits they are."""
    images, labels = [], []
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            parts = member.name.split("/")
            if member.isfile() and parts[0] == split and parts[1] in map(str, DIGITS):
                file = archive.extractfile(member)
                assert file is not None
                encoded = np.frombuffer(file.read(), np.uint8)
                images.append(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)[None] / np.float32(255))
                labels.append(int(parts[1]))
    return np.stack(images), np.array(labels)


def write_pairs(count: int) -> str:
    """Random pairs as two channels, and whether they are of one digit; half of them are. The list's path."""
    images, labels = digits("train")
    rng = np.random.default_rng(0)
    first = rng.integers(len(images), size=count)
    second = np.array(
        [
            rng.choice(np.flatnonzero((labels == labels[i]) == (k % 2 == 0)))
            for k, i in enumerate(first.tolist())
        ]
    )
    with h5py.File("pairs.h5", "w") as file:
        file["pair_data"] = np.concatenate([images[first], images[second]], axis=1)
        file["sim"] = (labels[first] == labels[second]).astype(np.float32)
    Path("pairs.txt").write_text("pairs.h5\n")
    return "pairs.txt"


def siamese(source: str, batch_size: int) -> caffe_pb2.NetParameter:
    """Two images of a pair, stacked as channels, through two branches whose parameters share names."""
    n = netc.NetSpec()
    n.pair_data, n.sim = L.HDF5Data(batch_size=batch_size, source=source, ntop=2)
    n.data, n.data_p = L.Slice(n.pair_data, ntop=2, slice_dim=1, slice_point=1)
    for branch in ("", "_p"):

        def shared(layer: str) -> list[dict[str, object]]:
            return [{"name": f"{layer}_w", "lr_mult": 1}, {"name": f"{layer}_b", "lr_mult": 2}]

        n[f"conv1{branch}"] = L.Convolution(
            n[f"data{branch}"], num_output=8, kernel_size=3, weight_filler=XAVIER, param=shared("conv1")
        )
        n[f"relu1{branch}"] = L.ReLU(n[f"conv1{branch}"], in_place=True)
        n[f"ip1{branch}"] = L.InnerProduct(
            n[f"relu1{branch}"], num_output=32, weight_filler=XAVIER, param=shared("ip1")
        )
        n[f"relu2{branch}"] = L.ReLU(n[f"ip1{branch}"], in_place=True)
        n[f"feat{branch}"] = L.InnerProduct(
            n[f"relu2{branch}"], num_output=2, weight_filler=XAVIER, param=shared("feat")
        )
    n.loss = L.ContrastiveLoss(n.feat, n.feat_p, n.sim, margin=1)
    return n.to_proto()


def one_branch(images: int) -> caffe_pb2.NetParameter:
    """The net that describes single images: the first branch under its own names."""
    n = netc.NetSpec()
    n.data = L.Input(shape={"dim": [images, 1, 8, 8]})
    n.conv1 = L.Convolution(n.data, num_output=8, kernel_size=3)
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.ip1 = L.InnerProduct(n.relu1, num_output=32)
    n.relu2 = L.ReLU(n.ip1, in_place=True)
    n.feat = L.InnerProduct(n.relu2, num_output=2)
    return n.to_proto()


def test_a_siamese_net_learns_which_digits_are_alike() -> None:
    Path("siamese.prototxt").write_text(str(siamese(write_pairs(1024), 64)))
    definition = caffe_pb2.SolverParameter(
        net="siamese.prototxt",
        base_lr=0.05,
        momentum=0.9,
        lr_policy="fixed",
        max_iter=400,
        random_seed=1,
        solver_mode="CPU",
        snapshot_prefix="snap",
    )
    solver = netc.SGDSolver(definition)
    net = solver.net
    for layer in ("conv1", "ip1", "feat"):
        for blob, twin in zip(net.params[layer], net.params[f"{layer}_p"], strict=True):
            assert np.shares_memory(blob.data, twin.data)
    solver.step(1)
    before = float(net.blobs["loss"].data)
    solver.step(399)
    assert float(net.blobs["loss"].data) < 0.1 * before

    net.save("siamese.caffemodel")
    images, labels = digits("test")
    describe = netc.Net(one_branch(len(images)), netc.TEST, weights="siamese.caffemodel")
    features = describe.forward(data=images)["feat"]
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = labels[distances.argmin(axis=1)]
    assert (nearest == labels).mean() > 0.95, "images never seen lie nearest to those of the same digit"
