"""Triton's side of a Python model: what `triton_python_backend_utils` offers, and how a ``model.py`` is run."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class Tensor:
    """A named array, as Triton's: strings are arrays of bytes objects."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        assert isinstance(array, np.ndarray)
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class TritonError:
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG = range(4)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
        return self._code


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        self._tensors, self._error = output_tensors, error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors


@dataclasses.dataclass
class InferenceRequest:
    tensors: list[Tensor]

    def inputs(self) -> list[Tensor]:
        return self.tensors


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return next((tensor for tensor in request.inputs() if tensor.name() == name), None)


def backend_utils() -> types.ModuleType:
    module = types.ModuleType("triton_python_backend_utils")
    for each in (Tensor, TritonError, InferenceResponse, get_input_tensor_by_name):
        setattr(module, each.__name__, each)
    return module


def open_model(folder: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the initialized model of a folder of a repository, as Triton makes it from ``1/model.py``."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend_utils())
    spec = importlib.util.spec_from_file_location("model", folder / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({"model_config": json.dumps(config), "model_repository": str(folder), "model_version": "1",
                      "model_instance_kind": "CPU", "model_name": folder.name})  # fmt: skip
    return model


def request(**inputs: np.ndarray) -> InferenceRequest:
    return InferenceRequest([Tensor(name, array) for name, array in inputs.items()])
