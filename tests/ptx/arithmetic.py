"""Instructions that compute a register from registers of the same lane, as functions on arrays over the lanes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tests.ptx.formats import RAW, SIGNED, Array, bits_of, decode, encode, fused, is_type

Function = Callable[..., Any]


@dataclass(frozen=True)
class Operation:
    """``function`` takes the bits of sources of these types and gives the bits of a result of type ``result``."""

    sources: tuple[str, ...]
    result: str
    function: Function


def operation(opcode: tuple[str, ...]) -> Operation | None:
    """Return what an opcode computes, or ``None`` if it is not known."""
    name, *modifiers = opcode
    types = [part for part in modifiers if is_type(part)]
    words = [part for part in modifiers if not is_type(part)]
    if name == "cvt":
        return _conversion(words, types) if len(types) == 2 else None
    if len(types) != 1:
        return None
    (kind,) = types
    if name == "setp":
        return _comparison(words, kind)
    if name in ("mov", "selp", "not", "and", "or", "xor", "shl", "shr", "prmt", "bfe", "bfi", "popc", "clz", "shf"):
        return _bitwise(name, words, kind)
    if kind.startswith(("f", "bf")):
        return _floating(name, words, kind)
    if kind.startswith(("s", "u")) and kind != "u8" and kind != "s8":
        return _integer(name, words, kind)
    return None


# Bits

_LOGIC: Final[dict[str, Function]] = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}


def _bitwise(name: str, words: list[str], kind: str) -> Operation | None:
    bits = bits_of(kind)
    if name == "shf" and words in (["l", "wrap"], ["r", "wrap"], ["l", "clamp"], ["r", "clamp"]) and kind == "b32":
        return Operation(("b32", "b32", "b32"), "b32", _funnel_shift(words[0] == "l", words[1] == "wrap"))
    if words:
        return None
    match name:
        case "mov":
            return Operation((kind,), kind, lambda source: source)
        case "selp" if bits > 1:
            return Operation((kind, kind, "pred"), kind, lambda yes, no, which: np.where(which, yes, no))
        case "not" if kind in ("pred", "b16", "b32", "b64"):
            return Operation((kind,), kind, np.logical_not if kind == "pred" else np.invert)
        case "and" | "or" | "xor" if kind in ("pred", "b16", "b32", "b64"):
            return Operation((kind, kind), kind, _LOGIC[name])
        case "shl" if kind in ("b16", "b32", "b64"):
            return Operation((kind, "b32"), kind, _shift(np.left_shift, bits))
        case "shr" if bits in (16, 32, 64):
            return Operation((kind, "b32"), kind, _shift_right_signed(bits) if kind[0] == "s" else _shift_right(bits))
        case "prmt" if kind == "b32":
            return Operation(("b32", "b32", "b32"), "b32", _permute)
        case "bfe" if kind in ("u32", "s32", "u64", "s64"):
            return Operation((kind, "b32", "b32"), kind, _extract_field(kind))
        case "bfi" if kind in ("b32", "b64"):
            return Operation((kind, kind, "b32", "b32"), kind, _insert_field(bits))
        case "popc" if kind in ("b32", "b64"):
            return Operation((kind,), "b32", _count_ones)
        case "clz" if kind in ("b32", "b64"):
            return Operation((kind,), "b32", _count_leading_zeros)
    return None


def _shift(ufunc: Function, bits: int) -> Function:
    """Build a shift that gives 0 for a distance of ``bits`` or more."""
    raw = RAW[bits]

    def shifted(value: Array, amount: Array) -> Array:
        within = amount < bits
        return np.where(within, ufunc(value, np.where(within, amount, 0).astype(raw)), raw(0))

    return shifted


def _shift_right(bits: int) -> Function:
    return _shift(np.right_shift, bits)


def _shift_right_signed(bits: int) -> Function:
    def shifted(value: Array, amount: Array) -> Array:
        limited = np.minimum(amount, bits - 1).astype(SIGNED[bits])
        return np.right_shift(value.view(SIGNED[bits]), limited).view(RAW[bits])

    return shifted


def _funnel_shift(left: bool, wrap: bool) -> Function:
    def shifted(low: Array, high: Array, amount: Array) -> Array:
        joined = (high.astype(np.uint64) << np.uint64(32)) | low
        distance = (amount & np.uint32(31) if wrap else np.minimum(amount, np.uint32(32))).astype(np.uint64)
        if left:
            return ((joined << distance) >> np.uint64(32)).astype(np.uint32)
        return (joined >> distance).astype(np.uint32)

    return shifted


def _permute(low: Array, high: Array, selector: Array) -> Array:
    joined = (high.astype(np.uint64) << np.uint64(32)) | low
    result = np.zeros(len(low), np.uint32)
    for place in range(4):
        choice = selector >> np.uint32(4 * place)
        byte = (joined >> ((choice & np.uint32(7)) * np.uint32(8)).astype(np.uint64)).astype(np.uint32) & np.uint32(
            0xFF
        )
        sign = np.where(byte & np.uint32(0x80), np.uint32(0xFF), np.uint32(0))
        result |= np.where(choice & np.uint32(8), sign, byte) << np.uint32(8 * place)
    return result


def _extract_field(kind: str) -> Function:
    bits = bits_of(kind)
    raw = RAW[bits]

    def extracted(value: Array, start: Array, length: Array) -> Array:
        first = (start & np.uint32(0xFF)).astype(np.int64)
        count = (length & np.uint32(0xFF)).astype(np.int64)
        taken: Array = _shift_right(bits)(value, np.minimum(first, bits))
        mask = ~_shift(np.left_shift, bits)(np.full(len(value), ~raw(0)), np.minimum(count, bits))
        taken &= mask
        if kind[0] == "u":
            return taken
        # The sign is the field's last bit, or the value's where the field reaches beyond it.
        last = np.minimum(first + count - 1, bits - 1)
        sign = (count > 0) & (_shift_right(bits)(value, np.maximum(last, 0)) & raw(1)).astype(np.bool_)
        within = np.clip(np.minimum(count, bits - first), 0, bits)
        above = _shift(np.left_shift, bits)(np.full(len(value), ~raw(0)), within)
        return np.where(sign, taken | above, taken)

    return extracted


def _insert_field(bits: int) -> Function:
    raw = RAW[bits]

    def inserted(field: Array, value: Array, start: Array, length: Array) -> Array:
        first = np.minimum(start & np.uint32(0xFF), bits)
        count = np.minimum(length & np.uint32(0xFF), bits)
        shift = _shift(np.left_shift, bits)
        mask = shift(~shift(np.full(len(value), ~raw(0)), count), first)
        result: Array = (value & ~mask) | (shift(field, first) & mask)
        return result

    return inserted


def _count_ones(value: Array) -> Array:
    bytes_of = np.ascontiguousarray(value).view(np.uint8).reshape(len(value), -1)
    result: Array = np.unpackbits(bytes_of, axis=1).sum(axis=1, dtype=np.uint32)
    return result


def _count_leading_zeros(value: Array) -> Array:
    bytes_of = np.ascontiguousarray(value).view(np.uint8).reshape(len(value), -1)[:, ::-1]
    ones = np.unpackbits(bytes_of, axis=1)
    return np.where(ones.any(axis=1), ones.argmax(axis=1), ones.shape[1]).astype(np.uint32)


# Integers


def _integer(name: str, words: list[str], kind: str) -> Operation | None:
    bits = bits_of(kind)
    same, pair = (kind, kind), Operation
    wide = f"{kind[0]}{2 * bits}"
    match name, words:
        case "add", []:
            return pair(same, kind, np.add)
        case "sub", []:
            return pair(same, kind, np.subtract)
        case "mul", ["lo"]:
            return pair(same, kind, np.multiply)
        case "mul", ["hi"]:
            return pair(same, kind, _high_product(kind))
        case "mul", ["wide"] if bits < 64:
            return Operation(same, wide, _wide_product(kind))
        case "mad", ["lo"]:
            return Operation((kind, kind, kind), kind, lambda first, second, third: first * second + third)
        case "mad", ["hi"]:
            high = _high_product(kind)
            return Operation((kind, kind, kind), kind, lambda first, second, third: high(first, second) + third)
        case "mad", ["wide"] if bits < 64:
            product = _wide_product(kind)
            return Operation((kind, kind, wide), wide, lambda first, second, third: product(first, second) + third)
        case (("min" | "max"), []):
            return pair(same, kind, _on_values(np.minimum if name == "min" else np.maximum, kind))
        case (("div" | "rem"), []):
            return pair(same, kind, _quotient(kind, name == "rem"))
        case "neg", [] if kind[0] == "s":
            return Operation((kind,), kind, lambda value: np.negative(value.view(SIGNED[bits])).view(RAW[bits]))
        case "abs", [] if kind[0] == "s":
            return Operation((kind,), kind, lambda value: np.abs(value.view(SIGNED[bits])).view(RAW[bits]))
    return None


def _on_values(ufunc: Function, kind: str) -> Function:
    raw = RAW[bits_of(kind)]

    def applied(*sources: Array) -> Array:
        result: Array = ufunc(*(decode(source, kind) for source in sources)).view(raw)
        return result

    return applied


def _wide_product(kind: str) -> Function:
    bits = bits_of(kind)
    large = (SIGNED if kind[0] == "s" else RAW)[2 * bits]

    def product(first: Array, second: Array) -> Array:
        result: Array = (decode(first, kind).astype(large) * decode(second, kind).astype(large)).view(RAW[2 * bits])
        return result

    return product


def _high_product(kind: str) -> Function:
    bits = bits_of(kind)
    if bits < 64:
        wide = _wide_product(kind)
        return lambda first, second: (wide(first, second) >> RAW[2 * bits](bits)).astype(RAW[bits])
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)

    def high(first: Array, second: Array) -> Array:
        cross = (first >> half) * (second & low) + ((first & low) * (second & low) >> half)
        other = (first & low) * (second >> half) + (cross & low)
        product: Array = (first >> half) * (second >> half) + (cross >> half) + (other >> half)
        if kind == "u64":
            return product
        product -= np.where(first.view(np.int64) < 0, second, np.uint64(0))
        product -= np.where(second.view(np.int64) < 0, first, np.uint64(0))
        return product

    return high


def _quotient(kind: str, remainder: bool) -> Function:
    """Build the truncating division. By zero it gives all ones, and the dividend as the remainder."""
    raw = RAW[bits_of(kind)]

    def divided(first: Array, second: Array) -> Array:
        dividend, divisor = decode(first, kind), decode(second, kind)
        safe = np.where(divisor == 0, divisor.dtype.type(1), divisor)
        rest = np.fmod(dividend, safe)
        if remainder:
            return np.where(divisor == 0, dividend, rest).view(raw)
        return np.where(second == 0, ~raw(0), ((dividend - rest) // safe).view(raw))

    return divided


# Floats


def _floating(name: str, words: list[str], kind: str) -> Operation | None:
    packed = kind.endswith("x2")
    one = kind.removesuffix("x2")
    function = _sign_change(name, words, one) or _float_function(name, words, one)
    if function is None:
        return None
    raw, count = RAW[bits_of(one)], function[0]
    apply = function[1]

    def halves(*sources: Array) -> Array:
        parts = (np.ascontiguousarray(source).view(raw) for source in sources)
        result: Array = apply(*parts).view(RAW[bits_of(kind)])
        return result

    return Operation((kind,) * count, kind, halves if packed else apply)


def _sign_change(name: str, words: list[str], kind: str) -> tuple[int, Function] | None:
    """Build ``abs`` and ``neg`` on the bits."""
    sign = RAW[bits_of(kind)](1 << (bits_of(kind) - 1))
    if words not in ([], ["ftz"]) or (words and kind != "f32"):
        return None
    flush = bool(words)
    if name == "abs":
        return 1, lambda raw: encode(decode(raw & ~sign, kind, flush), kind, flush) if flush else raw & ~sign
    if name == "neg":
        return 1, lambda raw: encode(decode(raw ^ sign, kind, flush), kind, flush) if flush else raw ^ sign
    return None


def _float_function(name: str, words: list[str], kind: str) -> tuple[int, Function] | None:
    flush = "ftz" in words
    words = [word for word in words if word != "ftz"]
    if flush and kind != "f32":
        return None
    if name in ("div", "sqrt", "rcp", "fma"):
        if words != ["rn"]:
            return None
    elif name in ("min", "max"):
        if words not in ([], ["NaN"]):
            return None
    elif words not in ([], ["rn"]):
        return None
    values = _float_values(name, "NaN" in words, kind)
    if values is None:
        return None
    count, function = values

    def applied(*sources: Array) -> Array:
        return encode(function(*(decode(source, kind, flush) for source in sources)), kind, flush)

    return count, applied


def _float_values(name: str, keeps_nan: bool, kind: str) -> tuple[int, Function] | None:
    """Build a function on values of a type, whose result is exact or needs one rounding to that type."""
    narrow = kind in ("f16", "bf16")
    match name:
        case "add":
            return 2, _fused_sum if narrow else np.add
        case "sub":
            return 2, _fused_difference if narrow else np.subtract
        case "mul":
            return 2, np.multiply
        case "fma":
            return 3, _fused_in_double if kind == "f64" else fused
        case "div" if not narrow:
            return 2, np.divide
        case "sqrt" if not narrow:
            return 1, np.sqrt
        case "rcp" if not narrow:
            return 1, lambda value: np.divide(value.dtype.type(1), value)
        case "min" | "max":
            return 2, _extreme(name == "max", keeps_nan)
    return None


def _fused_sum(first: Array, second: Array) -> Array:
    return fused(first, np.float64(1), second)  # type: ignore[arg-type]


def _fused_difference(first: Array, second: Array) -> Array:
    return fused(first, np.float64(1), -second)  # type: ignore[arg-type]


def _fused_in_double(first: Array, second: Array, third: Array) -> Array:
    """Compute FP64 with one rounding, through exact rational numbers, lane by lane."""
    from fractions import Fraction

    result = first * second + third  # right where it is no finite number
    exact = np.isfinite(first) & np.isfinite(second) & np.isfinite(third)
    for place in np.flatnonzero(exact):
        value = Fraction(float(first[place])) * Fraction(float(second[place])) + Fraction(float(third[place]))
        if value:  # the sign of an exact zero is that of the sum above
            result[place] = _nearest_double(value)
    return result


def _nearest_double(value: "object") -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")  # type: ignore[operator]


def _extreme(larger: bool, keeps_nan: bool) -> Function:
    """Build the minimum or maximum. −0 is below +0; of a number and a NaN the number is taken, unless ``keeps_nan``."""

    def extreme(first: Array, second: Array) -> Array:
        below = (first < second) | ((first == second) & (np.signbit(first) > np.signbit(second)))
        chosen = np.where(below == larger, second, first)
        nan = np.isnan(first), np.isnan(second)
        if keeps_nan:
            return np.where(nan[0] | nan[1], first.dtype.type(np.nan), chosen)
        return np.where(nan[0], second, np.where(nan[1], first, chosen))

    return extreme


# Comparisons

_ORDERS: dict[str, Function] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


def _comparison(words: list[str], kind: str) -> Operation | None:
    flush = kind == "f32" and words[1:] == ["ftz"]
    if len(words) != 1 + flush or kind == "pred":
        return None
    (order, *_) = words
    if kind.startswith(("f", "bf")):
        function = _float_order(order)
    elif order in _UNSIGNED_NAMES and kind[0] == "u":
        function = _ORDERS[_UNSIGNED_NAMES[order]]
    elif kind[0] == "b" and order not in ("eq", "ne"):
        return None
    else:
        function = _ORDERS.get(order)
    if function is None:
        return None
    compare = function
    return Operation(
        (kind, kind),
        "pred",
        lambda first, second: compare(decode(first, kind, flush), decode(second, kind, flush)),
    )


def _float_order(order: str) -> Function | None:
    if order == "ne":  # ordered: NumPy's ``!=`` is true of NaN
        return lambda first, second: (first < second) | (first > second)
    if order in _ORDERS:
        return _ORDERS[order]
    if order == "num":
        return lambda first, second: ~(np.isnan(first) | np.isnan(second))
    if order == "nan":
        return lambda first, second: np.isnan(first) | np.isnan(second)
    if order.endswith("u") and order[:-1] in _ORDERS:
        ordered = _float_order(order[:-1])
        assert ordered is not None
        return lambda first, second: ordered(first, second) | np.isnan(first) | np.isnan(second)
    return None


# Conversions

_WHOLE: dict[str, Function] = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def _conversion(words: list[str], types: list[str]) -> Operation | None:
    result, source = types
    flush = "ftz" in words
    words = [word for word in words if word != "ftz"]
    if flush and "f32" not in types:
        return None
    if result.endswith("x2"):
        if words != ["rn"] or source != "f32" or result == "f32x2":
            return None
        return Operation(("f32", "f32"), result, _packed_conversion(result.removesuffix("x2"), flush))
    if (result[0] == "b" and result != "bf16") or (source[0] == "b" and source != "bf16") or "pred" in types:
        return None
    from_float, to_float = source.startswith(("f", "bf")), result.startswith(("f", "bf"))
    if not from_float and not to_float:
        return None if words else Operation((source,), result, _integer_conversion(result, source))
    if not from_float:
        return Operation((source,), result, _from_integer(result, source)) if words == ["rn"] else None
    if not to_float:
        whole = _WHOLE.get(words[0]) if len(words) == 1 else None
        return None if whole is None else Operation((source,), result, _to_integer(result, source, whole, flush))
    return _between_floats(words, result, source, flush)


def _integer_conversion(result: str, source: str) -> Function:
    target = (SIGNED if result[0] == "s" else RAW)[bits_of(result)]
    return lambda raw: decode(raw, source).astype(target).view(RAW[bits_of(result)])


def _from_integer(result: str, source: str) -> Function:
    if result in ("f32", "f64"):
        kind = np.float32 if result == "f32" else np.float64
        return lambda raw: encode(decode(raw, source).astype(kind), result)
    if bits_of(source) == 64:
        return lambda raw: encode(_odd_double(decode(raw, source)), result)
    return lambda raw: encode(decode(raw, source).astype(np.float64), result)


def _odd_double(value: Array) -> Array:
    """Convert 64-bit integers to FP64, rounded to odd."""
    upper = value >> value.dtype.type(16)
    lower = value & value.dtype.type(0xFFFF)
    return fused(upper.astype(np.float64), np.float64(65536), lower.astype(np.float64))  # type: ignore[arg-type]


def _to_integer(result: str, source: str, whole: Function, flush: bool) -> Function:
    bits = bits_of(result)
    target = (SIGNED if result[0] == "s" else RAW)[bits]
    limits = np.iinfo(target)
    # NaN: all zeros, but the highest bit where 64 bits take part.
    of_nan = RAW[bits](1 << (bits - 1) if source == "f64" or bits == 64 else 0)

    def converted(raw: Array) -> Array:
        value = whole(decode(raw, source, flush).astype(np.float64))
        nan, high, low = np.isnan(value), value >= float(limits.max) + (bits < 64), value < float(limits.min)
        inside = np.where(nan | high | low, 0.0, value).astype(target)
        saturated = np.where(high, target(limits.max), np.where(low, target(limits.min), inside))
        return np.where(nan, of_nan, saturated.view(RAW[bits]))

    return converted


def _between_floats(words: list[str], result: str, source: str, flush: bool) -> Operation | None:
    widening = (bits_of(result), result == "f32") > (bits_of(source), source == "f32") or result == source
    if len(words) == 1 and words[0] in _WHOLE and result == source:
        whole = _WHOLE[words[0]]
        return Operation((source,), result, lambda raw: encode(whole(decode(raw, source, flush)), result, flush))
    if {result, source} == {"f16", "bf16"} or words != ([] if widening else ["rn"]):
        return None
    return Operation((source,), result, lambda raw: encode(decode(raw, source, flush), result, flush))


def _packed_conversion(half: str, flush: bool) -> Function:
    def packed(high: Array, low: Array) -> Array:
        upper = encode(decode(high, "f32", flush).astype(np.float64), half).astype(np.uint32)
        lower = encode(decode(low, "f32", flush).astype(np.float64), half).astype(np.uint32)
        return (upper << np.uint32(16)) | lower

    return packed
