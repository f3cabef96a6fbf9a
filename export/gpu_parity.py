"""Compares a bundle's graphs for GPUs with the checkpoint, on the CPU, with every FP16 result really rounded.

ONNX Runtime's CPU provider computes FP16 nodes in float32 and hides what FP16 can't hold, so the graphs are run through
`half_rounding`. A GPU sums in another order, and may round less often; engines and kernels are not run here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from trt_vqgan.errors import BundleError
from trt_vqgan.export.half_rounding import rounded
from trt_vqgan.export.parity_rows import ParityRow, Tolerance, compare
from trt_vqgan.kernels.reference.cached_attention import cached_attention
from trt_vqgan.kernels.reference.nearest_code import nearest_code
from trt_vqgan.manifest import GpuGraphs
from trt_vqgan.spec import AutoencoderSpec, TransformerSpec

FloatArray = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
Arrays = dict[str, npt.NDArray[Any]]

TOLERANCES = {
    "fp16": {
        # measured on the golden checkpoints and the trained landscape model, at worst: latents 1e-2 of the largest and
        # 98.8 % of codes, pixels 59.4 dB, logits 2.3e-3 of the largest and 99.2 % of greedy next codes
        "latents": Tolerance(max_rel=0.05, codes=0.95),
        "pixels": Tolerance(psnr_db=45.0),
        "logits": Tolerance(max_rel=0.02, codes=0.9),
    },
    "fp32": {
        "latents": Tolerance(max_rel=1e-3, codes=1.0),
        "pixels": Tolerance(max_abs=1e-3, psnr_db=45.0),
        "logits": Tolerance(max_abs=1e-3, codes=1.0),
    },
}


class GpuParity:
    """The graphs of one bundle, each opened when it is compared and closed again.

    Parameters
    ----------
    folder : of the bundle, whose files are checked.
    graphs : those for GPUs, by its manifest.
    """

    def __init__(self, folder: Path, graphs: GpuGraphs) -> None:
        self._folder, self._gpu = folder, graphs
        self._tolerances = TOLERANCES[graphs.precision]
        self._half = np.dtype(np.float16 if graphs.precision == "fp16" else np.float32)

    def encoder(
        self, name: str, spec: AutoencoderSpec, picture: FloatArray, latents: FloatArray, codes: Int64Array,
        codebook: FloatArray,
    ) -> ParityRow:  # fmt: skip
        """Return the row of graph ``name``.

        Parameters
        ----------
        picture : float32 (1, C, H, W).
        latents : float32 (1, D, h, w) that it should give; Gumbel's logits, of which only codes are compared.
        codes : int64 (1, h, w) that it should give.
        codebook : float32 (N, D).
        """
        (found,) = self._run(name, {"image": picture})
        tolerance, what = self._tolerances["latents"], f"gpu {name} {spec.modality}"
        if spec.quantizer == "gumbel":
            share, asked = float((found == codes).mean()), tolerance.codes
            return ParityRow(
                output=f"{what} codes",
                max_abs=None,
                max_rel=None,
                codes_equal=share == 1.0,
                codes_share=share,
                ok=asked is None or share >= asked,
            )
        chosen = np.full(codes.size, -1)
        rows = np.ascontiguousarray(found.reshape(-1, spec.code_dim))
        finite = np.isfinite(rows).all(axis=1)  # the search refuses others
        chosen[finite] = nearest_code(rows[finite], codebook)
        wanted = np.ascontiguousarray(latents.transpose(0, 2, 3, 1))
        return compare(f"{what} latents", found, wanted, tolerance, (chosen.reshape(codes.shape), codes))

    def decoder(self, codes: Int64Array, pixels: FloatArray, codebook: FloatArray) -> list[ParityRow]:
        """Return the rows of the decoder: ``pixels`` float32 (B, C, H, W) is what it should make of (B, h, w).

        The first picture is the sample's, the others are codes as extreme as the codebook has them.
        """
        latents = codebook[codes].astype(self._half).astype(np.float32)
        found = np.concatenate([self._run("decoder", {"latents": each[None]})[0] for each in latents])
        tolerance = self._tolerances["pixels"]
        parts = (("gpu decoder pixels", slice(0, 1)), ("gpu decoder, extreme codes", slice(1, None)))
        return [compare(name, found[part], pixels[part], tolerance) for name, part in parts]

    def transformer(
        self, spec: TransformerSpec, tokens: Int64Array, logits: FloatArray, tables: tuple[FloatArray, FloatArray]
    ) -> ParityRow:
        """Return the row of the segments, with attention by its definition between them.

        Parameters
        ----------
        tokens : int64 (1, T).
        logits : float32 (1, T, V) that they should give.
        tables : embeddings of tokens float32 (V, d) and positions (P, d).
        """
        batch, length = tokens.shape
        embedded, places = (table.astype(self._half).astype(np.float32) for table in tables)
        x = embedded[tokens] + places[:length]
        (qkv,) = self._run(self._gpu.segments[0], {"x": x})
        heads = (batch, length, 3, spec.num_heads, spec.head_size)
        for name in self._gpu.segments[1:]:
            keys, values = (np.empty((batch, spec.num_heads, length, spec.head_size), self._half) for _ in range(2))
            attended = np.empty((batch, length, spec.hidden_size), self._half)
            split = qkv.astype(self._half).reshape(heads)
            start = np.zeros(batch, np.int32)
            cached_attention(split, keys, values, start, attended, num_unmasked=spec.num_unmasked)
            made = self._run(name, {"x": x, "attended": attended.astype(np.float32)})
            if name != self._gpu.segments[-1]:
                x, qkv = made
        (found,) = made
        tolerance = self._tolerances["logits"]
        return compare("gpu transformer logits", found, logits, tolerance, (found.argmax(2), logits.argmax(2)))

    def _run(self, graph: str, feeds: Arrays) -> list[Any]:
        """Return the outputs of a graph on float32 inputs that hold what it reads."""
        path = self._folder / self._gpu.graphs[graph]
        try:
            model = onnx.load(str(path))
            options = ort.SessionOptions()
            options.log_severity_level = 3
            session = ort.InferenceSession(
                rounded(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            outputs: list[Any] = session.run(None, feeds)
        except Exception as error:  # ONNX Runtime and protobuf raise families of their own, derived from Exception
            raise BundleError(
                f"{path}: can't be run on the CPU: {str(error).splitlines()[0]}; export the bundle again"
            ) from error
        return outputs
