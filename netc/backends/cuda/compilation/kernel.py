"""What a kernel is to the backend: a row of a table that says how it is compiled and launched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from netc.kernels_folder import kernels_folder

LEAST_ARCHITECTURE = 75  # sm_75, the oldest that netc compiles for


@dataclass(frozen=True)
class Variant:
    """One way to compile and launch a kernel.

    name: what dumps and reports call it; file: its source, in the kernels folder unless it is a whole path;
    expression: the kernel's name in C++ with its template arguments; threads: of a block, the most that
    `__launch_bounds__` allows; shared_bytes: of dynamic shared memory; defines: shape constants, as "NAME=1";
    architecture: the least compute capability whose instructions it needs, as 80 for sm_80; specific: it
    needs what only this one has, as sm_90a's.
    """

    name: str
    file: str
    expression: str
    threads: int
    shared_bytes: int = 0
    defines: tuple[str, ...] = ()
    architecture: int = LEAST_ARCHITECTURE
    specific: bool = False

    def runs_on(self, architecture: int) -> bool:
        """Whether a device of this compute capability has its instructions."""
        return architecture == self.architecture if self.specific else architecture >= self.architecture

    def target(self, architecture: int) -> str:
        """The compiler's name of the architecture to compile for, as "90" or "90a"."""
        return f"{architecture}a" if self.specific else str(architecture)

    @property
    def path(self) -> Path:
        return kernels_folder() / self.file  # an absolute path stays as it is


@dataclass(eq=False)
class Kernel:
    """A variant compiled for a device: what `Device.launch` takes.

    `handle` is the device's own, None while the kernel is being compiled.
    """

    variant: Variant
    handle: object = None

    @property
    def name(self) -> str:
        return self.variant.name
