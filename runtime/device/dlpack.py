"""Arrays handed over without a copy: DLPack, both ways.

The protocol: a producer gives a capsule named "dltensor" around a ``DLManagedTensor``; whoever takes it renames it to
"used_dltensor" and calls its deleter once, when it needs the memory no more.

Source: https://dmlc.github.io/dlpack/latest (the C structures and the Python protocol).
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from trt_vqgan.errors import ShapeError
from trt_vqgan.runtime.device.arrays import DeviceArray
from trt_vqgan.runtime.device.interface import Device

CPU, CUDA = 1, 2
_KINDS = {"cpu": CPU, "cuda": CUDA}
_CODES = {"i": 0, "u": 1, "f": 2}
_LETTERS = {code: letter for letter, code in _CODES.items()}


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("index", ctypes.c_int32)]


class _DType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_is_capsule = ctypes.pythonapi.PyCapsule_IsValid
_is_capsule.restype = ctypes.c_int
_is_capsule.argtypes = [ctypes.py_object, ctypes.c_char_p]
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_rename_capsule = ctypes.pythonapi.PyCapsule_SetName
_rename_capsule.restype = ctypes.c_int
_rename_capsule.argtypes = [ctypes.py_object, ctypes.c_char_p]
_dying_is_capsule = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_dying_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)

_FRESH, _USED = b"dltensor", b"used_dltensor"

# What each capsule that is out keeps alive, by the address of its structure.
_lent: dict[int, tuple[Any, ...]] = {}


def _give_back(managed: Any) -> None:
    _lent.pop(ctypes.addressof(managed.contents), None)


def _drop_capsule(capsule: int) -> None:
    """Give back what a capsule that nobody took keeps alive. It is going itself, so it is handled by its address."""
    if _dying_is_capsule(capsule, _FRESH):
        _lent.pop(_dying_capsule_pointer(capsule, _FRESH), None)


_deleter = _Deleter(_give_back)
_destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_drop_capsule)


class Lent:
    """A device array as other libraries take it: ``torch.from_dlpack(Lent(device, array))``.

    It shares the memory and keeps it alive.
    """

    def __init__(self, device: Device, array: DeviceArray) -> None:
        if array.dtype.kind not in _CODES:
            raise ShapeError(f"DLPack: found {array.dtype}, wanted whole or floating-point numbers")
        self._device, self._array = device, array

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return (kind, index) of the device."""
        return _KINDS[self._device.kind], self._device.index

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> Any:
        """Return the capsule; work that ``stream`` gets from now on runs behind ours.

        ``stream`` is the taker's, as the array API standard numbers it: None for the default one, -1 for no order.
        """
        if self._device.kind == "cuda" and stream != -1:
            with self._device.active():
                self._device.let_stream_wait(1 if stream is None else stream)
        self._array.check_alive()
        array = self._array
        shape = (ctypes.c_int64 * len(array.shape))(*array.shape)
        managed = _Managed()
        managed.tensor.data = array.address
        managed.tensor.device = _Device(*self.__dlpack_device__())
        managed.tensor.ndim = len(array.shape)
        managed.tensor.dtype = _DType(_CODES[array.dtype.kind], array.dtype.itemsize * 8, 1)
        managed.tensor.shape = ctypes.cast(shape, ctypes.POINTER(ctypes.c_int64))
        managed.deleter = _deleter
        place = ctypes.addressof(managed)
        _lent[place] = (managed, shape, array)
        return _new_capsule(place, _FRESH, ctypes.cast(_destructor, ctypes.c_void_p))


class TakenMemory:
    """Somebody else's array as `Memory`; its deleter is called once, when it is freed or dropped."""

    def __init__(self, managed: Any, address: int, nbytes: int) -> None:
        self.address, self.nbytes = address, nbytes
        self._managed: Any | None = managed

    @property
    def is_free(self) -> bool:
        """Whether it was given back."""
        return self._managed is None

    def free(self) -> None:
        """Tell the producer that it is needed no more."""
        managed, self._managed = self._managed, None
        if managed is not None and managed.deleter:
            managed.deleter(ctypes.byref(managed))

    def part(self, array: DeviceArray) -> Any:
        """Return the NumPy view of an array that lies in it; for host memory only."""
        array.check_alive()
        content = (ctypes.c_uint8 * array.nbytes).from_address(array.address)
        return np.ctypeslib.as_array(content).view(array.dtype).reshape(array.shape)

    def __del__(self) -> None:
        self.free()


def take(device: Device, source: Any) -> DeviceArray:
    """Return an array that shares the memory of ``source``, anything with ``__dlpack__`` on the same device.

    Work issued from now on runs behind what made it.

    Raises
    ------
    ShapeError : it lies on another device, isn't C-contiguous, or holds another kind of numbers.
    """
    wanted = (_KINDS[device.kind], device.index)
    found = tuple(int(part) for part in source.__dlpack_device__())
    if found != wanted:
        raise ShapeError(
            f"DLPack: found an array on device {found}, wanted {wanted} as the bundle's ({device.describe()})"
        )
    capsule = source.__dlpack__(stream=device.stream) if device.kind == "cuda" else source.__dlpack__()
    if not _is_capsule(capsule, _FRESH):
        raise ShapeError("DLPack: found a capsule that is used already or of another version, wanted a fresh one")
    managed = _Managed.from_address(_capsule_pointer(capsule, _FRESH))
    _rename_capsule(capsule, _USED)
    tensor = managed.tensor
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    letter = _LETTERS.get(tensor.dtype.code)
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else None
    address = (tensor.data or 0) + tensor.byte_offset
    memory = TakenMemory(managed, address, 0)
    if letter is None or tensor.dtype.lanes != 1 or (strides is not None and not _is_contiguous(shape, strides)):
        memory.free()
        raise ShapeError(
            f"DLPack: found shape {shape} with strides {strides} and type code {tensor.dtype.code}, wanted whole or "
            "floating-point numbers in C order"
        )
    array = DeviceArray(memory, address, shape, np.dtype(f"{letter}{tensor.dtype.bits // 8}"))
    memory.nbytes = array.nbytes
    return array


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    step = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length > 1 and stride != step:
            return False
        step *= length
    return True
