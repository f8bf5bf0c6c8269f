"""`netc time`: measures what every layer of a net takes."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags, UsageError
from netc.cli.net_flags import MEMORY_FLAG, MODEL, NET_FLAGS, choose_device, limit_threads, require
from netc.cli.table import Table

if TYPE_CHECKING:
    from netc.tools.timing import LayerTimes, NetTimes, Times

log = logging.getLogger(__name__)

FLAGS = (
    Flag("model", "string", "", MODEL, metavar="FILE"),
    Flag("weights", "list", [], "Weights to load first: .caffemodel or .h5 files.", metavar="FILE,FILE"),
    Flag("iterations", "int", 50, "How many passes to measure."),
    Flag("phase", "string", "TRAIN", "The net's phase.", choices=("TRAIN", "TEST")),
    Flag("json", "bool", False, "Print JSON for other programs, in place of the table."),
    *NET_FLAGS,
    MEMORY_FLAG,
)
EXAMPLE = "netc time -model train_val.prototxt -iterations 10"
COLUMNS = (
    "layer",
    "type",
    "forward min",
    "median",
    "max",
    "GFLOP/s",
    "backward min",
    "median",
    "max",
    "GFLOP/s",
)


def run(flags: Flags) -> int:
    """Runs the net forward and backward, logs Caffe's lines and prints a table."""
    model = require(flags, "model", EXAMPLE)
    if flags.iterations < 1:
        raise UsageError("flag -iterations must be positive", found=flags.iterations)
    limit_threads(flags)
    backend = choose_device(flags, "caffe.cpp:343")
    from netc.proto import netc_pb2 as pb
    from netc.runtime import Net
    from netc.tools.timing import measure

    phase = pb.Phase.Value(flags.phase)
    net = Net(
        model,
        phase,
        level=flags.level,
        stages=flags.stage,
        keep="outputs",
        weights=flags.weights,
        backend=backend,
    )
    try:
        _say("caffe.cpp:351", "Performing Forward")
        _say("caffe.cpp:356", "Initial loss: %g", net.forward())
        _say("caffe.cpp:357", "Performing Backward")
        net.backward()
        _say("caffe.cpp:365", "*** Benchmark begins ***")
        _say("caffe.cpp:366", "Testing for %d iterations.", flags.iterations)
        times = measure(net, flags.iterations, _log_iteration)
    finally:
        net.close()
    _log_averages(times)
    if flags.json:
        print(json.dumps(_as_json(times), indent=2))
    else:
        make_table(times, net.name, flags.iterations).show()
    return 0


def _say(source: str, message: str, *args: object) -> None:
    log.info(message, *args, extra={"source": source})


def _log_iteration(number: int, seconds: float) -> None:
    _say("caffe.cpp:394", "Iteration: %d forward-backward time: %g ms.", number, 1e3 * seconds)


def _log_averages(times: NetTimes) -> None:
    _say("caffe.cpp:397", "Average time per layer: ")
    for layer in times.layers:
        _say("caffe.cpp:400", "%10s\tforward: %g ms.", layer.name, 1e3 * layer.forward.mean)
        _say("caffe.cpp:403", "%10s\tbackward: %g ms.", layer.name, 1e3 * layer.backward.mean)
    _say("caffe.cpp:408", "Average Forward pass: %g ms.", 1e3 * times.forward.mean)
    _say("caffe.cpp:410", "Average Backward pass: %g ms.", 1e3 * times.backward.mean)
    _say("caffe.cpp:412", "Average Forward-Backward: %g ms.", 1e3 * times.both.mean)
    _say("caffe.cpp:414", "Total Time: %g ms.", 1e3 * sum(times.both.seconds))
    _say("caffe.cpp:415", "*** Benchmark ends ***")


def make_table(times: NetTimes, name: str, iterations: int) -> Table:
    """The table of the measurements, in milliseconds."""
    table = Table(
        COLUMNS, right=frozenset(COLUMNS[2:]), title=f"{name or 'net'}, {iterations} iterations, ms"
    )
    for layer in times.layers:
        table.add(layer.name, layer.type, *_cells(layer.forward), *_cells(layer.backward))
    table.total = ("total", "", *_cells(times.forward), *_cells(times.backward))
    both = times.both
    table.notes = [
        f"forward and backward: {1e3 * both.median:.3f} ms"
        f" (from {1e3 * both.least:.3f} to {1e3 * both.most:.3f})"
        + (f", {both.gigaflops:.3g} GFLOP/s" if both.multiply_adds else "")
    ]
    return table


def _cells(times: Times) -> tuple[str, ...]:
    milliseconds = [f"{1e3 * seconds:.3f}" for seconds in (times.least, times.median, times.most)]
    return (*milliseconds, f"{times.gigaflops:.3g}" if times.multiply_adds else "-")


def _as_json(times: NetTimes) -> dict[str, Any]:
    return {
        "layers": [_layer_json(layer) for layer in times.layers],
        "forward": _times_json(times.forward),
        "backward": _times_json(times.backward),
        "forward_backward": _times_json(times.both),
    }


def _layer_json(layer: LayerTimes) -> dict[str, Any]:
    return {
        "name": layer.name,
        "type": layer.type,
        "forward": _times_json(layer.forward),
        "backward": _times_json(layer.backward),
    }


def _times_json(times: Times) -> dict[str, float]:
    return {
        "min_ms": 1e3 * times.least,
        "median_ms": 1e3 * times.median,
        "max_ms": 1e3 * times.most,
        "mean_ms": 1e3 * times.mean,
        "multiply_adds": times.multiply_adds,
        "gflops": times.gigaflops,
    }


COMMAND = Command(
    "time",
    "measure what every layer of a net takes",
    run,
    FLAGS,
    notes="""
        One pass runs beforehand and is not counted. GFLOP/s count two operations for a multiplication by a
        weight and its addition, by the median time; a data layer's time is what the net waits for its batch.
    """,
    examples=(EXAMPLE,),
)
