"""Look at this machine."""

from collections.abc import Callable

from udx.doctor.ask import ask_all
from udx.doctor.diagnosis import Diagnosis
from udx.doctor.machine import this_machine
from udx.doctor.verdicts import diagnose


def examine(progress: Callable[[int, int], None]) -> Diagnosis:
    """Ask every library that is installed, and draw the conclusions; takes about a second."""
    return diagnose(this_machine(), ask_all(progress))
