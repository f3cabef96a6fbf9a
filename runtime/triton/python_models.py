"""The models of a repository that run in Triton's Python backend; each ``model.py`` there names one of these.

Triton makes an instance, calls `initialize` once, and `execute` with a list of requests. Its own module,
``triton_python_backend_utils``, exists only inside its processes.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import ConditionError, ShapeError, TrtVqganError
from trt_vqgan.kernels.reference.nearest_code import nearest_code
from trt_vqgan.runtime.pipeline import Pipeline, load
from trt_vqgan.runtime.triton.configs import ANY, BUNDLE_FOLDER, CODEBOOK_NAME, GENERATE_INPUTS

BACKEND_UTILS = "triton_python_backend_utils"


class _Model:
    """What both models share: Triton's module, and one answer a request."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model; ``args`` are Triton's: its configuration as JSON, and where it lies."""
        self.triton: Any = importlib.import_module(BACKEND_UTILS)
        self.folder = Path(args["model_repository"]) / args["model_version"]
        self.open(json.loads(args["model_config"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return a response a request; one that is wrong doesn't keep the others from theirs."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        try:
            outputs = self.answer(request)
        except (ShapeError, ConditionError) as error:
            return self._refused(str(error), self.triton.TritonError.INVALID_ARG)
        except TrtVqganError as error:
            return self._refused(str(error), self.triton.TritonError.INTERNAL)
        tensors = [self.triton.Tensor(name, array) for name, array in outputs.items()]
        return self.triton.InferenceResponse(output_tensors=tensors)

    def _refused(self, message: str, code: Any) -> Any:
        return self.triton.InferenceResponse(output_tensors=[], error=self.triton.TritonError(message, code))

    def given(self, request: Any, name: str) -> npt.NDArray[Any] | None:
        """Return an input of a request, None where it has none of this name."""
        tensor = self.triton.get_input_tensor_by_name(request, name)
        return None if tensor is None else np.asarray(tensor.as_numpy())

    def open(self, config: dict[str, Any]) -> None:
        raise NotImplementedError

    def answer(self, request: Any) -> dict[str, npt.NDArray[Any]]:
        raise NotImplementedError


class GenerateModel(_Model):
    """Pictures and their codes: `Pipeline.generate`, whose arguments are the inputs."""

    def open(self, config: dict[str, Any]) -> None:
        """Open the bundle beside ``model.py``."""
        threads = config.get("parameters", {}).get("threads", {}).get("string_value")
        self.pipeline: Pipeline = load(self.folder / BUNDLE_FOLDER, threads=None if threads is None else int(threads))

    def answer(self, request: Any) -> dict[str, npt.NDArray[Any]]:
        """Return ``images`` uint8 (n, H, W, C) and ``codes`` int64 (n, h, w)."""
        arguments: Any = {}
        for name in GENERATE_INPUTS:
            if (array := self.given(request, name)) is not None:
                arguments[name] = _argument(name, array)
        made = self.pipeline.generate(**arguments)
        return {"images": made.images, "codes": made.codes}

    def finalize(self) -> None:
        """Close the bundle."""
        self.pipeline.close()


class CodesModel(_Model):
    """Codes int64 (B, h, w) of what an encoder puts out: the nearest row of the codebook, or the largest logit."""

    def open(self, config: dict[str, Any]) -> None:
        """Read the codebook beside ``model.py``."""
        (self.input,) = [given["name"] for given in config["input"]]
        (dims,) = [[int(side) for side in given["dims"]] for given in config["input"]]
        self.codebook: npt.NDArray[np.float32] = np.load(self.folder / CODEBOOK_NAME)
        # a graph puts channels first and takes every size; an engine puts them last and has one
        self.channels_last = ANY not in dims

    def answer(self, request: Any) -> dict[str, npt.NDArray[Any]]:
        """Return ``codes``."""
        encoded = self.given(request, self.input)
        if encoded is None:
            raise ShapeError(f"{self.input}: wanted what the encoder puts out")
        if self.input == "logits":
            return {"codes": encoded.argmax(axis=1)}
        rows = np.ascontiguousarray(encoded if self.channels_last else encoded.transpose(0, 2, 3, 1), dtype=np.float32)
        grids = [nearest_code(grid.reshape(-1, grid.shape[-1]), self.codebook).reshape(grid.shape[:2]) for grid in rows]
        return {"codes": np.stack(grids)}


def _argument(name: str, array: npt.NDArray[Any]) -> Any:
    """Return an argument of `Pipeline.generate` of a request's array."""
    if name == "class_id":
        return [_class(value) for value in array.reshape(-1)]
    if name == "layout":
        return [_layout(value) for value in array.reshape(-1)]
    if GENERATE_INPUTS[name][1] != (1,) and name != "size":
        return array
    if name == "size":
        return (int(array[0]), int(array[1]))
    if array.size != 1:
        raise ShapeError(f"{name}: found {array.size} values, wanted one")
    return array.reshape(-1)[0].item()


def _class(value: Any) -> int | str:
    """Return a class's id or name; Triton's strings are bytes."""
    text = value.decode("utf-8") if isinstance(value, bytes) else str(value)
    return int(text) if text.lstrip("-").isdigit() else text


def _layout(value: Any) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise ConditionError(f"layout: can't be read as JSON ({error})") from None
