"""Whether the snapshots that a solver is to take can hold its net."""

from __future__ import annotations

from netc.proto import netc_pb2 as pb
from netc.runtime import Net
from netc.schema.state import check_state_size
from netc.schema.weights import check_binary_size, check_hdf5_names


def takes_snapshots(definition: pb.SolverParameter) -> bool:
    """Whether a solver takes any by itself."""
    return definition.snapshot > 0 or bool(definition.snapshot_after_train)


def check_fits_snapshot(definition: pb.SolverParameter, net: Net, histories: int) -> None:
    """Raises NetcError where the files of a snapshot cannot hold a net, rather than when one is taken.

    histories: arrays as large as all parameters that the solver keeps.
    """
    if definition.snapshot_format == pb.SolverParameter.HDF5:
        check_hdf5_names(net.params)
        return
    shapes = {name: [blob.shape for blob in blobs] for name, blobs in net.params.items()}
    check_binary_size(net.definition, shapes, definition.snapshot_diff)
    check_state_size([segment.shape for segment in net.parameters.segments] * histories)
