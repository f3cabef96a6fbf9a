"""The pickle interpreter: what torch writes is understood, what is hostile does nothing and costs nothing."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trt_vqgan.export import pickle_machine
from trt_vqgan.export.pickle_machine import DamagedFileError, GlobalName, Opaque, interpret


def plain(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return nested values of the kinds that need no class."""
    numbers = st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False)
    return st.recursive(
        numbers | leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(leaves | st.integers(), inner, max_size=4)
            | st.tuples(inner, inner)
        ),
        max_leaves=20,
    )


class Reduced:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@settings(max_examples=100, deadline=None)
@given(value=plain(st.text() | st.binary()), protocol=st.integers(3, 5))
def test_plain_values_come_back(value: object, protocol: int) -> None:
    assert interpret(pickle.dumps(value, protocol))[0] == value


# Old protocols store bytes as a call, which isn't made, and protocol 0 escapes text in lines, which is left as it is.
@settings(max_examples=50, deadline=None)
@given(value=plain(st.text("ab c'\"")), protocol=st.integers(0, 2))
def test_plain_values_of_old_protocols_come_back(value: object, protocol: int) -> None:
    assert interpret(pickle.dumps(value, protocol))[0] == value


def test_end_offset_and_start() -> None:
    first, second = pickle.dumps([1], 2), pickle.dumps("two", 2)
    value, end = interpret(first + second)
    assert (value, end) == ([1], len(first))
    assert interpret(first + second, start=end) == ("two", len(first + second))


@pytest.mark.parametrize("protocol", range(6))
def test_functions_are_not_called(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "ran"
    for value in (
        Reduced(os.system, f"touch {target}"),
        Reduced(eval, f"open({str(target)!r}, 'w')"),
        [Reduced(subprocess.call, ["touch", str(target)])],
        {"state_dict": Reduced(exec, f"open({str(target)!r}, 'w')")},
    ):
        result, _ = interpret(pickle.dumps(value, protocol))
        inner = result[0] if isinstance(result, list) else result
        inner = inner["state_dict"] if isinstance(inner, dict) else inner
        assert isinstance(inner, Opaque)
    assert not target.exists()
    # The fault that this guards against: the standard unpickler does run it.
    pickle.loads(pickle.dumps(Reduced(os.system, f"touch {target}"), protocol))
    assert target.exists()


def test_modules_are_not_imported() -> None:
    assert interpret(b"cantigravity\nfly\n.")[0] == GlobalName("antigravity", "fly")
    assert interpret(b"(iantigravity\nfly\n.")[0].__class__ is Opaque
    assert interpret(pickle.dumps(None, 4)[:2] + b"\x8c\x0bantigravity\x8c\x03fly\x93)\x81}b.")[0].__class__ is Opaque
    assert "antigravity" not in sys.modules


def test_rebuilders_and_persistent_ids() -> None:
    name = GlobalName("torch", "Size")
    data = b"\x80\x02ctorch\nSize\n(K\x01K\x02t\x85R."
    assert interpret(data, rebuilders={name: lambda arguments: arguments[0]})[0] == (1, 2)
    assert isinstance(interpret(data)[0], Opaque)
    assert interpret(b"K\x07Q.", persistent=lambda identity: ("id", identity))[0] == ("id", 7)


def test_ordered_dicts() -> None:
    value = collections.OrderedDict(a=1, b=[2])
    for protocol in range(2, 6):
        assert interpret(pickle.dumps(value, protocol))[0] == {"a": 1, "b": [2]}
    python2 = b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01ee\x85R."
    assert interpret(python2)[0] == {"a": 1}


def test_opaque_is_inert() -> None:
    value = Opaque()
    assert isinstance(value(1, two=2), Opaque)
    assert {value: 1}[value] == 1


def nested(depth: int, opcode: bytes) -> bytes:
    """A pickle of a value wrapped ``depth`` times."""
    return b"\x80\x02" + b"(" * depth + b"K\x01" + opcode * depth + b"."


TAIL_OF_CLAIMS = struct.pack("<Q", 10_000_000_000)

HOSTILE: dict[str, bytes] = {
    "tuples 1e6 deep": b"\x80\x02K\x01" + b"\x85" * 1_000_000 + b".",
    "tuples 1e6 deep as a key": b"\x80\x02}K\x01" + b"\x85" * 1_000_000 + b"K\x02s.",
    "lists 5e5 deep": nested(500_000, b"l"),
    "dicts 3e5 deep": b"\x80\x02" + b"}K\x01" * 300_000 + b"K\x02" + b"s" * 300_000 + b".",
    "a list inside itself": b"\x80\x02]q\x00h\x00a.",
    "a dict inside itself": b"\x80\x02}q\x00K\x01h\x00s.",
    "10 GB of bytes": b"\x80\x04\x8e" + TAIL_OF_CLAIMS + b"abc.",
    "10 GB of text": b"\x80\x04\x8d" + TAIL_OF_CLAIMS + b"abc.",
    "10 GB of bytearray": b"\x80\x05\x96" + TAIL_OF_CLAIMS + b"abc.",
    "10 GB frame": b"\x80\x04\x95" + TAIL_OF_CLAIMS + b"N.",
    "4 GB of bytes": b"B\xff\xff\xff\xffabc.",
    "4 GB integer": b"\x8b\xff\xff\xff\x7fabc.",
    "negative integer length": b"\x8b\xff\xff\xff\xffabc.",
    "memo entry 2**32 - 1": b"Nr\xff\xff\xff\xff.",
    "memo entry in text": b"Np999999999999999999999\n.",
    "integer of 1e6 digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "long of 1e4 digits": b"L" + b"9" * 10_000 + b"L\n.",
    "two million lists": b"]" * 2_000_000,
    "doubling lists": b"]q\x00" + b"(h\x00h\x00lq\x00" * 300_000 + b".",
    "copies of a long list": b"](" + b"(K\x01K\x02l" * 100_000 + b"eq\x00"
    + b"0ccollections\nOrderedDict\nh\x00\x85R" * 3000 + b".",
    "endless opcodes": b"N0" * 3_000_000,
}  # fmt: skip


def test_hostile_pickles_cost_little() -> None:
    """In a process of its own: its peak is nobody else's, and a crash would be seen here."""
    program = """
import contextlib, resource
from pathlib import Path
from tests.export.test_pickle_machine import HOSTILE, DamagedFileError, interpret
def peak():
    status = Path('/proc/self/status')
    if not status.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith('VmHWM'))
before = peak()
for name, data in HOSTILE.items():
    with contextlib.suppress(DamagedFileError):
        interpret(data)
    print(name, peak() - before, sep='\\t', flush=True)
"""
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root)
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert [name for name, _ in lines] == list(HOSTILE), result.stderr
    # The limit on opcodes bounds it: two million empty lists on the stack, 64 + 8 bytes each.
    assert max(int(grown) for _, grown in lines) < 400e6, lines


@pytest.mark.parametrize(
    "name",
    [name for name in HOSTILE if "GB" in name and "frame" not in name] + ["endless opcodes", "integer of 1e6 digits"],
)
def test_hostile_claims_are_errors(name: str) -> None:
    with pytest.raises(DamagedFileError):
        interpret(HOSTILE[name])


def test_the_limits_are_what_stops_them(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"N0" * 50 + b"N."
    assert interpret(data)[0] is None
    monkeypatch.setattr(pickle_machine, "MAX_OPCODES", 50)
    with pytest.raises(DamagedFileError, match="more than 50 steps"):
        interpret(data)
    monkeypatch.undo()
    monkeypatch.setattr(pickle_machine, "MAX_PICKLE_BYTES", 50)
    with pytest.raises(DamagedFileError, match="STOP"):
        interpret(data)


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b".", b"0.", b"(.", b"a.", b"K", b"h\x05.", b"\xfe.", b"\x93.", b"NN\x93.", b"}(K\x01u."]
)
def test_broken_pickles(data: bytes) -> None:
    with pytest.raises(DamagedFileError):
        interpret(data)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200))
@example(b"\x80\x02(1.")
@example(b"((1e.")
@example(b"I\n")
@example(b"L12x\n")
def test_any_bytes_give_a_value_or_one_error(data: bytes) -> None:
    with contextlib.suppress(DamagedFileError):
        interpret(data)


@settings(max_examples=300, deadline=None)
@given(
    opcodes=st.lists(
        st.sampled_from([b"(", b"0", b"1", b"2", b"N", b"K\x01", b"}", b"]", b")", b"t", b"l", b"d", b"a", b"e", b"s",
                         b"u", b"q\x00", b"h\x00", b"R", b"b", b"o", b"\x81", b"\x85", b"\x86", b"\x87", b"\x8f",
                         b"\x90", b"\x91", b"\x92", b"\x93", b"\x94", b"Q", b"ccollections\nOrderedDict\n", b"U\x01a"]),
        max_size=40,
    )
)  # fmt: skip
def test_any_order_of_opcodes_gives_a_value_or_one_error(opcodes: list[bytes]) -> None:
    with contextlib.suppress(DamagedFileError):
        interpret(b"".join(opcodes) + b".")
