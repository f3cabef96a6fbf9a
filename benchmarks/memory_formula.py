"""How much memory generating may take, from the sizes of the model alone."""

from __future__ import annotations

import dataclasses

from trt_vqgan.runtime.kv_cache import KVCache
from trt_vqgan.runtime.memory import FLOAT_BYTES, LIVE_SCORES, largest_activation
from trt_vqgan.spec import AutoencoderSpec, ModelSpec

LIVE_ACTIVATIONS = 8
"""Activations of the largest level that a decoder holds at once; `export/autoencoder_graph.py` measured 3.8 to 7.2."""

OVERHEAD_BYTES = 300 * 10**6
"""Interpreter, NumPy, ONNX Runtime, graphs, the step's own activations, and the allocator's slack."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryBudget:
    """Parts of what generating may take, in bytes.

    Attributes
    ----------
    bundle_bytes : all files of the bundle.
    cache_bytes : 8 x layers x batch x width x positions, positions rounded up to 64.
    activation_bytes : of decoding one picture, whatever the batch.
    """

    bundle_bytes: int
    cache_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        """The parts, and 300 MB."""
        return self.bundle_bytes + self.cache_bytes + self.activation_bytes + OVERHEAD_BYTES


def memory_budget(spec: ModelSpec, *, bundle_bytes: int, batch: int) -> MemoryBudget:
    """Return what generating ``batch`` pictures at once may take."""
    transformer, condition = spec.transformer, spec.condition
    assert transformer is not None
    assert condition is not None
    positions = condition.num_tokens + spec.num_codes - 1
    return MemoryBudget(
        bundle_bytes=bundle_bytes,
        cache_bytes=KVCache.bytes_needed(transformer, batch=batch, capacity=positions),
        activation_bytes=decoder_activation_bytes(spec.autoencoder),
    )


def decoder_activation_bytes(spec: AutoencoderSpec) -> int:
    """Return the bytes that decoding one picture of the training size may hold beside the weights.

    8 x 4 x the largest level, plus 3 x 4 x (h w)^2. Tighter than `trt_vqgan.runtime.memory.decode_bytes`, whose bound
    was taken at larger sizes on busy processors.
    """
    largest = largest_activation(spec, spec.latent_size, spec.latent_size)
    return FLOAT_BYTES * (LIVE_ACTIVATIONS * largest + LIVE_SCORES * spec.latent_size**4)
