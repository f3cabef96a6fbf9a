"""Typed reading of one mapping of a published config, with messages that name the key by its full path."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from trt_vqgan.errors import CheckpointError

_REQUIRED: Any = object()


class Params:
    """One mapping of a config; every key must be read or named as ignored before `finish`."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise CheckpointError(f"config: {where} is {_shown(data)}, wanted a mapping")
        self.where = where
        self._data = data
        self._seen: set[object] = set()

    def raw(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return a value as it is; without a default its absence is an error."""
        self._seen.add(name)
        if name in self._data:
            return self._data[name]
        if default is _REQUIRED:
            raise CheckpointError(f"config: {self.where}.{name} is missing; is this YAML the checkpoint's own?")
        return default

    def integer(self, name: str, default: Any = _REQUIRED, *, most: int = 1 << 31) -> int:
        """Return a whole number of at most ``most``."""
        value = self.raw(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or abs(value) > most:
            raise self.wrong(name, f"a whole number of at most {most}")
        return value

    def integers(self, name: str, default: Any = _REQUIRED) -> tuple[int, ...]:
        """Return a list of whole numbers; at most 16 of at most 2**31, which no model exceeds."""
        value = self.raw(name, default)
        if not isinstance(value, (list, tuple)) or not all(
            isinstance(item, int) and not isinstance(item, bool) and abs(item) <= 1 << 31 for item in value
        ):
            raise self.wrong(name, "a list of whole numbers")
        if len(value) > 16:
            raise self.wrong(name, "a list of at most 16 numbers")
        return tuple(value)

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        """Return a number; text such as ``1e-1``, which YAML 1.1 takes for text, counts as one."""
        value = self.raw(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise self.wrong(name, "a number")
        try:
            return float(value)
        except (ValueError, OverflowError) as error:
            raise self.wrong(name, "a number") from error

    def flag(self, name: str, default: Any = _REQUIRED) -> bool:
        """Return true or false."""
        value = self.raw(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def text(self, name: str, default: Any = _REQUIRED) -> str:
        """Return text."""
        value = self.raw(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "text")
        return value

    def section(self, name: str, default: Any = _REQUIRED) -> Params:
        """Return a nested mapping."""
        return Params(self.raw(name, default), f"{self.where}.{name}")

    def wrong(self, name: str, wanted: str) -> CheckpointError:
        """Return the error for a value of the wrong kind."""
        return CheckpointError(f"config: {self.where}.{name} is {_shown(self._data.get(name))}, wanted {wanted}")

    def finish(self, *, ignored: Collection[str] = ()) -> None:
        """Raise CheckpointError for a key that was neither read nor is in ``ignored``."""
        for name in self._data:
            if name not in self._seen and name not in ignored:
                raise CheckpointError(
                    f"config: {self.where}.{name} is no parameter that this package knows; wanted some of "
                    f"{', '.join(sorted(map(str, {*self._seen, *ignored})))}"
                )


def _shown(value: object) -> str:
    """Return a value for a message: plain values as they are, others by their type, so that nothing long is printed."""
    if value is None or isinstance(value, (bool, int, float, str)):
        if isinstance(value, int) and value.bit_length() > 128:
            return "a number of more than 128 bits"  # Python refuses to print the longest ones
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:60]}…"
    return f"a {type(value).__name__}"
