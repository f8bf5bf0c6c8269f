"""A blob as its user sees it, under the name that a net's users know it by."""

from netc.layer.blob import Blob

__all__ = ["Blob"]
