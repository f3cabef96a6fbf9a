"""Protocol buffers' text format, as far as a model's configuration needs it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

INDENT = "  "


class Word(str):
    """A value of an enumeration, which stands without quotes."""

    __slots__ = ()


def to_text(message: Mapping[str, object]) -> str:
    """Return a message as text: str quoted, `Word` bare, sequences as one entry an element, mappings as messages.

    Raises
    ------
    TypeError : a value of another type.
    """
    return "".join(line + "\n" for line in _lines(message))


def _lines(message: Mapping[str, object]) -> list[str]:
    lines: list[str] = []
    for name, value in message.items():
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for one in values:
            if isinstance(one, Mapping):
                lines += [f"{name} {{", *(INDENT + line for line in _lines(one)), "}"]
            else:
                lines.append(f"{name}: {_scalar(name, one)}")
    return lines


def _scalar(name: str, value: object) -> str:
    if isinstance(value, Word):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value)  # whose escapes the text format has too, for ASCII
    raise TypeError(f"{name}: found {type(value).__name__}, wanted a string, number, truth value, sequence or mapping")
