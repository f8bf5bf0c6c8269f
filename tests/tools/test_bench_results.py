"""The benchmark's figures and files: medians, comparisons, what is measured again, tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.agreement import disagreement
from bench.contest import rotated
from bench.figure import Figure
from bench.machine import slug
from bench.results import Results, advantage, memory_share, table
from bench_gpu import rates

KEYS = ("net", "threads")


def measurement(net: str, threads: int = 1, **medians: float) -> dict[str, object]:
    contenders = {
        name: {"median_ms": median, "min_ms": median - 1, "max_ms": median + 1}
        for name, median in medians.items()
    }
    return {"net": net, "threads": threads, "contenders": contenders}


def test_a_figure_is_the_median_with_the_least_and_the_most() -> None:
    figure = Figure([0.004, 0.001, 0.002], steps=5).as_dict()
    assert figure == {"median_ms": 2, "min_ms": 1, "max_ms": 4, "rounds": 3, "steps_per_round": 5}


def test_netc_is_compared_with_the_best_of_the_others() -> None:
    assert advantage(measurement("lenet", netc=2, eager=8, compile=3)) == pytest.approx(1.5)
    assert advantage(measurement("lenet", netc=2)) is None
    assert advantage(measurement("lenet", eager=2)) is None


def test_memory_is_the_devices_where_there_is_one() -> None:
    host = {"netc": {"peak_of_steps": 10, "device": 0}, "eager": {"peak_of_steps": 20, "device": 0}}
    device = {"netc": {"peak_of_steps": 10, "device": 3}, "eager": {"peak_of_steps": 20, "device": 4}}
    assert memory_share({"memory": host}) == 0.5
    assert memory_share({"memory": device}) == 0.75
    assert memory_share({}) is None


def test_a_result_file_keeps_one_measurement_of_a_key(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "cpu.json"
    results = Results(file, KEYS)
    results.add(measurement("lenet", netc=2))
    results.add(measurement("cifar", netc=3))
    results.add(measurement("lenet", netc=5))
    again = Results(file, KEYS)
    assert [m["net"] for m in again.measurements] == ["lenet", "cifar"]
    assert again.measurements[0]["contenders"]["netc"]["median_ms"] == 5
    assert again.has(net="cifar", threads=1)
    assert not again.has(net="cifar", threads=2)
    assert json.loads(file.read_text())["measurements"] == again.measurements
    assert [path.name for path in file.parent.iterdir()] == ["cpu.json"]


def test_the_table_has_a_column_for_every_contender_of_any_row() -> None:
    rows = table([measurement("lenet", netc=2, eager=4), measurement("cifar", netc=9)], KEYS).splitlines()
    assert rows[0] == "| net | threads | netc | eager | netc is faster | memory |"
    assert rows[2] == "| lenet | 1 | 2 (1 to 3) | 4 (3 to 5) | 2.00x | - |"
    assert rows[3] == "| cifar | 1 | 9 (8 to 10) | - | - | - |"


def test_losses_disagree_by_their_relative_difference() -> None:
    assert disagreement({"loss": np.array([2.0])}, {"loss": np.array([2.5])}) == pytest.approx(0.25)


def test_probabilities_are_compared_by_scores_up_to_a_constant() -> None:
    scores = np.array([[1.0, 2.0, 4.0], [0.0, 0.5, 0.0]])
    ours = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert disagreement({"prob": ours}, {"prob": 3 * ours}) == pytest.approx(0, abs=1e-12)
    shuffled = ours[:, [0, 2, 1]]
    assert disagreement({"prob": ours}, {"prob": shuffled}) > 0.5


def test_results_that_are_no_numbers_never_agree() -> None:
    nan = {"loss": np.array([np.nan])}
    assert disagreement(nan, nan) == float("inf")
    assert disagreement({"loss": np.array([1.0])}, nan) == float("inf")


def test_contenders_take_turns_at_going_first() -> None:
    assert [rotated("abc", turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]
    assert rotated("abc", 2) == ["c", "a", "b"]


def test_a_processors_name_becomes_a_files() -> None:
    assert slug("Intel(R) Xeon(R) Platinum 8488C @ 2.40GHz") == "intel-xeon-platinum-8488c-2-40ghz"


def test_a_layers_time_becomes_a_share_of_what_the_device_can_do() -> None:
    assert rates(2.0, {"gflop": 10, "peak_gflops": 20_000}, 0) == {"tflops": 5.0, "share_of_peak": 0.25}
    assert rates(1.0, {"copy_gigabytes": 2000}, 10**9) == {"gigabytes": 1000.0, "share_of_copy": 0.5}
