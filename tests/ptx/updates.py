"""Atomic instructions: what ``red`` and ``atom`` do to one element of memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tests.ptx.arithmetic import operation
from tests.ptx.formats import RAW, SIGNED, Array, bits_of, is_type

_WORDS = frozenset({"global", "relaxed", "acquire", "release", "acq_rel", "cta", "cluster", "gpu", "sys", "noftz"})
_UNORDERED: Final[dict[str, Any]] = {
    "add": np.add,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
}


@dataclass(frozen=True)
class Update:
    """``change`` takes the old bits and those of ``values`` operands; ``count`` neighbours are changed, one by one.

    ``unordered`` is the same as a function on integers, of which the order does not matter.
    """

    kind: str
    count: int
    values: int
    change: Callable[..., Array]
    unordered: np.ufunc | None
    unordered_type: type[np.generic] | Any


def update_of(opcode: tuple[str, ...]) -> Update | None:
    """Return what an atomic instruction does, or ``None`` if it is not known."""
    name, *parts = opcode
    if "global" not in parts:
        return None
    types = [part for part in parts if is_type(part)]
    words = [part for part in parts if part not in _WORDS and not is_type(part)]
    counts = [int(word[1]) for word in words if word in ("v2", "v4", "v8")]
    words = [word for word in words if word not in ("v2", "v4", "v8")]
    if len(types) != 1 or len(words) != 1 or len(counts) > 1:
        return None
    (kind,), (does,) = types, words
    count = counts[0] if counts else 1
    if does == "exch" and name == "atom" and kind in ("b32", "b64"):
        return Update(kind, count, 1, lambda old, new: new, None, None)
    if does == "cas" and name == "atom" and kind in ("b16", "b32", "b64"):
        return Update(kind, count, 2, lambda old, expected, new: np.where(old == expected, new, old), None, None)
    if does in ("and", "or", "xor", "add", "min", "max"):
        if does in ("and", "or", "xor") and kind not in ("b32", "b64"):
            return None
        found = operation((does, kind) if kind[0] in "sub" and kind != "bf16" else (does, "rn", kind))
        if found is None and does in ("min", "max"):
            found = operation((does, kind))
        if found is None:
            return None
        whole = kind[0] in "sub" and not kind.startswith("bf")
        integer = (SIGNED if kind[0] == "s" else RAW)[bits_of(kind)] if whole else None
        return Update(kind, count, 1, found.function, _UNORDERED.get(does) if whole else None, integer)
    return None
