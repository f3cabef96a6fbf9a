"""A model so small that every benchmark of it takes a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trt_vqgan.benchmarks.context import Context
from trt_vqgan.benchmarks.random_models import RandomWeights
from trt_vqgan.benchmarks.read_bandwidth import ReadBandwidth
from trt_vqgan.benchmarks.subjects import RandomSubject
from trt_vqgan.benchmarks.torch_baseline import TorchReference
from trt_vqgan.spec import AutoencoderSpec, ConditionSpec, ModelSpec, TransformerSpec

ARRAY_BYTES = 1 << 16

TINY = ModelSpec(
    autoencoder=AutoencoderSpec(
        quantizer="nearest",
        in_channels=3,
        out_channels=3,
        base_channels=32,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(8,),
        resolution=16,
        z_channels=32,
        code_dim=8,
        codebook_size=48,
    ),
    transformer=TransformerSpec(vocab_size=48, max_seq_len=70, num_layers=2, num_heads=2, hidden_size=64),
    condition=ConditionSpec(kind="class", num_tokens=1, num_classes=5),
)
"""64 codes a picture, 63 steps."""

VQGAN_ONLY = ModelSpec(autoencoder=TINY.autoencoder)


@contextmanager
def tiny_subject(spec: ModelSpec = TINY, *, name: str = "tiny") -> Iterator[RandomSubject]:
    """A subject of random weights in both precisions, closed afterwards."""
    subject = RandomSubject(spec, name=name, precisions=("fp32", "int8"))
    try:
        yield subject
    finally:
        subject.close()


@contextmanager
def tiny_context(
    spec: ModelSpec = TINY, *, seed: int | None = 0, own_weights: bool = True, repeats: int = 2
) -> Iterator[Context]:
    """A context on one thread with torch's modules; ``seed`` 0 has the subject's weights, None leaves torch out."""
    reference = None
    if seed is not None:
        reference = TorchReference(spec, RandomWeights(spec, seed=seed), own_weights=own_weights, threads=1)
    with ReadBandwidth(threads=1, array_bytes=ARRAY_BYTES) as bandwidth:
        yield Context(
            batches=(1, 3),
            threads=1,
            repeats=repeats,
            bandwidth=bandwidth,
            say=lambda line: None,
            reference=reference,
        )
