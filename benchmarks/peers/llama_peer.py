"""llama.cpp, through llama-cpp-python: a GPT-2 model of the same weights in a GGUF file.

Its GPT-2 has the tanh form of GELU and keeps the cache in float16, so that codes may differ from ours.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.benchmarks.peers.drawing import SteppingDrawer
from trt_vqgan.benchmarks.peers.job import Job
from trt_vqgan.benchmarks.peers.weights import fused_qkv
from trt_vqgan.extras import import_module
from trt_vqgan.spec import TransformerSpec

Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]

FILE_TYPES = {"f32": None, "q8_0": 7, "q4_0": 2}
"""llama.cpp's numbers of the types that it quantises a file to."""

NO_REPACK = " no-repack"
"""Precisions of this end keep the file's layout. By default llama.cpp lays quantised matrices out anew for the
processor, for AMX too, whose products of q8_0 crash in steps of three rows (0.3.36)."""


class LlamaSteps:
    """Decode steps, a sequence a row."""

    def __init__(self, job: Job) -> None:
        package = self._package = _package()
        self._vocabulary, self._most, self._threads = job.transformer.vocab_size, job.batch, job.threads
        self._positions = job.transformer.max_seq_len
        loading = package.llama_model_default_params()
        loading.use_extra_bufts = not job.precision.endswith(NO_REPACK)
        path = _model(job)
        self._model = package.llama_model_load_from_file(str(path).encode(), loading)
        if not self._model:
            raise RuntimeError(f"llama.cpp can't load {path}")
        self._context: Any = None
        self._batch: Any = package.llama_batch_init(job.batch, 0, 1)

    def start(self, prefix: Int64Array) -> None:
        """Begin with an empty cache for as many rows as ``prefix`` (B, 0) has."""
        package, rows = self._package, len(prefix)
        if self._context:
            package.llama_free(self._context)
        settings = package.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_seq_max = self._positions * rows, self._most, rows
        settings.n_threads = settings.n_threads_batch = self._threads
        self._context = package.llama_init_from_model(self._model, settings)

    def step(self, tokens: Int64Array, position: int) -> FloatArray:
        """Append ``tokens`` int64 (B,) at ``position`` and return logits float32 (B, V)."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for row, token in enumerate(tokens):
            batch.token[row], batch.pos[row] = int(token), position
            batch.n_seq_id[row], batch.seq_id[row][0], batch.logits[row] = 1, row, 1
        if self._package.llama_decode(self._context, batch):
            raise RuntimeError(f"llama.cpp can't run a step of {len(tokens)} rows at position {position}")
        found = self._package.llama_get_logits(self._context)
        return np.ctypeslib.as_array(found, (len(tokens), self._vocabulary))


def prepare(job: Job) -> None:
    """Write the model as GGUF, in float32 and then quantised."""
    path = _model(job)
    kind = FILE_TYPES[_file_type(job)]
    if kind is None:
        _write(job.transformer, job.weights, path)
        return
    package = _package()
    whole = job.folder / "whole.gguf"
    _write(job.transformer, job.weights, whole)
    settings = package.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = kind, job.threads
    if package.llama_model_quantize(str(whole).encode(), str(path).encode(), ctypes.byref(settings)):
        raise RuntimeError(f"llama.cpp can't quantise {whole} to {_file_type(job)}")


def open_drawer(job: Job) -> SteppingDrawer:
    """Return the steps of the loaded model."""
    return SteppingDrawer(f"llama-cpp-python {_package().__version__}", LlamaSteps(job))


def _model(job: Job) -> Path:
    return job.folder / "model.gguf"


def _file_type(job: Job) -> str:
    return job.precision.removesuffix(NO_REPACK)


@functools.cache
def _package() -> Any:
    package: Any = import_module("llama_cpp")
    package.llama_log_set(_silent(package), ctypes.c_void_p(0))
    package.llama_backend_init()
    return package


@functools.cache
def _silent(package: Any) -> Any:
    """Return a log function that must stay alive; without it each tensor is printed."""
    return package.llama_log_callback(lambda level, text, data: None)


def _write(spec: TransformerSpec, weights: Mapping[str, Any], path: Path) -> None:
    gguf = import_module("gguf")
    writer = gguf.GGUFWriter(str(path), "gpt2")
    writer.add_context_length(spec.max_seq_len)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_feed_forward_length(4 * spec.hidden_size)
    writer.add_block_count(spec.num_layers)
    writer.add_head_count(spec.num_heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(spec.vocab_size)

    def add(name: str, array: Any) -> None:
        writer.add_tensor(name, np.ascontiguousarray(array, dtype=np.float32))

    def pair(name: str, key: str) -> None:
        add(f"{name}.weight", weights[f"transformer.{key}.weight"])
        add(f"{name}.bias", weights[f"transformer.{key}.bias"])

    add("token_embd.weight", weights["transformer.tok_emb.weight"])
    add("position_embd.weight", weights["transformer.pos_emb"].reshape(spec.max_seq_len, spec.hidden_size))
    for i in range(spec.num_layers):
        for name, key in (
            ("attn_norm", "ln1"),
            ("attn_output", "attn.proj"),
            ("ffn_norm", "ln2"),
            ("ffn_up", "mlp.0"),
            ("ffn_down", "mlp.2"),
        ):
            pair(f"blk.{i}.{name}", f"blocks.{i}.{key}")
        matrix, bias = fused_qkv(weights, i)
        add(f"blk.{i}.attn_qkv.weight", matrix)
        add(f"blk.{i}.attn_qkv.bias", bias)
    pair("output_norm", "ln_f")
    add("output.weight", weights["transformer.head.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
