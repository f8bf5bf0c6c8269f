"""Build steps that pyproject.toml cannot state: compile the schema, carry the kernels into the package."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SCHEMA = ROOT / "proto" / "netc.proto"
KERNELS = ROOT / "kernels"
KERNEL_SUFFIXES = {".cu", ".cuh"}


class BuildPackage(build_py):
    """`build_py`, with `netc_pb2.py` generated and the kernel sources copied in.

    An editable install generates into the source tree and reads the kernels where they lie.
    """

    def run(self) -> None:
        if self.editable_mode:
            compile_schema(ROOT / "netc" / "proto")
            super().run()
            return
        package = Path(self.build_lib) / "netc"
        # An earlier build may have left modules here that have since been removed from the source.
        shutil.rmtree(package, ignore_errors=True)
        super().run()
        compile_schema(package / "proto")
        copy_kernels(package / "kernels")


def compile_schema(folder: Path) -> None:
    """Writes `netc_pb2.py`, made from proto/netc.proto, into `folder`."""
    from grpc_tools import protoc

    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["protoc", f"--proto_path={SCHEMA.parent}", f"--python_out={folder}", str(SCHEMA)]
    if protoc.main(arguments) != 0:
        raise SystemExit(f"{SCHEMA} does not compile: protoc's message is above")


def copy_kernels(folder: Path) -> None:
    """Copies the CUDA sources of kernels/ into `folder`, sub-folders and all."""
    for source in sorted(KERNELS.rglob("*")):
        if source.suffix in KERNEL_SUFFIXES:
            target = folder / source.relative_to(KERNELS)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


setup(cmdclass={"build_py": BuildPackage})
