"""What ``udx calibrate`` does: to 8 bits, or to FP16."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

from udx.arguments import refuse_options
from udx.calibration import halves, job

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


SEARCH: Final = ("judged", "max_map_drop")
"""What the search for a skip list alone uses."""


def require_used(asked: Mapping[str, Any], given: frozenset[str]) -> None:
    """Refuse options that were given and mean nothing in the mode that the others choose.

    Args:
        asked: all options.
        given: names of those that stand on the command line.

    Raises:
        UdxError: there is such an option.
    """
    if asked["precision"] == "fp16":
        unused = ("method", "learn", "teacher", "steps", "plain", *SEARCH)
        refuse_options(given, unused, "is for INT8 and FP8, and --precision fp16 makes no use of it")
    if asked["like"] is not None:
        refuse_options(given, ("plain", *SEARCH), "is for a skip list of its own, and --like takes over another's")
    if asked["plain"]:
        refuse_options(given, SEARCH, "is for the skip list, and --plain makes none")
    if asked["learn"] is None:
        refuse_options(given, ("steps",), "is for training under quantization, and --learn names no run")


def convert(asked: Mapping[str, Any], bar: Bar) -> job.Calibrated | halves.Halved:
    """Convert as the command line asks; FP16 takes those of its options that mean something there.

    Raises:
        UdxError: as ``job.calibrate`` and ``halves.halve``.
    """
    if asked["precision"] != "fp16":
        return job.calibrate(job.Request(**asked), bar)
    own = {field.name for field in dataclasses.fields(halves.Request)}
    return halves.halve(halves.Request(**{name: value for name, value in asked.items() if name in own}), bar)
