"""`netc test`: scores a net on its test data."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags, UsageError
from netc.cli.net_flags import MODEL, NET_FLAGS, choose_device, limit_threads, require

if TYPE_CHECKING:
    import numpy as np

    from netc.runtime import Net, OutputValue
    from netc.solver.detection_scores import DetectionScores

log = logging.getLogger(__name__)

FLAGS = (
    Flag("model", "string", "", MODEL, metavar="FILE"),
    Flag(
        "weights",
        "list",
        [],
        "The trained weights; of several files, the later ones win.",
        metavar="FILE,...",
    ),
    Flag("iterations", "int", 50, "How many batches to run."),
    *NET_FLAGS,
)
AP_VERSION = "Integral"  # SSD's default
EXAMPLE = "netc test -model train_val.prototxt -weights snap_iter_10000.caffemodel -iterations 100"


@dataclass
class Score:
    """One element of an output blob: its sum over the batches, in the net's own precision as in Caffe."""

    name: str
    loss_weight: float
    total: np.floating


@dataclass
class Scores:
    """The scores of all outputs, and the loss, over the batches so far."""

    loss: float = 0.0
    elements: list[Score] = field(default_factory=list)
    detections: dict[str, DetectionScores] = field(default_factory=dict)


def run(flags: Flags) -> int:
    """Runs the net in its TEST phase, logs every batch's outputs and, at the end, their means."""
    model = require(flags, "model", EXAMPLE)
    if not flags.weights:
        require(flags, "weights", EXAMPLE)
    if flags.iterations < 1:
        raise UsageError("flag -iterations must be positive", found=flags.iterations)
    limit_threads(flags)
    backend = choose_device(flags, "caffe.cpp:275")
    from netc.proto import netc_pb2 as pb
    from netc.runtime import Net

    net = Net(
        model,
        pb.TEST,
        level=flags.level,
        stages=flags.stage,
        keep="outputs",
        backward=False,
        backend=backend,
    )
    try:
        for path in flags.weights:
            net.load_weights(path)
        log.info("Running for %d iterations.", flags.iterations, extra={"source": "caffe.cpp:281"})
        _log_means(score(net, flags.iterations), flags.iterations)
    finally:
        net.close()
    return 0


def score(net: Net, iterations: int) -> Scores:
    """Runs `iterations` batches and logs the outputs of each; DetectionEvaluate's are only gathered."""
    from netc.solver.detection_scores import detection_scores

    scores = Scores(detections=detection_scores(net))
    for batch in range(iterations):
        scores.loss += net.forward()
        outputs = net.output_values()
        for output in outputs:
            if output.name in scores.detections:
                scores.detections[output.name].add(output.data)
        shown = [output for output in outputs if output.name not in scores.detections]
        for position, (name, weight, value) in enumerate(_elements(shown)):
            log.info("Batch %d, %s = %g", batch, name, value, extra={"source": "caffe.cpp:304"})
            if position == len(scores.elements):
                scores.elements.append(Score(name, weight, value))
            else:
                scores.elements[position].total += value
    return scores


def _elements(outputs: list[OutputValue]) -> Iterator[tuple[str, float, np.floating]]:
    for output in outputs:
        for value in output.data.ravel():
            yield output.name, output.loss_weight, value


def _log_means(scores: Scores, iterations: int) -> None:
    log.info("Loss: %g", scores.loss / iterations, extra={"source": "caffe.cpp:309"})
    for element in scores.elements:
        mean = element.total / iterations
        weight = element.loss_weight
        loss = f" (* {weight:g} = {weight * mean:g} loss)" if weight else ""
        log.info("%s = %g%s", element.name, mean, loss, extra={"source": "caffe.cpp:321"})
    for name, found in scores.detections.items():
        precision = found.mean(AP_VERSION)
        log.info("%s = %g (mean average precision)", name, precision, extra={"source": "caffe.cpp:321"})


COMMAND = Command("test", "score a net on its test data", run, FLAGS, examples=(EXAMPLE,))
