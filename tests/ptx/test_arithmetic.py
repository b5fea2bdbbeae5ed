"""Instructions of one lane against NumPy, Python's integers and exact rational numbers."""

from fractions import Fraction

import numpy as np
import pytest

from tests.ptx.errors import UnknownInstruction
from tests.ptx.formats import bfloat16_bits, bits_of
from tests.ptx.small import compute, execute

RNG = np.random.default_rng(7)
UNSIGNED = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
SIGNED = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
FORMATS = {"f16": (11, -24, 16), "bf16": (8, -133, 128), "f32": (24, -149, 128), "f64": (53, -1074, 1024)}
"""Digits, exponent of the smallest positive number, exponent of the first power of two that is too large."""


def integers(kind: str, count: int = 320) -> np.ndarray:
    """Random bits, small numbers and extremes."""
    bits = bits_of(kind)
    dtype = (SIGNED if kind[0] == "s" else UNSIGNED)[bits]
    limits = np.iinfo(dtype)
    some = RNG.integers(limits.min, limits.max, count, dtype=dtype, endpoint=True)
    some[::5] = RNG.integers(0, 40, len(some[::5]))
    some[::7] = RNG.choice(np.array([limits.min, limits.max, 0, 1, limits.max - 1], dtype), len(some[::7]))
    return some


def floats(kind: str, count: int = 320) -> np.ndarray:
    """Bits of numbers of like size, any bits, and specials."""
    bits = bits_of(kind)
    some = integers(f"u{bits}", count)
    ordinary = RNG.normal(size=count)
    like = {"f16": lambda: ordinary.astype(np.float16).view(np.uint16), "bf16": lambda: bfloat16_bits(ordinary)}
    like |= {"f32": lambda: ordinary.astype(np.float32).view(np.uint32), "f64": lambda: ordinary.view(np.uint64)}
    some = np.where(RNG.random(count) < 0.5, like[kind](), some)
    top = UNSIGNED[bits](1 << (bits - 1))
    mantissa = FORMATS[kind][0] - 1
    infinity = UNSIGNED[bits](((1 << (bits - 1 - mantissa)) - 1) << mantissa)
    specials = [UNSIGNED[bits](0), top, infinity, infinity | top, infinity + UNSIGNED[bits](1), UNSIGNED[bits](1)]
    specials += [infinity - UNSIGNED[bits](1), UNSIGNED[bits](1 << mantissa), UNSIGNED[bits]((1 << mantissa) - 1)]
    some[::9] = RNG.choice(np.array(specials, UNSIGNED[bits]), len(some[::9]))
    return some


def value_of(raw: int, kind: str) -> float:
    if kind == "bf16":
        return float(np.array([raw << 16], np.uint32).view(np.float32)[0])
    return float(np.array([raw], UNSIGNED[bits_of(kind)]).view(f"f{bits_of(kind) // 8}")[0])


def rounded(value: Fraction, kind: str) -> float:
    """The nearest number of a format, ties to even; an independent implementation on rational numbers."""
    digits, smallest, too_large = FORMATS[kind]
    if value == 0:
        return 0.0
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent += 1 if size >= Fraction(2) ** exponent else 0
    unit = Fraction(2) ** max(exponent - digits, smallest)
    near = round(size / unit) * unit  # of Fraction: to even
    result = float("inf") if near >= Fraction(2) ** too_large else float(near)
    return -result if value < 0 else result


def same(found: np.ndarray, expected: list[float], kind: str) -> None:
    """Equal numbers with equal signs; every NaN is the canonical one."""
    canonical = {"f16": 0x7FFF, "bf16": 0x7FFF, "f32": 0x7FFFFFFF, "f64": 0x7FF8000000000000}[kind]
    for place, (raw, wanted) in enumerate(zip(found.tolist(), expected, strict=True)):
        if np.isnan(wanted):
            assert raw == canonical, place
        else:
            value = value_of(raw, kind)
            assert value == wanted and np.signbit(value) == np.signbit(wanted), (place, value, wanted)


EXACT = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div.rn": lambda a, b: a / b,
    "fma.rn": lambda a, b, c: a * b + c,
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in EXACT for kind in FORMATS if name != "div.rn" or kind in ("f32", "f64")],
)
def test_float_arithmetic_rounds_once(name: str, kind: str):
    sources = [floats(kind) for _ in range(3 if name == "fma.rn" else 2)]
    if name == "fma.rn":  # sums that almost cancel, and ties of the sum
        sources[2][1::3] = compute(f"mul.{kind}", kind, (kind, sources[0]), (kind, sources[1]))[1::3] ^ 1 << (
            bits_of(kind) - 1
        )
    found = compute(f"{name}.{kind}", kind, *((kind, source) for source in sources))
    expected = []
    for raws in zip(*(source.tolist() for source in sources), strict=True):
        values = [value_of(raw, kind) for raw in raws]
        wide = [np.float64(value) for value in values]
        with np.errstate(all="ignore"):
            plain = EXACT[name](*wide)  # infinities, NaN, and the signs of zeros
        if np.isfinite(values).all() and not (name == "div.rn" and values[1] == 0):
            exact = EXACT[name](*(Fraction(value) for value in values))
            expected.append(rounded(exact, kind) if exact else float(plain * 0) if name == "mul" else float(plain))
            if exact and expected[-1] == 0:
                expected[-1] = np.copysign(0.0, float(exact))
        else:
            expected.append(float(plain))
    same(found, expected, kind)


def test_a_fused_sum_is_not_rounded_twice():
    """1 + 2⁻²⁴ + 2⁻⁶⁰ lies above the middle of two FP32 numbers; rounded to FP64 first it would be that middle."""
    a, b, c = np.float32(1 + 2**-12), np.float32(1 + 2**-12), np.float32(2**-60)
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    twice = np.float32(np.float64(a) * np.float64(b) + np.float64(c))
    found = compute("fma.rn.f32", "f32", *(("f32", np.array([one]).view(np.uint32)) for one in (a, b, c)))
    assert value_of(int(found[0]), "f32") == rounded(exact, "f32") != twice


@pytest.mark.parametrize("kind", ["f16x2", "bf16x2", "f32x2"])
def test_packed_arithmetic_is_that_of_its_halves(kind: str):
    half = kind.removesuffix("x2")
    sources = [floats(half, 640) for _ in range(3)]
    packed = [source.view(UNSIGNED[bits_of(kind)]) for source in sources]
    for name, count in (("add", 2), ("mul", 2), ("fma.rn", 3)):
        found = compute(f"{name}.{kind}", kind, *((kind, one) for one in packed[:count]))
        expected = compute(f"{name}.{half}", half, *((half, one) for one in sources[:count]))
        np.testing.assert_array_equal(found.view(UNSIGNED[bits_of(half)]), expected)


@pytest.mark.parametrize("kind", FORMATS)
def test_signs_are_changed_on_the_bits(kind: str):
    source = floats(kind)
    sign = UNSIGNED[bits_of(kind)](1 << (bits_of(kind) - 1))
    np.testing.assert_array_equal(compute(f"abs.{kind}", kind, (kind, source)), source & ~sign)
    np.testing.assert_array_equal(compute(f"neg.{kind}", kind, (kind, source)), source ^ sign)


@pytest.mark.parametrize("kind", ["f32", "f64", "f16", "bf16"])
def test_minima_and_maxima_pass_over_nan_unless_asked(kind: str):
    first, second = floats(kind), floats(kind)
    for name, choose in (("min", min), ("max", max)):
        plain, strict = [], []
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            a, b = value_of(a, kind), value_of(b, kind)
            ordered = choose((a, -np.signbit(a).astype(int)), (b, -np.signbit(b).astype(int)))[0]
            plain.append(b if np.isnan(a) else a if np.isnan(b) else ordered)
            strict.append(np.nan if np.isnan(a) or np.isnan(b) else ordered)
        same(compute(f"{name}.{kind}", kind, (kind, first), (kind, second)), plain, kind)
        same(compute(f"{name}.NaN.{kind}", kind, (kind, first), (kind, second)), strict, kind)


def test_subnormals_stay_but_where_they_are_to_be_flushed():
    tiny = np.array([1e-40, -1e-40, 1.0, np.finfo(np.float32).tiny], np.float32).view(np.uint32)
    zero, one = np.zeros(4, np.uint32), np.ones(4, np.float32).view(np.uint32)
    np.testing.assert_array_equal(compute("add.f32", "f32", ("f32", tiny), ("f32", zero)), tiny)
    flushed = compute("mul.ftz.f32", "f32", ("f32", tiny), ("f32", one))
    assert flushed.tolist() == [0, 0x80000000, tiny[2], tiny[3]]
    floor = compute("cvt.rmi.ftz.f32.f32", "f32", ("f32", tiny)).view(np.float32)
    assert floor.tolist() == [0.0, 0.0, 1.0, 0.0] and np.signbit(floor[1])
    assert compute("cvt.rmi.f32.f32", "f32", ("f32", tiny)).view(np.float32)[1] == -1


INTEGER = {
    "add": lambda a, b, bits: a + b,
    "sub": lambda a, b, bits: a - b,
    "mul.lo": lambda a, b, bits: a * b,
    "mul.hi": lambda a, b, bits: (a * b) >> bits,
    "min": lambda a, b, bits: min(a, b),
    "max": lambda a, b, bits: max(a, b),
    "div": lambda a, b, bits: -1 if b == 0 else int(Fraction(a, b)),
    "rem": lambda a, b, bits: a if b == 0 else a - b * int(Fraction(a, b)),
}


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32", "s64", "u64"])
@pytest.mark.parametrize("name", INTEGER)
def test_integers_are_those_of_python_cut_off(name: str, kind: str):
    bits, first, second = bits_of(kind), integers(kind), integers(kind)
    found = compute(f"{name}.{kind}", kind, (kind, first), (kind, second))
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    assert found.tolist() == [INTEGER[name](a, b, bits) % 2**bits for a, b in pairs]


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32"])
def test_wide_products(kind: str):
    bits, wide = bits_of(kind), f"{kind[0]}{2 * bits_of(kind)}"
    a, b, c = integers(kind), integers(kind), integers(wide)
    rows = list(zip(a.tolist(), b.tolist(), c.tolist(), strict=True))
    found = compute(f"mul.wide.{kind}", wide, (kind, a), (kind, b))
    assert found.tolist() == [x * y % 4**bits for x, y, _ in rows]
    found = compute(f"mad.wide.{kind}", wide, (kind, a), (kind, b), (wide, c))
    assert found.tolist() == [(x * y + z) % 4**bits for x, y, z in rows]


@pytest.mark.parametrize("kind", ["s32", "u32", "s64", "u64"])
def test_products_and_sums(kind: str):
    bits, sources = bits_of(kind), [integers(kind) for _ in range(3)]
    rows = list(zip(*(source.tolist() for source in sources), strict=True))
    typed = [(kind, source) for source in sources]
    assert compute(f"mad.lo.{kind}", kind, *typed).tolist() == [(a * b + c) % 2**bits for a, b, c in rows]
    assert compute(f"mad.hi.{kind}", kind, *typed).tolist() == [((a * b >> bits) + c) % 2**bits for a, b, c in rows]


@pytest.mark.parametrize("kind", ["s16", "s32", "s64"])
def test_negative_and_absolute_integers(kind: str):
    source = integers(kind)
    assert compute(f"neg.{kind}", kind, (kind, source)).tolist() == [-a % 2 ** bits_of(kind) for a in source.tolist()]
    assert compute(f"abs.{kind}", kind, (kind, source)).tolist() == [abs(a) for a in source.tolist()]


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_bits(bits: int):
    kind, signed = f"b{bits}", f"s{bits}"
    a, b = integers(f"u{bits}"), integers(f"u{bits}")
    amount = np.resize(np.array([0, 1, bits - 1, bits, bits + 1, 200, 2**32 - 1], np.uint32), len(a))
    for name, ufunc in (("and", np.bitwise_and), ("or", np.bitwise_or), ("xor", np.bitwise_xor)):
        np.testing.assert_array_equal(compute(f"{name}.{kind}", kind, (kind, a), (kind, b)), ufunc(a, b))
    np.testing.assert_array_equal(compute(f"not.{kind}", kind, (kind, a)), ~a)
    values, amounts = a.tolist(), amount.tolist()
    left = compute(f"shl.{kind}", kind, (kind, a), ("b32", amount))
    assert left.tolist() == [x << y & 2**bits - 1 if y < bits else 0 for x, y in zip(values, amounts, strict=True)]
    right = compute(f"shr.u{bits}", kind, (kind, a), ("b32", amount))
    assert right.tolist() == [x >> min(y, bits) for x, y in zip(values, amounts, strict=True)]
    right = compute(f"shr.{signed}", kind, (kind, a), ("b32", amount)).view(SIGNED[bits])
    negative = a.view(SIGNED[bits]).tolist()
    assert right.tolist() == [x >> min(y, bits) for x, y in zip(negative, amounts, strict=True)]


def test_predicates_are_bits_too():
    a, b = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    for name, expected in (("and", [0, 0, 0, 1]), ("or", [0, 1, 1, 1]), ("xor", [0, 1, 1, 0])):
        assert compute(f"{name}.pred", "pred", ("pred", a), ("pred", b)).tolist() == expected
    assert compute("not.pred", "pred", ("pred", a)).tolist() == [1, 1, 0, 0]
    yes, no = np.array([5, 6, 7, 8], np.uint32), np.array([1, 2, 3, 4], np.uint32)
    assert compute("selp.b32", "b32", ("b32", yes), ("b32", no), ("pred", a)).tolist() == [1, 2, 7, 8]


@pytest.mark.parametrize("kind", ["u32", "s32", "u64", "s64"])
def test_fields_are_extracted(kind: str):
    bits, value = bits_of(kind), integers(f"u{bits_of(kind)}")
    start = RNG.integers(0, bits + 8, len(value)).astype(np.uint32)
    length = RNG.integers(0, bits + 8, len(value)).astype(np.uint32)
    expected = []
    for a, first, count in zip(value.tolist(), start.tolist(), length.tolist(), strict=True):
        # The PTX ISA's own loop: beyond the last bit the sign is repeated.
        sign = 0 if kind[0] == "u" or count == 0 else a >> min(first + count - 1, bits - 1) & 1
        taken = [(a >> first + i & 1) if i < count and first + i <= bits - 1 else sign for i in range(bits)]
        expected.append(sum(bit << i for i, bit in enumerate(taken)))
    found = compute(f"bfe.{kind}", kind, (kind, value), ("b32", start), ("b32", length))
    assert found.tolist() == expected


def test_fields_are_inserted_bytes_permuted_and_bits_counted():
    a, b = integers("u32"), integers("u32")
    start, length = (RNG.integers(0, 40, len(a)).astype(np.uint32) for _ in range(2))
    expected = []
    for field, value, first, count in zip(a.tolist(), b.tolist(), start.tolist(), length.tolist(), strict=True):
        for i in range(count):
            if first + i < 32:
                value = value & ~(1 << first + i) | (field >> i & 1) << first + i
        expected.append(value)
    typed = ("b32", a), ("b32", b), ("b32", start), ("b32", length)
    assert compute("bfi.b32", "b32", *typed).tolist() == expected
    selector = integers("u32")
    expected = []
    for low, high, choice in zip(a.tolist(), b.tolist(), selector.tolist(), strict=True):
        octets = (high << 32 | low).to_bytes(8, "little")
        picked = [octets[choice >> 4 * i & 7] for i in range(4)]
        signs = [choice >> 4 * i & 8 for i in range(4)]
        made = [(255 if one & 128 else 0) if sign else one for one, sign in zip(picked, signs, strict=True)]
        expected.append(int.from_bytes(bytes(made), "little"))
    assert compute("prmt.b32", "b32", ("b32", a), ("b32", b), ("b32", selector)).tolist() == expected
    assert compute("popc.b32", "b32", ("b32", a)).tolist() == [one.bit_count() for one in a.tolist()]
    assert compute("clz.b32", "b32", ("b32", a)).tolist() == [32 - one.bit_length() for one in a.tolist()]


def test_two_words_are_shifted_as_one():
    low, high, amount = integers("u32"), integers("u32"), RNG.integers(0, 80, 320).astype(np.uint32)
    rows = list(zip(low.tolist(), high.tolist(), amount.tolist(), strict=True))
    typed = ("b32", low), ("b32", high), ("b32", amount)
    left = [((b << 32 | a) << n % 32 >> 32) & 2**32 - 1 for a, b, n in rows]
    assert compute("shf.l.wrap.b32", "b32", *typed).tolist() == left
    right = [((b << 32 | a) >> min(n, 32)) & 2**32 - 1 for a, b, n in rows]
    assert compute("shf.r.clamp.b32", "b32", *typed).tolist() == right


ORDERS = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}


@pytest.mark.parametrize("kind", ["s16", "u16", "s32", "u32", "s64", "u64"])
def test_integers_are_compared(kind: str):
    a, b = integers(kind), integers(kind)
    b[::3] = a[::3]
    for name, sign in ORDERS.items():
        expected = [int(eval(f"x {sign} y", {"x": x, "y": y})) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        assert compute(f"setp.{name}.{kind}", "pred", (kind, a), (kind, b)).tolist() == expected


@pytest.mark.parametrize("kind", FORMATS)
def test_floats_are_compared_with_and_without_order(kind: str):
    a, b = floats(kind), floats(kind)
    b[::3] = a[::3]
    values = [(value_of(x, kind), value_of(y, kind)) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    nan = [int(np.isnan(x) or np.isnan(y)) for x, y in values]
    assert 0 < sum(nan) < len(nan)
    for name, sign in ORDERS.items():
        plain = [int(eval(f"x {sign} y", {"x": x, "y": y})) for x, y in values]
        ordered = [one & ~no for one, no in zip(plain, nan, strict=True)]
        assert compute(f"setp.{name}.{kind}", "pred", (kind, a), (kind, b)).tolist() == ordered
        unordered = [one | no for one, no in zip(plain, nan, strict=True)]
        assert compute(f"setp.{name}u.{kind}", "pred", (kind, a), (kind, b)).tolist() == unordered
    assert compute(f"setp.nan.{kind}", "pred", (kind, a), (kind, b)).tolist() == nan
    assert compute(f"setp.num.{kind}", "pred", (kind, a), (kind, b)).tolist() == [1 - one for one in nan]


@pytest.mark.parametrize(("result", "source"), [("s32", "f32"), ("u32", "f32"), ("s64", "f32"), ("s32", "f64")])
@pytest.mark.parametrize("how", ["rzi", "rni", "rmi", "rpi"])
def test_floats_become_integers_and_saturate(result: str, source: str, how: str):
    raw = floats(source)
    exact = {"rzi": int, "rni": round, "rmi": lambda x: x.__floor__(), "rpi": lambda x: x.__ceil__()}[how]
    limits, bits = np.iinfo((SIGNED if result[0] == "s" else UNSIGNED)[bits_of(result)]), bits_of(result)
    expected = []
    for value in (value_of(one, source) for one in raw.tolist()):
        if np.isnan(value):
            expected.append(1 << (bits - 1) if source == "f64" or bits == 64 else 0)
        elif np.isinf(value):
            expected.append((limits.max if value > 0 else limits.min) % 2**bits)
        else:
            expected.append(min(max(exact(Fraction(value)), limits.min), limits.max) % 2**bits)
    assert compute(f"cvt.{how}.{result}.{source}", result, (source, raw)).tolist() == expected


@pytest.mark.parametrize("source", ["s32", "u32", "s64", "u64", "s16"])
@pytest.mark.parametrize("result", ["f16", "f32", "f64"])
def test_integers_become_floats_with_one_rounding(result: str, source: str):
    values = integers(source)
    found = compute(f"cvt.rn.{result}.{source}", result, (source, values))
    same(found, [rounded(Fraction(one), result) for one in values.tolist()], result)


@pytest.mark.parametrize(
    ("result", "source"),
    [("f16", "f32"), ("bf16", "f32"), ("f32", "f16"), ("f32", "bf16"), ("f64", "f32"), ("f32", "f64"), ("f16", "f64")],
)
def test_floats_become_other_floats_with_one_rounding(result: str, source: str):
    raw = floats(source)
    narrows = FORMATS[result][0] < FORMATS[source][0]
    values = [value_of(one, source) for one in raw.tolist()]
    expected = [rounded(Fraction(x), result) if np.isfinite(x) and x else x for x in values]
    expected = [np.copysign(y, x) if y == 0 else y for x, y in zip(values, expected, strict=True)]
    found = compute(f"cvt{'.rn' * narrows}.{result}.{source}", result, (source, raw))
    same(found, expected, result)


@pytest.mark.parametrize("half", ["f16", "bf16"])
def test_two_floats_are_packed_the_first_one_above(half: str):
    high, low = floats("f32"), floats("f32")
    found = compute(f"cvt.rn.{half}x2.f32", f"{half}x2", ("f32", high), ("f32", low))
    parts = [compute(f"cvt.rn.{half}.f32", half, ("f32", one)).astype(np.uint32) for one in (high, low)]
    np.testing.assert_array_equal(found, parts[0] << np.uint32(16) | parts[1])


@pytest.mark.parametrize(
    ("result", "source"), [("u64", "u32"), ("s64", "s32"), ("u32", "u16"), ("s32", "s16"), ("u32", "u64")]
)
def test_integers_of_other_widths(result: str, source: str):
    values = integers(source)
    found = compute(f"cvt.{result}.{source}", result, (source, values))
    assert found.tolist() == [one % 2 ** bits_of(result) for one in values.tolist()]


def test_registers_are_packed_and_unpacked():
    body = """
        mad.wide.u32 %d1, %thread, 8, %given; ld.global.b64 %d2, [%d1];
        mov.b64 {%r1, %r2}, %d2; mov.b32 {%h1, %h2}, %r1; mov.b32 %r3, {%h2, %h1}; mov.b64 %d3, {%r2, %r3};
        mad.wide.u32 %d4, %thread, 8, %out; st.global.b64 [%d4], %d3;
    """
    given = integers("u64", 32)
    done = execute(body, inputs={"given": given}, outputs={"out": np.zeros(32, np.uint64)})
    expected = [(a & 0xFFFF) << 48 | (a >> 16 & 0xFFFF) << 32 | a >> 32 for a in given.tolist()]
    assert done.tensors["out"].tolist() == expected


@pytest.mark.parametrize(
    "opcode",
    [
        "ex2.approx.f32", "div.full.f32", "div.approx.f32", "rsqrt.approx.f32", "add.rz.f32", "add.sat.s32",
        "fma.rz.f32", "add.cc.u32", "mul24.lo.s32", "lop3.b32", "cvt.rn.satfinite.e4m3x2.f32", "cvt.rna.tf32.f32",
        "tanh.approx.f32", "mad.rn.f32", "setp.lt.b32", "nonsense.f32", "add", "add.f33",
    ],
)  # fmt: skip
def test_an_unknown_instruction_is_named_and_never_skipped(opcode: str):
    with pytest.raises(UnknownInstruction, match=rf"^k, line \d+, `{opcode} .*{opcode} is not known"):
        execute(f"mov.b32 %r1, 0; {opcode} %r2, %r1, %r1;")


def test_an_unknown_instruction_is_named_where_no_lane_comes_by():
    with pytest.raises(UnknownInstruction, match=r"ex2\.approx\.f32 is not known"):
        execute("bra END; ex2.approx.f32 %r1, %r1; END:")
