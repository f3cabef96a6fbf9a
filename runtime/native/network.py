"""One network of a VQGAN on the CPU through kernels/cpu, with the weights of its ONNX file."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from trt_vqgan.errors import BackendUnavailableError, BundleError
from trt_vqgan.runtime.native.build import built_library
from trt_vqgan.runtime.native.graph_weights import GraphWeights
from trt_vqgan.runtime.native.network_library import KINDS, MODES, ConvSizes, NetworkStep, open_network_library
from trt_vqgan.runtime.native.network_program import Step

Precision = Literal["fp32", "bf16"]
FloatArray = npt.NDArray[np.float32]

GROUPS = 32


class Network:
    """Encoder or decoder of one picture at a time.

    A result's bits depend on the picture, the precision and, for bf16, the instruction set; not on the number of
    threads. fp32 has the same bits with AVX-512 and AVX2. Safe to call from several threads: runs take turns.

    Parameters
    ----------
    steps : what is computed.
    weights : of the layers that the steps name.
    threads : threads that work on a run, the caller's included.
    precision : "fp32"; or "bf16" for the convolutions' inputs and weights, which leaves sums, norms, attention and what
        is added up from block to block in float32.
    library : the shared library; by default the one of this machine, compiled if need be.
    instructions : "avx512", "avx2" or "plain", with bf16 "amx"; by default the best that there is.

    Raises
    ------
    BackendUnavailableError : the library can't be built or loaded here, or the processor lacks the instructions.
    BundleError : the file doesn't hold the weights of such a network.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        weights: GraphWeights,
        *,
        threads: int,
        precision: Precision = "fp32",
        library: Path | None = None,
        instructions: str = "",
    ) -> None:
        self._library = open_network_library(built_library() if library is None else library)
        network = self._library.network_open(threads, precision == "bf16", instructions.encode())
        if not network:
            raise BackendUnavailableError(
                f"native backend: this processor has no {instructions or precision} instructions for convolutions, or "
                f"{threads} threads are not to be had; choose fp32, or use --backend onnxruntime"
            )
        self._network = ctypes.c_void_p(network)
        self.close = weakref.finalize(self, self._library.network_close, self._network)
        convs = list(dict.fromkeys(step.conv for step in steps if step.conv))
        norms = list(dict.fromkeys(step.norm for step in steps if step.norm))
        self._modes = {step.conv: step.mode for step in steps}
        for name in convs:
            self._add_conv(weights, name)
        self._inputs = weights.shape(f"{convs[0]}.weight")[1]
        self._outputs = weights.shape(f"{convs[-1]}.weight")[0]
        self._add_norms(weights, norms)
        for number, step in enumerate(steps):
            self._add_step(number, step, convs, norms)
        self._doublings = sum(step.mode == "double" or step.kind == "repeat" for step in steps)
        self._halvings = sum(step.mode == "halve" or step.kind == "shrink" for step in steps)

    @property
    def instructions(self) -> str:
        """The instruction set of the convolutions, such as "AVX-512" or "AMX bf16"."""
        name: bytes = self._library.network_instructions(self._network)
        return name.decode()

    def run_bytes(self, height: int, width: int) -> int:
        """Return the bytes that a run over height x width pixels or codes takes beside the weights."""
        return int(self._library.network_run_bytes(self._network, self._inputs, height, width))

    def run(self, maps: FloatArray) -> FloatArray:
        """Return the network's output float32 (C', H', W') for ``maps`` float32 (C, H, W)."""
        channels, height, width = maps.shape
        assert channels == self._inputs
        assert height % 2**self._halvings == width % 2**self._halvings == 0
        maps = np.ascontiguousarray(maps, dtype=np.float32)
        scale = self._doublings - self._halvings
        sides = [side << scale if scale > 0 else side >> -scale for side in (height, width)]
        out = np.empty((self._outputs, *sides), dtype=np.float32)
        if not self._library.network_run(self._network, maps.ctypes.data, channels, height, width, out.ctypes.data):
            raise MemoryError(f"native backend: no memory for a picture of {width}x{height} (in front of the network)")
        return out

    def _add_conv(self, weights: GraphWeights, name: str) -> None:
        shape = weights.shape(f"{name}.weight")
        if len(shape) != 4 or shape[2] != shape[3] or shape[2] not in (1, 3):
            raise BundleError(
                f"{weights.path}: convolution {name!r} is missing or of shape {shape}, wanted (outputs, inputs, 1, 1) "
                "or (outputs, inputs, 3, 3); export the bundle again"
            )
        kernel = weights.floats(f"{name}.weight", shape)
        bias = weights.floats(f"{name}.bias", shape[:1])
        sizes = ConvSizes(shape[0], shape[1], shape[2], MODES[self._modes[name]])
        if not self._library.network_add_conv(self._network, ctypes.byref(sizes), kernel.ctypes.data, bias.ctypes.data):
            raise MemoryError("native backend: no memory for the weights")

    def _add_norms(self, weights: GraphWeights, names: list[str]) -> None:
        # export writes a norm's weight and bias as constants, the same one for equal ones, whose names say nothing:
        # they are the first inputs of the only divisions, and of the subtractions that begin with a constant
        scales, shifts = ([n for n in weights.first_inputs(op) if n in weights] for op in ("Div", "Sub"))
        if not len(scales) == len(shifts) == len(names):
            raise BundleError(
                f"{weights.path}: found {len(scales)} scales and {len(shifts)} shifts of norms, wanted {len(names)}; "
                "export the bundle again"
            )
        for scale, shift in zip(scales, shifts, strict=True):
            members = (weights.shape(scale) or (0,))[-1]
            arrays = [weights.floats(name, (1, GROUPS, members)) for name in (scale, shift)]
            if not self._library.network_add_norm(
                self._network, GROUPS * members, *(array.ctypes.data for array in arrays)
            ):
                raise MemoryError("native backend: no memory for the weights")

    def _add_step(self, number: int, step: Step, convs: list[str], norms: list[str]) -> None:
        fields = NetworkStep(
            KINDS[step.kind],
            step.read,
            number + 1,
            convs.index(step.conv) if step.conv else -1,
            norms.index(step.norm) if step.norm else -1,
            step.swish,
            -1 if step.add is None else step.add,
            step.key,
            step.value,
        )
        if not self._library.network_add_step(self._network, ctypes.byref(fields)):
            raise MemoryError("native backend: no memory for the steps")
