"""Layers whose tops come from a data source: a database, files, or arrays that the caller hands over."""

from __future__ import annotations

from typing import ClassVar

from netc.data import Source, open_source
from netc.layer.base import Arity, SourceLayer
from netc.layer.registry import register


class _Opened(SourceLayer):
    """Opens the source that its message describes."""

    tops: ClassVar[Arity] = Arity(1, 2)

    def open(self) -> Source:
        """The source; raises NetcError where the data cannot be read or does not fit the layer."""
        return open_source(self.spec, self.phase, seed=self.seed, locate=self.locate)


@register
class Data(_Opened):
    """Images (and labels, where it has a second top) of Datums in an LMDB or a LevelDB."""

    type = "Data"
    options_field = "data_param"


@register
class AnnotatedData(_Opened):
    """Images and the boxes in them, of AnnotatedDatums in an LMDB or a LevelDB.

    The label top holds a row for every box of the batch, (1, 1, boxes, 8): image, class, instance, xmin,
    ymin, xmax, ymax (shares of the image), difficult; a row of -1 where there is no box. (Liu et al., "SSD",
    2016)
    """

    type = "AnnotatedData"
    options_field = "annotated_data_param"
    other_options = ("data_param", "transform_param")


@register
class ImageData(_Opened):
    """Images and labels of a list of files."""

    type = "ImageData"
    options_field = "image_data_param"


@register
class WindowData(_Opened):
    """Windows of images and their classes, drawn around objects and beside them."""

    type = "WindowData"
    options_field = "window_data_param"
    tops = Arity(2)


@register
class MemoryData(_Opened):
    """Items and labels of arrays that the caller hands over: `net.set_input_arrays(data, labels)`."""

    type = "MemoryData"
    options_field = "memory_data_param"
    tops = Arity(2)


@register
class ImageSegData(_Opened):
    """Images of a list, a label for every pixel (N, 1, H, W), and the images' heights and widths
    (N, 1, 1, 2).

    (Chen et al., "DeepLab", 2015; Zhao et al., "PSPNet", 2017)
    """

    type = "ImageSegData"
    options_field = "image_data_param"
    tops = Arity(1, 3)


@register
class HDF5Data(_Opened):
    """Rows of the datasets that are named as its tops."""

    type = "HDF5Data"
    options_field = "hdf5_data_param"
    tops = Arity(1, None)
