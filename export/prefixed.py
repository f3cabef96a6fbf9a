"""The weights of one part of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Prefixed(Mapping[str, Any]):
    """Weights whose keys begin with a prefix, under their keys without it."""

    def __init__(self, weights: Mapping[str, Any], prefix: str) -> None:
        self._weights, self._prefix = weights, prefix

    def __getitem__(self, key: str) -> Any:
        return self._weights[self._prefix + key]

    def __iter__(self) -> Iterator[str]:
        return (key.removeprefix(self._prefix) for key in self._weights if key.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)
