"""How many registers a thread of each kernel may take, on every architecture, and why."""

from __future__ import annotations

DEFAULT = 64  # 1024 threads of a multiprocessor's 65536 registers

_LIMITS = {
    # Sums of 16 outputs x 64 rows a warp, and its weights in flight; two blocks of 256 threads fit.
    "dense_rows": 128,
    # Sums of 64 x 32 and 32 x 32 a warp; two blocks of 256 threads fit with up to 128.
    "conv2d_128x128": 128,
    "conv2d_64x64": 104,
    # Sums of 16 queries x 64 and 128 channels a warp; shared memory allows two blocks of 128 threads, and one or two.
    "picture_attention_256": 88,
    "picture_attention_512": 136,
    # A warp's 64 x 64 sums are 128 registers; two blocks of 128 threads fit with up to 255.
    "nearest_code_tiles": 224,
    # Sums of head_size x 16 a warp, and more queries a warp in _64; blocks of 128 threads, three and two of which fit.
    "cached_attention_prefix": 168,
    "cached_attention_tokens_16": 168,
    "cached_attention_tokens_64": 224,
}


def limit_of(kernel: str) -> int:
    """Return the limit of the longest entry that ``kernel`` begins with."""
    fitting = [prefix for prefix in _LIMITS if kernel.startswith(prefix)]
    return _LIMITS[max(fitting, key=len)] if fitting else DEFAULT
