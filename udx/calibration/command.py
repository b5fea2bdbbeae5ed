"""What ``udx calibrate`` does: to 8 bits, or to FP16."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from udx.calibration import halves, job

Bar = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


def convert(asked: Mapping[str, Any], bar: Bar) -> job.Calibrated | halves.Halved:
    """Convert as the command line asks; FP16 takes those of its options that mean something there.

    Raises:
        UdxError: as ``job.calibrate`` and ``halves.halve``.
    """
    if asked["precision"] != "fp16":
        return job.calibrate(job.Request(**asked), bar)
    own = {field.name for field in dataclasses.fields(halves.Request)}
    return halves.halve(halves.Request(**{name: value for name, value in asked.items() if name in own}), bar)
