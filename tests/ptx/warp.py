"""Instructions that exchange registers within a warp, as functions on arrays (warps, 32)."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.ptx.arithmetic import Operation
from tests.ptx.formats import SIGNED, Array

LANE = np.arange(32)


def warp_operation(opcode: tuple[str, ...]) -> Operation | None:
    """Return what an instruction computes across a warp, or ``None``; the mask of lanes is not among its sources."""
    match opcode:
        case ("shfl", "sync", ("up" | "down" | "bfly" | "idx") as mode, "b32"):
            return Operation(("b32", "b32", "b32"), "b32", _shuffle(mode))
        case ("redux", "sync", does, kind) if (does, kind[0]) in _REDUCTIONS and kind[1:] == "32":
            return Operation((kind,), kind, _reduction(does, kind))
        case ("vote", "sync", ("all" | "any" | "uni") as mode, "pred"):
            return Operation(("pred",), "pred", _vote(mode))
        case ("vote", "sync", "ballot", "b32"):
            return Operation(("pred",), "b32", _ballot)
    return None


_REDUCTIONS = {
    (does, kind): does
    for does, kinds in {"add": "su", "min": "su", "max": "su", "and": "b", "or": "b", "xor": "b"}.items()
    for kind in kinds
}


def _shuffle(mode: str) -> Callable[..., tuple[Array, Array]]:
    def shuffled(value: Array, distance: Array, limits: Array) -> tuple[Array, Array]:
        step, clamp = (distance & np.uint32(31)).astype(np.intp), (limits & np.uint32(31)).astype(np.intp)
        segment = ((limits >> np.uint32(8)) & np.uint32(31)).astype(np.intp)
        first = LANE & segment
        last = first | (clamp & ~segment & 31)
        match mode:
            case "up":
                source = LANE - step
                within = source >= last
            case "down":
                source = LANE + step
                within = source <= last
            case "bfly":
                source = LANE ^ step
                within = source <= last
            case _:
                source = first | (step & ~segment & 31)
                within = source <= last
        place = np.where(within, source, LANE)
        return np.take_along_axis(value, place, axis=1), within

    return shuffled


def _reduction(does: str, kind: str) -> Callable[[Array], Array]:
    functions: dict[str, Any] = {
        "add": np.add,
        "min": np.minimum,
        "max": np.maximum,
        "and": np.bitwise_and,
        "or": np.bitwise_or,
        "xor": np.bitwise_xor,
    }
    ufunc = functions[does]

    def reduced(value: Array) -> Array:
        typed = value.view(SIGNED[32]) if kind[0] == "s" else value
        result = ufunc.reduce(typed, axis=1, keepdims=True, dtype=typed.dtype)
        return np.broadcast_to(result, value.shape).astype(typed.dtype).view(np.uint32)

    return reduced


def _vote(mode: str) -> Callable[[Array], Array]:
    def voted(value: Array) -> Array:
        every, some = value.all(axis=1, keepdims=True), value.any(axis=1, keepdims=True)
        result = {"all": every, "any": some, "uni": every | ~some}[mode]
        return np.broadcast_to(result, value.shape).copy()

    return voted


def _ballot(value: Array) -> Array:
    bits = (value.astype(np.uint32) << LANE.astype(np.uint32)).sum(axis=1, keepdims=True, dtype=np.uint32)
    return np.broadcast_to(bits, value.shape).copy()
