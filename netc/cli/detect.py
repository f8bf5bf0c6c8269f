"""`netc detect IMAGE...`: says where a net sees objects in images."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags, UsageError
from netc.cli.image_flags import IMAGE_FLAGS, make_preparation, open_net, read_mean_flags, without_net_log
from netc.cli.net_flags import limit_threads
from netc.cli.table import Table
from netc.errors import NetcError

if TYPE_CHECKING:
    from netc.runtime import Net
    from netc.tools.detect import Detection

log = logging.getLogger(__name__)

FLAGS = (
    *IMAGE_FLAGS,
    Flag(
        "windows",
        "string",
        "",
        "Windows to classify, for a net that finds none itself: a CSV with filename,ymin,xmin,ymax,xmax.",
        metavar="FILE",
    ),
    Flag("context_pad", "int", 0, "Pixels of the input, on each side, that show what surrounds a window."),
    Flag("threshold", "float", 0.5, "Show detections of this score and more."),
    Flag("overlap", "float", 0.3, "Of windows that overlap more than this, keep the best of each class."),
    Flag("background", "int", 0, "The class that is no object, for windows; -1: there is none."),
    Flag("draw", "string", "", "A folder for the images with boxes drawn in.", metavar="FOLDER"),
)
EXAMPLE = "netc detect -model deploy.prototxt -weights ssd.caffemodel -mean_value 104,117,123 street.jpg"


def run(flags: Flags) -> int:
    """Finds objects and prints their boxes."""
    limit_threads(flags)
    if not flags.positionals and not flags.windows:
        raise UsageError("netc detect needs images, or -windows", remedy=EXAMPLE)
    if flags.draw and not Path(flags.draw).is_dir():
        raise NetcError(f"there is no folder {flags.draw}", remedy=f"mkdir -p {flags.draw}")
    from netc.tools.classify import read_labels
    from netc.tools.detect import draw_detections

    names = read_labels(flags.labels) if flags.labels else None
    found = _in_windows(flags, names) if flags.windows else _in_images(flags, names)
    if flags.draw:
        for path, detections in found.items():
            draw_detections(path, detections, Path(flags.draw) / Path(path).name)
    _show(found, flags.json)
    return 0


def _in_images(flags: Flags, names: list[str] | None) -> dict[str, list[Detection]]:
    from netc.tools.detect import detect, detects
    from netc.tools.image_input import find_images

    net: Net = open_net(flags, EXAMPLE)
    if not detects(net):
        raise NetcError(
            "the net finds no boxes itself: it does not end in a DetectionOutput layer",
            remedy="propose windows by any means and give them with -windows",
        )
    paths = find_images(flags.positionals)
    return dict(detect(net, paths, make_preparation(flags, net), flags.threshold, names))


def _in_windows(flags: Flags, names: list[str] | None) -> dict[str, list[Detection]]:
    """R-CNN's way: every window is classified by itself."""
    from netc.pycaffe.detector import Detector
    from netc.tools.detect import Detection, name_of, read_windows, suppress

    open_net(flags, EXAMPLE).close()  # checks the flags and the files
    mean = read_mean_flags(flags)
    if mean.ndim == 3:
        mean = mean.mean(axis=(1, 2))
    windows = read_windows(flags.windows)
    with without_net_log():
        detector = Detector(flags.model, flags.weights[0], context_pad=flags.context_pad, raw_scale=255)
    name = detector.inputs[0]
    channels = detector.blobs[name].shape[1]
    if channels == 3:
        detector.transformer.set_channel_swap(name, (2, 1, 0))
    detector.transformer.set_mean(name, mean if len(mean) == channels else mean.repeat(channels))
    detector.transformer.set_input_scale(name, flags.scale)
    detector.configure_crop(flags.context_pad)
    found: dict[str, list[Detection]] = {path: [] for path in windows}
    for each in detector.detect_windows(windows.items()):
        ymin, xmin, ymax, xmax = map(float, each["window"])
        for label, score in enumerate(each["prediction"].tolist()):
            if label != flags.background and score >= flags.threshold:
                box = Detection(label, name_of(label, names), score, xmin, ymin, xmax, ymax)
                found[each["filename"]].append(box)
    return {path: suppress(detections, flags.overlap) for path, detections in found.items()}


def _show(found: dict[str, list[Detection]], as_json: bool) -> None:
    if as_json:
        plain = {path: [each.__dict__ for each in detections] for path, detections in found.items()}
        print(json.dumps(plain, indent=2, ensure_ascii=False))
        return
    columns = ("image", "class", "score", "xmin", "ymin", "xmax", "ymax")
    table = Table(columns, right=frozenset(columns[2:]))
    for path, detections in found.items():
        for i, each in enumerate(detections):
            box = [f"{edge:.1f}" for edge in each.box]
            table.add("" if i else path, each.name, f"{each.score:.4f}", *box)
        if not detections:
            table.add(path, "nothing", *[""] * 5)
    table.show()


COMMAND = Command(
    "detect",
    "say where a net sees objects in images",
    run,
    FLAGS,
    positionals=("IMAGE...", ""),
    notes="""
        A net that ends in a DetectionOutput layer (SSD) finds boxes itself. Any other net classifies the
        windows that -windows gives, as R-CNN does; the images are then those that the file names. Boxes are
        in pixels of the image.
    """,
    examples=(EXAMPLE, "netc detect -model rcnn.prototxt -weights rcnn.caffemodel -windows windows.csv"),
)
