"""`netc extract_features`: keeps what chosen blobs hold for every item of a net's data."""

from __future__ import annotations

import logging

from netc.cli.command import Command
from netc.cli.flags import Flag, Flags, UsageError, closest
from netc.cli.net_flags import NET_FLAGS, choose_device, limit_threads

log = logging.getLogger(__name__)

DEVICES = ("CPU", "GPU")
FLAGS = (
    Flag("phase", "string", "TEST", "The net's phase.", choices=("TRAIN", "TEST")),
    *NET_FLAGS,
)


def run(flags: Flags) -> int:
    """Runs the net on so many batches and writes the blobs."""
    weights, model, blobs, targets, batches, kind, *device = flags.positionals
    blob_names, target_names = _words(blobs), _words(targets)
    if len(blob_names) != len(target_names):
        raise UsageError(
            "as many BLOBS as TARGETS are needed",
            expected=f"{len(blob_names)} targets",
            found=f"{len(target_names)}: {targets}",
        )
    if not batches.isdigit() or not int(batches):
        raise UsageError("BATCHES must be a positive number", found=batches)
    flags.values["gpu"] = flags.gpu or _gpu_of(device)
    limit_threads(flags)
    backend = choose_device(flags, "extract_features.cpp:63")
    from netc.proto import netc_pb2 as pb
    from netc.runtime import Net
    from netc.tools.features import KINDS, extract_features

    if kind not in KINDS:
        meant = closest(kind, KINDS)
        remedy = f"did you mean {meant}?" if meant else None
        raise UsageError("unknown kind of target", expected=" or ".join(KINDS), found=kind, remedy=remedy)
    net = Net(
        model,
        pb.Phase.Value(flags.phase),
        level=flags.level,
        stages=flags.stage,
        weights=weights,
        backward=False,
        backend=backend,
    )
    try:
        log.info("Extracting Features", extra={"source": "extract_features.cpp:126"})
        counts = extract_features(net, blob_names, target_names, int(batches), kind)
    finally:
        net.close()
    for blob, count in counts.items():
        log.info(
            "Extracted features of %d query images for feature blob %s",
            count,
            blob,
            extra={"source": "extract_features.cpp:175"},
        )
    log.info("Successfully extracted the features!", extra={"source": "extract_features.cpp:180"})
    return 0


def _words(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _gpu_of(words: list[str]) -> str:
    """Caffe's last arguments, CPU, or GPU and DEVICE_ID=0, as -gpu has it."""
    if words and words[0] not in DEVICES:
        raise UsageError("the seventh argument names the device", expected="CPU or GPU", found=words[0])
    if not words or words[0] == "CPU":
        return ""
    return words[1].removeprefix("DEVICE_ID=") if len(words) > 1 else "0"


COMMAND = Command(
    "extract_features",
    "keep what chosen blobs hold for every item of a net's data",
    run,
    FLAGS,
    positionals=("WEIGHTS NET BLOBS TARGETS BATCHES KIND [DEVICE] [DEVICE_ID]",),
    notes="""
        BLOBS and TARGETS are separated by commas, a target for each blob; KIND is lmdb, leveldb or hdf5. In a
        database item i has the key %010d and holds a Datum of label 0 with the values as float_data; in an
        HDF5 file all items are one data set that bears the blob's name.
    """,
    examples=(
        "netc extract_features snap.caffemodel train_val.prototxt ip1,prob ip1_lmdb,prob_lmdb 10 lmdb",
    ),
)
