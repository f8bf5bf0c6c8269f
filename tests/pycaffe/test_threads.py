"""Several nets and threads in one process."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np

import netc
from netc import layers as L


def make_net(classes: int) -> netc.Net:
    n = netc.NetSpec()
    n.data = L.Input(shape={"dim": [4, 3, 16, 16]})
    n.label = L.Input(shape={"dim": [4]})
    n.conv = L.Convolution(n.data, num_output=8, kernel_size=3, weight_filler={"type": "xavier"})
    n.relu = L.ReLU(n.conv, in_place=True)
    n.ip = L.InnerProduct(n.relu, num_output=classes, weight_filler={"type": "xavier"})
    n.loss = L.SoftmaxWithLoss(n.ip, n.label)
    netc.set_random_seed(classes)
    return netc.Net(n.to_proto(), netc.TRAIN)


def run(net: netc.Net, start: Callable[[], object] = lambda: None) -> list[np.ndarray]:
    """Losses and gradients of some passes over data of the net's own."""
    start()
    rng = np.random.default_rng(net.blobs["ip"].shape[1])
    found = []
    for _ in range(20):
        net.clear_param_diffs()
        net.forward(data=rng.standard_normal((4, 3, 16, 16)), label=rng.integers(0, 3, 4))
        net.backward()
        found += [net.blobs["loss"].data.copy(), net.params["conv"][0].diff.copy()]
    return found


def test_two_threads_run_different_nets_as_if_alone() -> None:
    alone = [run(make_net(classes)) for classes in (5, 7)]
    nets, barrier = [make_net(classes) for classes in (5, 7)], Barrier(2)
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda net: run(net, barrier.wait), nets))
    for one, other in zip(alone, together, strict=True):
        for before, after in zip(one, other, strict=True):
            np.testing.assert_array_equal(before, after)


def test_threads_make_and_train_nets_at_the_same_time(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "x" type: "DummyData" top: "x" top: "t" dummy_data_param {'
        " shape { dim: 4 dim: 3 } shape { dim: 4 dim: 1 }"
        ' data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 } } }'
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 1 } }'
        'layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }'
    )
    (tmp_path / "solver.prototxt").write_text(
        f'net: "{tmp_path}/net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 50 random_seed: 3'
        f' snapshot_prefix: "{tmp_path}/s" snapshot_after_train: false solver_mode: CPU'
    )

    def train(_: int) -> np.ndarray:
        solver = netc.get_solver(tmp_path / "solver.prototxt")
        solver.solve()
        return solver.net.params["ip"][0].data.copy()

    alone = train(0)
    with ThreadPoolExecutor(3) as threads:
        for weights in threads.map(train, range(3)):
            np.testing.assert_array_equal(weights, alone)
