"""An interpreter of the pickle language that can't run, import or call anything from the file.

Python's own unpickler is no base for reading untrusted files even with ``find_class`` overridden: a memo index of
2**29 in a file of twenty bytes makes it clear gigabytes, and a deeply nested tuple used as a dictionary key overflows
the C stack while it is hashed. Here each opcode is one small method, nothing recurses, sizes are checked against what
the file still holds before anything is allocated, and the number of opcodes is bounded. Classes and functions become
`GlobalName`, whatever would be made by calling them becomes `Opaque`, unless the caller gives a rebuilder for that
name.

The opcodes are those that ``pickletools`` documents, protocols 0 to 5.
"""

from __future__ import annotations

import dataclasses
import mmap
import struct
from collections.abc import Callable, Mapping

MAX_OPCODES = 2_000_000  # the largest published run, optimizer state included, needs about 200,000
MAX_PICKLE_BYTES = 64 << 20
_MAX_INTEGER_BYTES = 32
_MAX_LINE_BYTES = 1 << 16
_MAX_KEY_PARTS = 8

Rebuilder = Callable[[tuple[object, ...]], object]


class DamagedFileError(ValueError):
    """A file doesn't follow its format; the message says how, the caller adds the file's name."""


@dataclasses.dataclass(frozen=True)
class GlobalName:
    """A class or function that a pickle names; nothing is imported."""

    module: str
    name: str


_ORDERED_DICT = GlobalName("collections", "OrderedDict")


class Opaque:
    """Stands for an object that the pickle would have made with code; it holds and does nothing."""

    __slots__ = ()

    def __call__(self, *_args: object, **_kwargs: object) -> Opaque:
        return Opaque()


def interpret(
    data: bytes | mmap.mmap,
    *,
    start: int = 0,
    rebuilders: Mapping[GlobalName, Rebuilder] | None = None,
    persistent: Callable[[object], object] | None = None,
) -> tuple[object, int]:
    """Return the object that the pickle at ``start`` describes, and the offset just after it.

    Parameters
    ----------
    rebuilders : what to make of a call of a named function, from its arguments; other calls give `Opaque`.
    persistent : what to make of a persistent id; without it, `Opaque`.

    Raises
    ------
    DamagedFileError : the bytes are no complete pickle, or one beyond the limits above.
    """
    machine = _Machine(data, start, rebuilders or {}, persistent)
    try:
        return machine.run()
    except (IndexError, struct.error, UnicodeError, OverflowError, TypeError, KeyError, MemoryError) as error:
        raise DamagedFileError(f"damaged pickle near byte {machine.pos}: {type(error).__name__}") from error


def _key(key: object) -> object:
    """Return ``key`` where hashing it is cheap and can't recurse, else a stand-in."""
    plain = (str, bytes, int, float, bool, type(None), GlobalName, Opaque)
    if isinstance(key, plain) or (
        isinstance(key, tuple) and len(key) <= _MAX_KEY_PARTS and all(isinstance(item, plain) for item in key)
    ):
        return key
    return Opaque()


class _Machine:
    """One run: the bytes, the position in them, the stack, the marks and the memo."""

    def __init__(
        self,
        data: bytes | mmap.mmap,
        start: int,
        rebuilders: Mapping[GlobalName, Rebuilder],
        persistent: Callable[[object], object] | None,
    ) -> None:
        self.data = data
        self.start = start
        self.pos = start
        self.size = min(len(data), start + MAX_PICKLE_BYTES)
        self.rebuilders = rebuilders
        self.persistent = persistent
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.budget = MAX_OPCODES

    def run(self) -> tuple[object, int]:
        while self.budget > 0:
            self.budget -= 1
            if self.pos >= self.size:
                raise DamagedFileError(f"the pickle at byte {self.start} ends without its STOP opcode")
            opcode = self.data[self.pos]
            self.pos += 1
            if opcode == 0x2E:  # STOP
                return self.pop(), self.pos
            method = _OPCODES.get(opcode)
            if method is None:
                raise DamagedFileError(f"found byte {opcode:#04x} at {self.pos - 1}, which is no pickle opcode")
            method(self)
        raise DamagedFileError(f"the pickle at byte {self.start} needs more than {MAX_OPCODES} steps")

    # Reading operands

    def take(self, count: int) -> bytes:
        if count < 0 or count > self.size - self.pos:
            raise DamagedFileError(
                f"byte {self.pos}: found a claim of {count} bytes, the pickle has {self.size - self.pos} left"
            )
        chunk = self.data[self.pos : self.pos + count]
        self.pos += count
        return chunk

    def unsigned(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        end = self.data.find(b"\n", self.pos, min(self.size, self.pos + _MAX_LINE_BYTES))
        if end < 0:
            raise DamagedFileError(f"byte {self.pos}: found no end of line")
        text = self.take(end - self.pos)
        self.pos += 1
        return text.decode("utf-8")

    def integer_line(self) -> int:
        text = self.line().removesuffix("L")
        if len(text) > 2 * _MAX_INTEGER_BYTES:
            raise DamagedFileError(f"byte {self.pos}: found an integer of {len(text)} digits")
        try:
            return int(text)
        except ValueError as error:
            raise DamagedFileError(f"byte {self.pos}: found {text[:20]!r}, wanted an integer") from error

    # The stack

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise IndexError
        return self.stack.pop()

    def pop_mark(self) -> list[object]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def pop_tuple(self, count: int) -> tuple[object, ...]:
        items = [self.pop() for _ in range(count)]
        return tuple(reversed(items))

    # Objects

    def call(self, function: object, arguments: object) -> object:
        if isinstance(function, GlobalName) and isinstance(arguments, tuple):
            if function == _ORDERED_DICT:
                return self.ordered_dict(arguments)
            rebuilder = self.rebuilders.get(function)
            if rebuilder is not None:
                return rebuilder(arguments)
        return Opaque()

    def ordered_dict(self, arguments: tuple[object, ...]) -> dict[object, object]:
        """Return a dict from no argument or, as Python 2 wrote it, from a list of pairs."""
        made: dict[object, object] = {}
        pairs = arguments[0] if arguments else ()
        if isinstance(pairs, list):
            self.budget -= len(pairs)  # one opcode can ask for a copy of a list of any length, again and again
            if self.budget > 0:
                for pair in pairs:
                    if isinstance(pair, (list, tuple)) and len(pair) == 2:
                        made[_key(pair[0])] = pair[1]
        return made

    def fill(self, target: object, pairs: list[object]) -> None:
        if len(pairs) % 2:
            raise DamagedFileError(f"byte {self.pos}: found a dictionary key without a value")
        if isinstance(target, dict):
            for i in range(0, len(pairs), 2):
                target[_key(pairs[i])] = pairs[i + 1]

    # Opcodes with more to do than one expression

    def op_mark(self) -> None:
        self.marks.append(len(self.stack))

    def op_pop(self) -> None:
        if self.marks and len(self.stack) == self.marks[-1]:
            self.marks.pop()
        else:
            self.pop()

    def op_dup(self) -> None:
        self.push(self.stack[-1])

    def op_int(self) -> None:
        text = self.data[self.pos : self.pos + 3]
        if text in (b"00\n", b"01\n"):
            self.pos += 3
            self.push(text == b"01\n")
        else:
            self.push(self.integer_line())

    def op_float(self) -> None:
        text = self.line()
        try:
            self.push(float(text))
        except ValueError as error:
            raise DamagedFileError(f"byte {self.pos}: found {text[:40]!r}, wanted a number") from error

    def op_long(self, width: int) -> None:
        count = self.unsigned(width)
        if count > _MAX_INTEGER_BYTES:
            raise DamagedFileError(f"byte {self.pos}: found an integer of {count} bytes")
        self.push(int.from_bytes(self.take(count), "little", signed=True))

    def op_string_line(self) -> None:
        self.push(self.line().strip("'\""))

    def op_global(self) -> None:
        module = self.line()
        self.push(GlobalName(module, self.line()))

    def op_stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise DamagedFileError(f"byte {self.pos}: found a class whose name is no text")
        self.push(GlobalName(module, name))

    def op_reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        self.push(self.call(function, arguments))

    def op_newobj_ex(self) -> None:
        self.pop_tuple(3)
        self.push(Opaque())

    def op_inst(self) -> None:
        self.op_global()
        self.pop()
        self.op_drop_mark()

    def op_drop_mark(self) -> None:
        self.pop_mark()
        self.push(Opaque())

    def op_extension(self, width: int) -> None:
        self.take(width)
        self.push(Opaque())

    def op_build(self) -> None:
        self.pop()  # the state of an object that isn't made; the object below stays
        self.op_dup()
        self.pop()

    def op_persistent(self, identity: object) -> None:
        self.push(Opaque() if self.persistent is None else self.persistent(identity))

    def op_append(self) -> None:
        value = self.pop()
        target = self.stack[-1]
        if isinstance(target, list):
            target.append(value)

    def op_appends(self) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)

    def op_setitem(self) -> None:
        value, key = self.pop(), self.pop()
        self.fill(self.stack[-1], [key, value])

    def op_setitems(self) -> None:
        items = self.pop_mark()
        self.fill(self.stack[-1], items)

    def op_dict(self) -> None:
        made: dict[object, object] = {}
        self.fill(made, self.pop_mark())
        self.push(made)

    def op_put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def op_get(self, index: int) -> None:
        if index not in self.memo:
            raise DamagedFileError(f"byte {self.pos}: found memo entry {index}, which was never stored")
        self.push(self.memo[index])

    def op_text(self, width: int) -> None:
        self.push(self.take(self.unsigned(width)).decode("utf-8", "surrogatepass"))

    def op_byte_text(self, width: int) -> None:
        self.push(self.take(self.unsigned(width)).decode("latin-1"))

    def op_bytes(self, width: int) -> None:
        self.push(self.take(self.unsigned(width)))


_OPCODES: dict[int, Callable[[_Machine], object]] = {
    ord("("): _Machine.op_mark,
    ord("0"): _Machine.op_pop,
    ord("1"): _Machine.pop_mark,
    ord("2"): _Machine.op_dup,
    ord("F"): _Machine.op_float,
    ord("I"): _Machine.op_int,
    ord("J"): lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
    ord("K"): lambda m: m.push(m.unsigned(1)),
    ord("L"): lambda m: m.push(m.integer_line()),
    ord("M"): lambda m: m.push(m.unsigned(2)),
    ord("N"): lambda m: m.push(None),
    ord("P"): lambda m: m.op_persistent(m.line()),
    ord("Q"): lambda m: m.op_persistent(m.pop()),
    ord("R"): _Machine.op_reduce,
    ord("S"): _Machine.op_string_line,
    ord("T"): lambda m: m.op_byte_text(4),
    ord("U"): lambda m: m.op_byte_text(1),
    ord("V"): lambda m: m.push(m.line()),
    ord("X"): lambda m: m.op_text(4),
    ord("a"): _Machine.op_append,
    ord("b"): _Machine.op_build,
    ord("c"): _Machine.op_global,
    ord("d"): _Machine.op_dict,
    ord("}"): lambda m: m.push({}),
    ord("e"): _Machine.op_appends,
    ord("g"): lambda m: m.op_get(m.integer_line()),
    ord("h"): lambda m: m.op_get(m.unsigned(1)),
    ord("i"): _Machine.op_inst,
    ord("j"): lambda m: m.op_get(m.unsigned(4)),
    ord("l"): lambda m: m.push(m.pop_mark()),
    ord("]"): lambda m: m.push([]),
    ord("o"): _Machine.op_drop_mark,
    ord("p"): lambda m: m.op_put(m.integer_line()),
    ord("q"): lambda m: m.op_put(m.unsigned(1)),
    ord("r"): lambda m: m.op_put(m.unsigned(4)),
    ord("s"): _Machine.op_setitem,
    ord("t"): lambda m: m.push(tuple(m.pop_mark())),
    ord(")"): lambda m: m.push(()),
    ord("u"): _Machine.op_setitems,
    ord("G"): lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    ord("B"): lambda m: m.op_bytes(4),
    ord("C"): lambda m: m.op_bytes(1),
    0x80: lambda m: m.take(1),  # PROTO
    0x81: _Machine.op_reduce,  # NEWOBJ: a class and its arguments, the same on the stack as REDUCE
    0x82: lambda m: m.op_extension(1),
    0x83: lambda m: m.op_extension(2),
    0x84: lambda m: m.op_extension(4),
    0x85: lambda m: m.push(m.pop_tuple(1)),
    0x86: lambda m: m.push(m.pop_tuple(2)),
    0x87: lambda m: m.push(m.pop_tuple(3)),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    0x8A: lambda m: m.op_long(1),
    0x8B: lambda m: m.op_long(4),
    0x8C: lambda m: m.op_text(1),
    0x8D: lambda m: m.op_text(8),
    0x8E: lambda m: m.op_bytes(8),
    0x8F: lambda m: m.push(Opaque()),  # EMPTY_SET: no set is needed from a checkpoint
    0x90: _Machine.pop_mark,  # ADDITEMS
    0x91: _Machine.op_drop_mark,  # FROZENSET
    0x92: _Machine.op_newobj_ex,
    0x93: _Machine.op_stack_global,
    0x94: lambda m: m.op_put(len(m.memo)),  # MEMOIZE
    0x95: lambda m: m.take(8),  # FRAME: a hint for buffering
    0x96: lambda m: m.op_bytes(8),  # BYTEARRAY8
    0x97: lambda m: m.push(Opaque()),  # NEXT_BUFFER
    0x98: lambda m: None,  # READONLY_BUFFER
}
