"""Layers whose tops come from a data source: Data, ImageData and HDF5Data."""

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
class ImageData(_Opened):
    """Images and labels of a list of files."""

    type = "ImageData"
    options_field = "image_data_param"


@register
class HDF5Data(_Opened):
    """Rows of the datasets that are named as its tops."""

    type = "HDF5Data"
    options_field = "hdf5_data_param"
    tops = Arity(1, None)
