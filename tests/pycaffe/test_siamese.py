"""A siamese net, used as in Caffe's tutorial: it learns from pairs of handwritten digits which are alike."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

import netc
from netc import layers as L
from netc.proto import caffe_pb2

SHIPPED = Path(__file__).parents[2] / "models" / "digits" / "digits.tar.xz"
MNIST = Path(os.environ.get("NETC_REFERENCE", "none")).parent / "data" / "mnist_png.tar.xz"
OF_EACH = 1000  # images of a digit that are read
DIGITS = (0, 1, 4, 6)  # few enough for two features
XAVIER = {"type": "xavier"}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netc.set_random_seed(1)
    monkeypatch.chdir(tmp_path)


Images = tuple[np.ndarray, np.ndarray]


def read_digits(path: Path) -> dict[str, Images]:
    """By split ("train", "test"): images of some digits, 1 x H x W in 0..1, and which digits they are."""
    images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    read: Counter[tuple[str, str]] = Counter()
    with tarfile.open(path) as archive:
        for member in archive:
            split, _, rest = member.name.partition("/")
            digit = rest.partition("/")[0]
            if not member.isfile() or split not in images or digit not in map(str, DIGITS):
                continue
            read[split, digit] += 1
            if read[split, digit] <= OF_EACH:
                file = archive.extractfile(member)
                assert file is not None
                encoded = np.frombuffer(file.read(), np.uint8)
                images[split].append(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)[None] / np.float32(255))
                labels[split].append(int(digit))
    return {split: (np.stack(images[split]), np.array(labels[split])) for split in images}


def write_pairs(images: np.ndarray, labels: np.ndarray, count: int) -> str:
    """Random pairs as two channels, and whether they are of one digit; half of them are. The list's path."""
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


def one_branch(shape: tuple[int, ...]) -> caffe_pb2.NetParameter:
    """The net that describes single images: the first branch under its own names."""
    n = netc.NetSpec()
    n.data = L.Input(shape={"dim": list(shape)})
    n.conv1 = L.Convolution(n.data, num_output=8, kernel_size=3)
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.ip1 = L.InnerProduct(n.relu1, num_output=32)
    n.relu2 = L.ReLU(n.ip1, in_place=True)
    n.feat = L.InnerProduct(n.relu2, num_output=2)
    return n.to_proto()


@pytest.mark.parametrize("path", [SHIPPED, MNIST], ids=["shipped digits", "MNIST"])
def test_a_siamese_net_learns_which_digits_are_alike(path: Path) -> None:
    if not path.exists():
        pytest.skip("MNIST's images are looked for beside the folder that NETC_REFERENCE names")
    digits = read_digits(path)
    Path("siamese.prototxt").write_text(str(siamese(write_pairs(*digits["train"], 8192), 64)))
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
    images, labels = digits["test"]
    describe = netc.Net(one_branch(images.shape), netc.TEST, weights="siamese.caffemodel")
    features = describe.forward(data=images)["feat"]
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = labels[distances.argmin(axis=1)]
    assert (nearest == labels).mean() > 0.95, "images never seen lie nearest to those of the same digit"
