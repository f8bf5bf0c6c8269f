"""A device's kernels: compiled when they are first asked for, those asked for together at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from netc.backends.cuda.compilation.kernel import Kernel, Variant
from netc.cores import cores_allowed
from netc.errors import NetcError


class Loader:
    """Every kernel of one device once.

    build: compiles a variant to a file, in any thread; open_kernel: what the device makes of that file, in
    the thread that asks. Both raise NetcError.
    """

    def __init__(
        self, build: Callable[[Variant], Path], open_kernel: Callable[[Variant, Path], object]
    ) -> None:
        self._build, self._open = build, open_kernel
        self._kernels: dict[Variant, Kernel] = {}
        self._builds: dict[Variant, Future[Path]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def has(self, variant: Variant) -> bool:
        """Whether a kernel is there, or on its way."""
        return variant in self._kernels

    def load(self, variant: Variant) -> Kernel:
        """A kernel; within `together` one that is still being compiled."""
        kernel = self._kernels.get(variant)
        if kernel is None:
            kernel = Kernel(variant)
            if self._pool is None:
                self.finish(kernel)
            else:
                self._builds[variant] = self._pool.submit(self._build, variant)
            self._kernels[variant] = kernel
        return kernel

    def finish(self, kernel: Kernel) -> None:
        """Makes a kernel ready to be launched."""
        build = self._builds.pop(kernel.variant, None)
        path = build.result() if build else self._build(kernel.variant)
        kernel.handle = self._open(kernel.variant, path)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Kernels that are asked for in this context are compiled at the same time; at its end all are ready.

        Raises the NetcError of the first that does not compile, then.
        """
        if self._pool is not None:
            yield
            self._finish_all()
            return
        with ThreadPoolExecutor(cores_allowed(), "compile") as self._pool:
            try:
                yield
                self._finish_all()
            finally:
                self._pool = None
                for variant in self._builds:  # after an error
                    del self._kernels[variant]
                self._builds.clear()

    def _finish_all(self) -> None:
        failed: NetcError | None = None
        for variant in list(self._builds):
            try:
                self.finish(self._kernels[variant])
            except NetcError as error:
                failed = failed or error
                del self._kernels[variant]
        if failed:
            raise failed
