"""The shapes that engines are built for: which batches and sizes, and which of them are to be fastest."""

from __future__ import annotations

from trt_vqgan.engine_records import Profile, ShapeRange
from trt_vqgan.spec import AutoencoderSpec, ModelSpec, TransformerSpec

DECODE_ROWS = 64
"""Most rows of a decode step; the largest batch bucket of the runtime."""

PREFILL_ROWS = 8
PREFILL_TOKENS = 256
PICTURES = 8
"""Pictures of the training size at once; larger ones go one by one."""

LARGEST_SIDE = 64
"""Side of the largest grid of codes that is encoded or decoded whole: 1024 pixels at 16 a code."""


def engine_profiles(spec: ModelSpec, graph: str) -> tuple[Profile, ...]:
    """Return the profiles of a GPU graph ("encoder", "decoder", "condition_encoder" or a segment), by their index.

    Segments have one profile for decode steps (T = 1) and one for prefill. Encoders and decoders have one for pictures
    of the training size, whose shape is fixed but for the batch, and one for single pictures of any size.
    """
    if graph in ("encoder", "decoder"):
        return _pictures(spec.autoencoder, graph)
    if graph == "condition_encoder":
        assert spec.condition is not None
        assert spec.condition.autoencoder is not None
        return _pictures(spec.condition.autoencoder, graph)
    assert spec.transformer is not None
    return segment_profiles(spec.transformer, has_attended=not graph.endswith("_00"))


def segment_profiles(spec: TransformerSpec, *, has_attended: bool) -> tuple[Profile, ...]:
    """Return the profiles of a segment: for decode steps and for prefill; all but the first have ``attended``."""
    width, longest = spec.hidden_size, spec.max_seq_len
    names = ("x", "attended") if has_attended else ("x",)
    one = (1, 1, width)
    decode = ShapeRange(minimum=one, optimum=(8, 1, width), maximum=(DECODE_ROWS, 1, width))
    prefill = ShapeRange(
        minimum=one, optimum=(1, min(longest, PREFILL_TOKENS), width), maximum=(PREFILL_ROWS, longest, width)
    )
    return (
        Profile(purpose="decode", shapes=dict.fromkeys(names, decode)),
        Profile(purpose="prefill", shapes=dict.fromkeys(names, prefill)),
    )


def _pictures(spec: AutoencoderSpec, graph: str) -> tuple[Profile, ...]:
    def shape(batch: int, side: int) -> tuple[int, ...]:
        """Of the graph's input, for a grid of ``side`` codes."""
        pixels = side * spec.factor
        return (batch, side, side, spec.code_dim) if graph == "decoder" else (batch, spec.in_channels, pixels, pixels)

    name = "latents" if graph == "decoder" else "image"
    usual, largest = spec.latent_size, max(LARGEST_SIDE, spec.latent_size)
    training = ShapeRange(minimum=shape(1, usual), optimum=shape(1, usual), maximum=shape(PICTURES, usual))
    single = ShapeRange(minimum=shape(1, 1), optimum=shape(1, min(2 * usual, largest)), maximum=shape(1, largest))
    return (
        Profile(purpose="training size", shapes={name: training}),
        Profile(purpose="any size", shapes={name: single}),
    )
