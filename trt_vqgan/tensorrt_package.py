"""Which TensorRT is installed: ``tensorrt`` (10.13 or newer) or ``tensorrt_rtx``, which have the same names inside.

Full TensorRT builds for the GPU that it runs on and needs one. TensorRT-RTX builds ahead of time, without a GPU, one
engine for several targets, but for no data-centre Hopper or Blackwell.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from trt_vqgan.errors import BackendUnavailableError

FULL, RTX = "tensorrt", "tensorrt_rtx"
PACKAGES = (FULL, RTX)
TITLES = {FULL: "TensorRT", RTX: "TensorRT-RTX"}
OLDEST = {FULL: (10, 13), RTX: (1, 2)}
INSTALL = (
    "`pip install 'trt-vqgan[tensorrt-rtx]'` installs TensorRT-RTX (for sm80, sm86, sm89 and sm120); for other GPUs "
    "install `tensorrt` from its vendor's index"
)


@dataclass(frozen=True, kw_only=True)
class TensorRT:
    """An installed TensorRT.

    Attributes
    ----------
    module : the imported package.
    package : "tensorrt" or "tensorrt_rtx".
    version : of the package; an engine runs in the version that built it.
    """

    module: Any = field(repr=False, compare=False)
    package: str
    version: str

    @property
    def title(self) -> str:
        """Name and version for a person."""
        return f"{TITLES[self.package]} {self.version}"


def find_tensorrt(package: str | None = None) -> TensorRT:
    """Return the TensorRT that is installed: ``package``, or the first of `PACKAGES` that imports.

    Raises
    ------
    BackendUnavailableError : it isn't installed, doesn't import, or is too old; says which, for each that was tried.
    """
    reasons = []
    for name in PACKAGES if package is None else (package,):
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == name
            reasons.append(f"{name} is not installed" if missing else f"{name} can't be imported ({error})")
            continue
        version = str(module.__version__)
        if _numbers(version) < OLDEST[name]:
            oldest = ".".join(map(str, OLDEST[name]))
            reasons.append(f"{name} is version {version}, wanted at least {oldest}")
            continue
        return TensorRT(module=module, package=name, version=version)
    raise BackendUnavailableError(f"{', and '.join(reasons)}; {INSTALL}")


class TensorRTLog:
    """TensorRT's own log lines, collected; give ``logger`` to its objects."""

    def __init__(self, module: Any) -> None:
        self.problems: list[str] = []
        self.details: list[str] = []
        severity = module.ILogger.Severity
        serious = (severity.INTERNAL_ERROR, severity.ERROR)

        class Collector(module.ILogger):  # type: ignore[misc]
            """Called by TensorRT, from its own threads too."""

            def __init__(inner) -> None:
                module.ILogger.__init__(inner)

            def log(inner, level: Any, message: str) -> None:
                (self.problems if level in serious else self.details).append(message)

        self.logger = Collector()

    def told(self) -> str:
        """Return the errors among the lines as one sentence, the first reason first."""
        if not self.problems:
            return "TensorRT gives no reason"
        lines = list(dict.fromkeys(" ".join(line.split()) for line in self.problems))
        return f"TensorRT says: {' | '.join(lines)}"


def _numbers(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version; (0, 0) for one that has none."""
    parts = version.split(".")[:2]
    return tuple(int(part) for part in parts) if all(part.isdigit() for part in parts) else (0, 0)
