"""Modules that need an optional package: imported when used, with an error that names the extra."""

from __future__ import annotations

import importlib
import types

from trt_vqgan.errors import MissingDependencyError

PACKAGES_OF_EXTRAS = {
    "export": ("torch", "onnx", "yaml", "safetensors"),
    "serve": ("fastapi", "uvicorn", "pydantic", "starlette", "python_multipart", "prometheus_client"),
    "plots": ("matplotlib",),
    "peers": ("ctranslate2", "gguf", "llama_cpp", "nncf", "onnxruntime_genai", "openvino"),
    "ray": ("ray",),
}


def import_module(name: str) -> types.ModuleType:
    """Return the module ``name`` of this package.

    Raises
    ------
    MissingDependencyError : it needs a package of an extra that isn't installed; the message has the command.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        for extra, packages in PACKAGES_OF_EXTRAS.items():
            if missing in packages:
                raise MissingDependencyError(
                    f"{name} needs the package {missing!r}, which is not installed; "
                    f"`pip install 'trt-vqgan[{extra}]'` installs it"
                ) from error
        raise
