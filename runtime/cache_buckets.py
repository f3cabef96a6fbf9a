"""The sizes that key-value caches come in, whatever holds them."""

from __future__ import annotations

BUCKET = 64
"""Positions by which the visible part of a cache grows.

A run reads the whole visible part, masked positions included, so a small step saves work; softmax sums in chunks of 64
floats, so that a whole number of chunks gives the same bits however many masked ones follow.
"""


def bucket_length(positions: int) -> int:
    """Return ``positions`` rounded up to a whole number of buckets."""
    return -(-positions // BUCKET) * BUCKET
