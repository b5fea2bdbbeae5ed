"""What the interpreter refuses. Every error names the kernel and the line of its PTX."""

from collections.abc import Sequence


class PtxError(Exception):
    """A program that cannot be run as it is, or does what no program may do."""


class UnknownInstruction(PtxError):
    """An opcode, or a form of it, that the interpreter does not know; it is never skipped."""


class OutOfBounds(PtxError):
    """An access to memory that belongs to no allocation."""


class Misaligned(PtxError):
    """An access to an address that is no multiple of the access's size."""


class ReadOnly(PtxError):
    """A write to an input."""


class Uninitialized(PtxError):
    """A read of a register or of global memory that nobody has written."""


class Race(PtxError):
    """Two lanes use one shared address, one of them writes, and nothing orders the two."""


class Divergence(PtxError):
    """Lanes that must execute an instruction together do not, or wait for each other for ever."""


class Endless(PtxError):
    """A launch executes more instructions than its limit."""


class Fault(Exception):
    """An error of one lane of a group, before kernel and line are known.

    Args:
        kind: the ``PtxError`` that it becomes.
        position: which lane of the group that executes the instruction.
        message: what happened, to be read after "lane N of block B".
    """

    def __init__(self, kind: type[PtxError], position: int, message: str) -> None:
        super().__init__(message)
        self.kind, self.position, self.message = kind, position, message


def located(kind: type[PtxError], kernel: str, line: int, text: str, message: str) -> PtxError:
    """An error that begins with the kernel, the line of its PTX and the instruction."""
    return kind(f"{kernel}, line {line}, `{text}`: {message}")


def listed(names: Sequence[str]) -> str:
    """Names in an error's text."""
    return ", ".join(names) or "none"
