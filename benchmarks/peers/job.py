"""What a runtime's process is told to do, as one line of JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trt_vqgan.extras import import_module
from trt_vqgan.spec import ModelSpec, TransformerSpec, from_dict, to_dict


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One model in one runtime.

    Attributes
    ----------
    module : of the runtime; it has ``prepare(job)``, which writes files into ``folder``, and ``open_drawer(job)``,
        which reads them and returns a `drawing.Drawer`.
    spec : the model, whose weights are those of `trt_vqgan.benchmarks.random_models.RandomWeights`.
    precision : as the runtime names it.
    folder : the runtime's own.
    threads : that it may use.
    batch : most rows at once.
    never : a code that torch doesn't draw, for runtimes that ask for an end token.
    what : "pictures", whose codes are drawn, or "prefill".
    """

    module: str
    spec: ModelSpec
    precision: str
    folder: Path
    threads: int
    batch: int
    never: int
    what: str = "pictures"

    @property
    def transformer(self) -> TransformerSpec:
        """The transformer's sizes."""
        assert self.spec.transformer is not None
        return self.spec.transformer

    @property
    def weights(self) -> Mapping[str, Any]:
        """The weights, by canonical key."""
        random_models: Any = import_module("trt_vqgan.benchmarks.random_models")  # which imports torch
        weights: Mapping[str, Any] = random_models.RandomWeights(self.spec)
        return weights

    def write_transformer(self) -> None:
        """Write the graph of an export into the folder, as ``transformer.onnx``."""
        random_models: Any = import_module("trt_vqgan.benchmarks.random_models")
        random_models.write_transformer(self.folder, self.spec, self.weights, precision=self.precision)

    def to_json(self) -> str:
        """Return the job as one line."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps(fields | {"spec": to_dict(self.spec), "folder": str(self.folder)})


def job_from_json(line: str) -> Job:
    """Return the job of a line that `Job.to_json` made."""
    fields: dict[str, Any] = json.loads(line)
    return Job(**fields | {"spec": from_dict(ModelSpec, fields["spec"]), "folder": Path(fields["folder"])})
