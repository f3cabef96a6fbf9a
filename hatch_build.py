"""Puts the CPU kernels into wheels: compiled where the wheel is built, if there is a C++ compiler.

Such a wheel is for one system and processor family (the instruction set is still chosen when it runs). Without a
compiler, or with HATCH_BUILD_NO_HOOKS=true, the wheel is pure and the kernels are compiled on first use.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags


class NativeLibraryHook(BuildHookInterface):
    """Adds the library to a wheel; an editable install compiles on first use, since its sources change."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the library and say where it goes in the wheel, and for which system that then is."""
        self._folder = Path(tempfile.mkdtemp(prefix="trt-vqgan-"))
        if self.target_name != "wheel" or version == "editable":
            return
        sys.path.insert(0, self.root)
        try:
            from trt_vqgan.errors import BackendUnavailableError
            from trt_vqgan.runtime.native.build import compile_library
        finally:
            sys.path.remove(self.root)
        try:
            library = compile_library(self._folder, say=self.app.display_info)
        except BackendUnavailableError as error:
            self.app.display_warning(f"a wheel without compiled CPU kernels, which are compiled on first use ({error})")
            return
        build_data["force_include"][str(library)] = f"trt_vqgan/runtime/native/{library.name}"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _platform() -> str:
    """Return this system's tag; not one of manylinux, which promises that it runs on older systems."""
    return next(tag.platform for tag in sys_tags() if "manylinux" not in tag.platform)
