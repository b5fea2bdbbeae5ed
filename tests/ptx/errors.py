"""What the interpreter refuses. Every error names the kernel and the line of its PTX."""

from collections.abc import Sequence


class PtxError(Exception):
    """The program cannot be executed, or does something that is an error on every GPU."""


class UnknownInstruction(PtxError):
    """The interpreter does not know an opcode, or this form of it."""


class OutOfBounds(PtxError):
    """An access is not inside one allocation."""


class Misaligned(PtxError):
    """The address of an access is not a multiple of its size."""


class ReadOnly(PtxError):
    """A kernel writes to an input."""


class Uninitialized(PtxError):
    """A kernel reads a register or global memory that was never written."""


class Race(PtxError):
    """Two lanes access one shared address without a barrier between, and one of them writes."""


class Divergence(PtxError):
    """Lanes that must execute an instruction together never do."""


class Endless(PtxError):
    """A launch executes more instructions than the limit."""


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
    """Build an error that begins with the kernel, the line of its PTX and the instruction."""
    return kind(f"{kernel}, line {line}, `{text}`: {message}")


def listed(names: Sequence[str]) -> str:
    """Names in an error's text."""
    return ", ".join(names) or "none"
