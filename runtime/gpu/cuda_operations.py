"""Our CUDA kernels as the driver's operations."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import BackendUnavailableError
from trt_vqgan.kernels.launches.cached_attention import (
    HEAD_SIZES,
    AttentionPlan,
    PrefixAddresses,
    cached_attention,
    plan_attention,
)
from trt_vqgan.kernels.launches.embed_tokens import embed_tokens
from trt_vqgan.kernels.launches.sample_codes import MAX_VOCABULARY, DecodeStateAddresses, sample_codes
from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import Device, upload_new, zeros
from trt_vqgan.runtime.gpu.activations import Activations
from trt_vqgan.runtime.gpu.operations import AttentionWorkspace, PrefixArrays
from trt_vqgan.runtime.gpu.state import DeviceState
from trt_vqgan.spec import TransformerSpec

DETERMINISTIC_CHUNK = 128
"""Positions that a block of attention takes where they may not follow from the batch: between what few and many rows
ask for."""


def check_kernels_fit(spec: TransformerSpec) -> None:
    """Raise BackendUnavailableError where a model's sizes are none that the kernels are made for."""
    found = None
    if spec.head_size not in HEAD_SIZES:
        found = f"heads of {spec.head_size}, wanted a multiple of 8 from {HEAD_SIZES[0]} to {HEAD_SIZES[-1]}"
    elif spec.vocab_size > MAX_VOCABULARY:
        found = f"a vocabulary of {spec.vocab_size}, wanted at most {MAX_VOCABULARY}"
    if found is not None:
        raise BackendUnavailableError(f"CUDA kernels: this model has {found}")


@dataclasses.dataclass(frozen=True)
class KernelWorkspace:
    """What attention over one shape needs: how it is cut into blocks, partial sums, and tickets that stay zero."""

    plan: AttentionPlan
    partials: DeviceArray
    tickets: DeviceArray

    def free(self) -> None:
        """Give the memory back."""
        self.partials.memory.free()
        self.tickets.memory.free()


class CudaOperations:
    """The driver's operations as kernel launches.

    Parameters
    ----------
    device : with the kernels loaded.
    spec : the transformer's sizes.
    token_embedding, position_embedding : float16 (V, d) and (P, d).
    deterministic : attention is cut into chunks of one length, so that a row has the same bits in every batch and
        cache.

    Raises
    ------
    BackendUnavailableError : as `check_kernels_fit`.
    """

    def __init__(
        self,
        device: Device,
        spec: TransformerSpec,
        token_embedding: npt.NDArray[Any],
        position_embedding: npt.NDArray[Any],
        *,
        deterministic: bool = False,
    ) -> None:
        check_kernels_fit(spec)
        self._device, self._spec = device, spec
        self._chunk = DETERMINISTIC_CHUNK if deterministic else None
        self._tokens = upload_new(device, token_embedding.astype(np.float16, copy=False))
        self._positions = upload_new(device, position_embedding.astype(np.float16, copy=False))

    def attention_workspace(
        self, *, batch: int, tokens: int, capacity: int, prefix_length: int = 0, prefix_sets: int = 0
    ) -> KernelWorkspace:
        """Return a plan of the blocks and the memory that they need."""
        plan = plan_attention(
            batch=batch,
            tokens=tokens,
            heads=self._spec.num_heads,
            head_size=self._spec.head_size,
            capacity=capacity,
            prefix_length=prefix_length,
            prefix_sets=prefix_sets,
            chunk=self._chunk,
        )
        partials = self._device.allocate((plan.partial_floats,), np.float32)
        return KernelWorkspace(plan, partials, zeros(self._device, (plan.tickets,), np.int32))

    def embed_tokens(self, tokens: DeviceArray, positions: DeviceArray, x: DeviceArray) -> None:
        """Launch the embedding."""
        self._device.launch(
            embed_tokens(
                tokens=int(tokens.pointer),
                positions=int(positions.pointer),
                token_embedding=int(self._tokens.pointer),
                position_embedding=int(self._positions.pointer),
                out=int(x.pointer),
                rows=tokens.size,
                hidden_size=self._spec.hidden_size,
                tables=self._tokens.dtype,
            )
        )

    def cached_attention(
        self,
        work: Activations,
        keys: DeviceArray,
        values: DeviceArray,
        lengths: DeviceArray,
        workspace: AttentionWorkspace,
        *,
        num_unmasked: int = 0,
        prefix: PrefixArrays | None = None,
    ) -> None:
        """Launch attention."""
        assert isinstance(workspace, KernelWorkspace)
        addresses = None
        if prefix is not None:
            addresses = PrefixAddresses(
                keys=int(prefix.keys.pointer), values=int(prefix.values.pointer), members=int(prefix.members.pointer)
            )
        for launch in cached_attention(
            dataclasses.replace(workspace.plan, num_unmasked=num_unmasked),
            qkv=int(work.qkv.pointer),
            key_cache=int(keys.pointer),
            value_cache=int(values.pointer),
            lengths=int(lengths.pointer),
            out=int(work.attended.pointer),
            partials=int(workspace.partials.pointer),
            tickets=int(workspace.tickets.pointer),
            prefix=addresses,
        ):
            self._device.launch(launch)

    def sample_codes(self, logits: DeviceArray, state: DeviceState, x: DeviceArray) -> None:
        """Launch the end of a step."""
        self._device.launch(
            sample_codes(
                DecodeStateAddresses(
                    **{field.name: int(getattr(state, field.name).pointer) for field in dataclasses.fields(state)}
                ),
                logits=int(logits.pointer),
                x=int(x.pointer),
                token_embedding=int(self._tokens.pointer),
                position_embedding=int(self._positions.pointer),
                batch=state.batch,
                num_codes=state.codes.shape[1],
                vocabulary=logits.shape[1],
                hidden_size=self._spec.hidden_size,
                num_positions=self._spec.max_seq_len,
                guided=state.guided,
                tables=self._tokens.dtype,
            )
        )

    def close(self) -> None:
        """Give the embeddings back."""
        self._tokens.memory.free()
        self._positions.memory.free()
