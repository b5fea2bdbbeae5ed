"""Number formats of PTX on NumPy arrays: bits to values and back, and exact sums rounded once.

Registers hold bits: unsigned integers of their width, ``bool`` for predicates. ``decode`` makes values of a PTX type of
them. Values of the two 16-bit floats are FP64, in which their products and (through ``fused``) their sums are exact
enough to be rounded once; those of FP32 are FP32.
"""

import re
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RAW: Final[dict[int, Any]] = {1: np.bool_, 8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED: Final[dict[int, Any]] = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
FLOATS = ("f16", "bf16", "f32", "f64")
CANONICAL_NAN = {"f16": 0x7FFF, "bf16": 0x7FFF, "f32": 0x7FFFFFFF, "f64": 0x7FF8000000000000}
"""The NaN that arithmetic gives, whatever NaN it was given."""


@cache
def bits_of(kind: str) -> int:
    """Return the width of a PTX type in bits: 32 for ``f16x2``."""
    if kind == "pred":
        return 1
    width, _, count = re.sub(r"^(bf|[a-z])", "", kind).partition("x")
    return int(width) * int(count or 1)


def is_type(text: str) -> bool:
    """Tell whether a part of an opcode is a type."""
    return (
        re.fullmatch(r"pred|[su](8|16|32|64)|b(8|16|32|64|128)|f(16|32|64)|bf16|f16x2|bf16x2|f32x2", text) is not None
    )


def resized(raw: Array, bits: int, signed: bool = False) -> Array:
    """Change the width of bits: truncate them, or extend them by zeros or by the sign."""
    width = raw.dtype.itemsize * 8
    if width == bits or raw.dtype == np.bool_:
        return raw
    if signed and width < bits:
        result: Array = raw.view(SIGNED[width]).astype(SIGNED[bits]).view(RAW[bits])
        return result
    return raw.astype(RAW[bits])


def decode(raw: Array, kind: str, flush: bool = False) -> Array:
    """Interpret bits as values of a type; with ``flush`` subnormal FP32 becomes a zero of its sign."""
    if kind == "f32":
        value: Array = raw.view(np.float32)
        return flushed(value) if flush else value
    if kind == "f64":
        return raw.view(np.float64)
    if kind == "f16":
        return raw.view(np.float16).astype(np.float64)
    if kind == "bf16":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    if kind.startswith("s"):
        return raw.view(SIGNED[bits_of(kind)])
    return raw


def encode(value: Array, kind: str, flush: bool = False) -> Array:
    """Return the bits of values of a type; FP64 is rounded once to a narrower float, to nearest even."""
    if kind == "f32":
        narrow = value.astype(np.float32, copy=False)
        raw = (flushed(narrow) if flush else narrow).view(np.uint32)
    elif kind == "f64":
        raw = value.astype(np.float64, copy=False).view(np.uint64)
    elif kind == "f16":
        raw = value.astype(np.float16).view(np.uint16)
    elif kind == "bf16":
        raw = bfloat16_bits(value)
    elif kind == "pred":
        return value
    else:
        return value.astype(RAW[bits_of(kind)], copy=False)
    nan = np.isnan(value)
    if nan.any():
        raw = np.where(nan, RAW[bits_of(kind)](CANONICAL_NAN[kind]), raw)
    return raw


def flushed(value: Array) -> Array:
    """Replace every subnormal FP32 by a zero of its sign."""
    tiny = (value != 0) & (np.abs(value) < np.finfo(np.float32).tiny)
    return np.where(tiny, np.copysign(np.float32(0), value), value) if tiny.any() else value


def bfloat16_bits(value: Array) -> Array:
    """Round FP64 once to bfloat16; the bits of a NaN are left to the caller."""
    narrow = to_odd_float32(value.astype(np.float64, copy=False)).view(np.uint32)
    carry = np.uint32(0x7FFF) + ((narrow >> np.uint32(16)) & np.uint32(1))
    rounded: Array = ((narrow + carry) >> np.uint32(16)).astype(np.uint16)
    return rounded


def to_odd_float32(value: Array) -> Array:
    """Round FP64 to FP32 to odd: the exact value, or the neighbour whose last bit is set.

    A later rounding to a narrower float is then that of the exact value.
    """
    near = value.astype(np.float32)
    back = near.astype(np.float64)
    wrong = (back != value) & np.isfinite(value)
    bits = near.view(np.uint32).copy()
    # Where the nearest is beyond the value, the neighbour towards zero; infinity steps back to the largest number.
    beyond = wrong & (np.abs(back) > np.abs(value))
    bits[beyond] -= np.uint32(1)
    bits[wrong] |= np.uint32(1)
    return bits.view(np.float32)


def fused(first: Array, second: Array, third: Array) -> Array:
    """Compute first · second + third in FP64, rounded to odd, for factors whose product is exact in FP64.

    A later rounding to a format of at most 51 digits is then that of the exact result (Boldo and Melquiond, 2008).
    """
    product = first.astype(np.float64, copy=False) * second.astype(np.float64, copy=False)
    addend = third.astype(np.float64, copy=False)
    total = product + addend
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    bits = total.view(np.int64)
    adjust = np.isfinite(total) & (error != 0) & ((bits & 1) == 0)
    if not adjust.any():
        return total
    outward = (error < 0) == (total < 0)
    moved: Array = np.where(adjust, np.where(outward, bits + 1, bits - 1), bits).view(np.float64)
    return moved
