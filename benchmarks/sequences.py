"""Random conditions and codes that a model could have been given."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trt_vqgan.spec import ModelSpec

Int64Array = npt.NDArray[np.int64]


def random_conditions(spec: ModelSpec, batch: int) -> Int64Array:
    """Return condition tokens int64 (B, L) that the model could have been given."""
    condition, transformer = spec.condition, spec.transformer
    assert condition is not None
    assert transformer is not None
    rng = np.random.default_rng(1)
    shape = (batch, condition.num_tokens)
    if condition.kind == "unconditional":
        return np.full(shape, condition.sos_token, dtype=np.int64)
    if condition.kind == "class":
        limit = condition.num_classes
    elif condition.autoencoder is not None:
        limit = condition.autoencoder.codebook_size
    elif condition.shares_first_stage:
        limit = spec.autoencoder.codebook_size
    else:
        limit = transformer.vocab_size
    return rng.integers(0, limit, shape)


def random_sequence(spec: ModelSpec, batch: int) -> Int64Array:
    """Return tokens int64 (B, L + h·w - 1): a condition and all codes but the last, which is fed to no one."""
    conditions = random_conditions(spec, batch)
    codes = np.random.default_rng(0).integers(0, spec.autoencoder.codebook_size, (batch, spec.num_codes - 1))
    return np.concatenate([conditions, codes], axis=1)
