"""Batches of data: databases, image lists and HDF5 files; decoded, transformed and read ahead in threads."""

from __future__ import annotations

from collections.abc import Callable

from netc.data.annotated_source import AnnotatedFeed
from netc.data.database_source import DatabaseFeed
from netc.data.hdf5_source import Hdf5Feed
from netc.data.image_data_source import ImageListFeed
from netc.data.memory_source import MemorySource
from netc.data.prefetch import DEFAULT_PREFETCH, Feed, PrefetchedSource
from netc.data.segmentation_source import SegmentationFeed
from netc.data.source import Locate, Origin, Source, TopSpec
from netc.data.transform_fields import check_transform_fields
from netc.data.window_source import WindowFeed
from netc.proto import netc_pb2 as pb

__all__ = ["FEEDS", "Origin", "Source", "TopSpec", "open_source"]

FEEDS: dict[str, Callable[..., Feed]] = {
    "Data": DatabaseFeed,
    "AnnotatedData": AnnotatedFeed,
    "ImageData": ImageListFeed,
    "HDF5Data": Hdf5Feed,
    "ImageSegData": SegmentationFeed,
    "WindowData": WindowFeed,
}
ONE_THREAD = {"HDF5Data"}  # libhdf5 reads in one thread at a time


def open_source(
    spec: pb.LayerParameter,
    phase: int,
    *,
    seed: int = 0,
    locate: Locate = lambda *path: None,
    rank: int = 0,
    ranks: int = 1,
    workers: int | None = None,
) -> Source:
    """The source that a data layer describes.

    seed: of crops, mirrors, shuffles and skips; locate: where the layer's fields stand, for messages; rank,
    ranks: read every ranks-th record from the rank-th on. Raises NetcError where the data cannot be read or
    does not fit.
    """
    origin = Origin(spec.name, spec.type, locate)
    check_transform_fields(spec, origin)
    if spec.type == "MemoryData":
        return MemorySource(spec, origin)
    feed: Feed = FEEDS[spec.type](spec, phase, seed, origin, rank=rank, ranks=ranks)
    prefetch = spec.data_param.prefetch if spec.type in ("Data", "AnnotatedData") else DEFAULT_PREFETCH
    return PrefetchedSource(feed, prefetch=prefetch, workers=1 if spec.type in ONE_THREAD else workers)
