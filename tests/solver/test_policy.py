"""Learning-rate policies against the rates that Caffe used, and by their formulas."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from google.protobuf import text_format

from netc.proto import netc_pb2 as pb
from netc.solver.policy import Schedule
from tests.solver.golden_case import CASES, load


def rates(text: str, iterations: int) -> list[float]:
    schedule = Schedule(text_format.Parse(text, pb.SolverParameter()))
    return [schedule.rate(iteration) for iteration in range(iterations)]


@pytest.mark.parametrize("name", CASES)
def test_rates_equal_caffes_bit_for_bit(name: str) -> None:
    case = load(name)
    definition = text_format.Parse(str(case["solver"]), pb.SolverParameter())
    schedule = Schedule(definition)
    found = [schedule.rate(iteration) for iteration in range(int(case["iters"]))]
    np.testing.assert_array_equal(np.float32(found), case["lr"])


def test_multistep_takes_one_step_an_iteration_and_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "netc"):
        found = rates('base_lr: 1 lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 2', 5)
    assert found == [1, 1, 0.5, 0.25, 0.25]
    assert [record.getMessage() for record in caplog.records] == [
        "MultiStep Status: Iteration 2, step = 1",
        "MultiStep Status: Iteration 3, step = 2",
    ]


def test_multistep_resumes_from_its_current_step() -> None:
    text = 'base_lr: 1 lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 6'
    schedule = Schedule(text_format.Parse(text, pb.SolverParameter()))
    schedule.current_step = 1
    assert schedule.rate(4) == 0.5
    assert schedule.rate(6) == 0.25


def test_poly_stays_at_zero_past_max_iter() -> None:
    found = rates('base_lr: 1 lr_policy: "poly" power: 0.5 max_iter: 2', 4)
    assert found == pytest.approx([1, math.sqrt(0.5), 0, 0])


def test_a_growing_rate_overflows_to_infinity() -> None:
    schedule = Schedule(text_format.Parse('base_lr: 1 lr_policy: "exp" gamma: 10', pb.SolverParameter()))
    assert schedule.rate(100000) == math.inf


@pytest.mark.parametrize("iteration", [0, 1, 999, 123_456, 20_000_001])
def test_rates_are_computed_in_float_but_for_powers(iteration: int) -> None:
    """As Caffe's are: every other result is rounded to float."""
    f = np.float32
    text = "base_lr: 0.013 gamma: 0.0003 power: 0.75 stepsize: 70 max_iter: 30000000 lr_policy: "
    expected = {
        "inv": f(0.013) * f(float(f(1) + f(0.0003) * f(iteration)) ** -0.75),
        "poly": f(0.013) * f(float(f(1) - f(iteration) / f(30000000)) ** 0.75),
        "sigmoid": f(0.013)
        * (f(1) / (f(1) + f(math.exp(min(700.0, float(-f(0.0003) * (f(iteration) - f(70)))))))),
    }
    for policy, rate in expected.items():
        schedule = Schedule(text_format.Parse(f'{text} "{policy}"', pb.SolverParameter()))
        assert schedule.rate(iteration) == float(rate), policy


def test_a_sigmoid_far_from_its_step_is_zero() -> None:
    text = 'base_lr: 1 lr_policy: "sigmoid" gamma: -1 stepsize: 5'
    schedule = Schedule(text_format.Parse(text, pb.SolverParameter()))
    assert schedule.rate(100_000) == 0


def test_a_power_of_nothing_is_infinite() -> None:
    text = 'base_lr: 1 lr_policy: "inv" gamma: -0.5 power: 2'
    schedule = Schedule(text_format.Parse(text, pb.SolverParameter()))
    assert schedule.rate(2) == math.inf
