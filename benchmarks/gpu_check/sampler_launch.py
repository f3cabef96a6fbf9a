"""The sampler on buffers that let it draw without end, so that every launch does the same work."""

from __future__ import annotations

import dataclasses

import numpy as np

from trt_vqgan.kernels.launch import Launch
from trt_vqgan.kernels.launches.sample_codes import DecodeStateAddresses, sample_codes
from trt_vqgan.kernels.reference.decode_state import FREE, SAMPLING_ROW
from trt_vqgan.kernels.reference.sample_codes import exponent_rate
from trt_vqgan.runtime.device.interface import Device, upload_new
from trt_vqgan.runtime.gpu.state import DeviceState, allocate_state

DRAWS = 1 << 14
WIDTH = 1024
POSITIONS = DRAWS + 1


class SamplerBuffers:
    """State, logits, embeddings and next inputs of ``batch`` pictures; at most `DRAWS` launches.

    Parameters
    ----------
    device : where they lie.
    batch, vocabulary : B and V.
    """

    def __init__(self, device: Device, *, batch: int, vocabulary: int) -> None:
        rng = np.random.default_rng(0)
        self._vocabulary = vocabulary
        self._state: DeviceState = allocate_state(device, batch=batch, guided=False, num_codes=DRAWS)
        sampling = np.zeros(batch, SAMPLING_ROW)
        sampling["rate"], sampling["top_k"], sampling["top_p"] = exponent_rate(1.0), 100, 1
        sampling["codebook_size"] = vocabulary
        for array, values in (
            (self._state.lengths, np.zeros(batch, np.int32)),
            (self._state.columns, np.zeros(batch, np.int32)),
            (self._state.ends, np.full(batch, DRAWS, np.int32)),
            (self._state.codes, np.full((batch, DRAWS), FREE, np.int32)),
            (self._state.forced, np.full((batch, DRAWS), FREE, np.int32)),
            (self._state.code_positions, np.arange(DRAWS, dtype=np.uint32)),
            (self._state.pictures, np.arange(batch, dtype=np.uint32)),
            (self._state.sampling, sampling),
        ):
            device.upload(array, values)
        self._logits = upload_new(device, rng.standard_normal((batch, vocabulary)).astype(np.float32))
        self._x = device.allocate((batch, WIDTH), np.float32)
        self._tokens = upload_new(device, np.zeros((vocabulary, WIDTH), np.float16))
        self._positions = upload_new(device, np.zeros((POSITIONS, WIDTH), np.float16))

    def launch(self) -> Launch:
        """Return the launch that draws the next code of every picture."""
        state = self._state
        addresses = {field.name: int(getattr(state, field.name).pointer) for field in dataclasses.fields(state)}
        return sample_codes(
            DecodeStateAddresses(**addresses),
            logits=int(self._logits.pointer),
            x=int(self._x.pointer),
            token_embedding=int(self._tokens.pointer),
            position_embedding=int(self._positions.pointer),
            batch=state.batch,
            num_codes=DRAWS,
            vocabulary=self._vocabulary,
            hidden_size=WIDTH,
            num_positions=POSITIONS,
            tables=np.dtype(np.float16),
        )
