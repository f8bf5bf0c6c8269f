"""Batches of data: databases, image lists and HDF5 files; decoded, transformed and read ahead in threads."""

from __future__ import annotations

from importlib import import_module

from netc.data.memory_source import MemorySource
from netc.data.prefetch import DEFAULT_PREFETCH, Feed, PrefetchedSource
from netc.data.source import Locate, Origin, Source, TopSpec
from netc.data.transform_fields import check_transform_fields
from netc.proto import netc_pb2 as pb

__all__ = ["FEEDS", "Origin", "Source", "TopSpec", "open_source"]

# By layer type: the module of this package, imported when such a layer opens its source, and its class.
FEEDS = {
    "Data": ("database_source", "DatabaseFeed"),
    "AnnotatedData": ("annotated_source", "AnnotatedFeed"),
    "ImageData": ("image_data_source", "ImageListFeed"),
    "HDF5Data": ("hdf5_source", "Hdf5Feed"),
    "ImageSegData": ("segmentation_source", "SegmentationFeed"),
    "WindowData": ("window_source", "WindowFeed"),
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
    module, name = FEEDS[spec.type]
    make_feed = getattr(import_module(f"netc.data.{module}"), name)
    feed: Feed = make_feed(spec, phase, seed, origin, rank=rank, ranks=ranks)
    prefetch = spec.data_param.prefetch if spec.type in ("Data", "AnnotatedData") else DEFAULT_PREFETCH
    return PrefetchedSource(feed, prefetch=prefetch, workers=1 if spec.type in ONE_THREAD else workers)
