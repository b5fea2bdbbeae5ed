"""Compiled kernels and how they are launched: arguments in order, and sizes as functions of the inputs' shapes.

``python -m udx.ops.compile`` writes ``kernels.json`` with one ``CompiledKernel`` for every PTX and cubin beside it;
whoever launches them needs this module and no compiler. A *size* is text such as
``cdiv(max(points[0] * points[1], cleared[0]), 256)``: an input's name with an index is one of its dimensions,
whole numbers and ``+ - *`` are themselves, ``cdiv`` divides and rounds up, ``max`` is the larger one.
"""

import ast
import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from udx.config import from_plain, to_plain
from udx.errors import UdxError
from udx.files import read_json, write_json, write_with

FORMAT: Final = "udx-kernels/1"
INDEX: Final = "kernels.json"
MAX_KERNEL_BYTES: Final = 64 * 2**20
MAX_SIZE_TEXT: Final = 200
"""Characters of a size; those of the operators have fewer than 60."""
MAX_GRID: Final = (2**31 - 1, 65535, 65535)
"""CUDA's limits on the three axes of a grid."""

_OPERATIONS: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """``cdiv`` and ``max`` for the numbers that stand for dimensions: integers, or an engine builder's symbols."""

    cdiv: Callable[[Any, Any], Any]
    maximum: Callable[[Any, Any], Any]


INTEGERS: Final = Arithmetic(cdiv=lambda number, divisor: -(-number // divisor), maximum=max)


def size_of(text: str, shapes: Mapping[str, Sequence[Any]], arithmetic: Arithmetic = INTEGERS) -> Any:
    """Value of a size for the inputs' shapes.

    Raises:
        UdxError: the text is not a size, or names an input or dimension that there is not.
    """
    try:
        if len(text) > MAX_SIZE_TEXT:
            raise SyntaxError("too long")
        return _evaluate(ast.parse(text, mode="eval").body, shapes, arithmetic)
    except (SyntaxError, ValueError, KeyError, IndexError, ZeroDivisionError, RecursionError, MemoryError) as error:
        inputs = ", ".join(shapes)
        raise UdxError(
            f"{text[:MAX_SIZE_TEXT]!r} is not a size of the inputs {inputs} ({error}); compile the kernels again"
        ) from error


def _evaluate(node: ast.expr, shapes: Mapping[str, Sequence[Any]], arithmetic: Arithmetic) -> Any:
    match node:
        case ast.Constant(value=int() as number):
            return number
        case ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=int() as axis)):
            return shapes[name][axis]
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() as kind, right=right):
            operate = _OPERATIONS[type(kind)]
        case ast.Call(func=ast.Name(id="cdiv"), args=[left, right], keywords=[]):
            operate = arithmetic.cdiv
        case ast.Call(func=ast.Name(id="max"), args=[left, right], keywords=[]):
            operate = arithmetic.maximum
        case _:
            raise SyntaxError(f"{ast.unparse(node)} is not allowed")
    return operate(_evaluate(left, shapes, arithmetic), _evaluate(right, shapes, arithmetic))


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A pointer to a dense tensor on the device, aligned to 16 bytes; ``dtype`` as numpy spells it, or bfloat16."""

    name: str
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """A 32-bit integer argument; ``value`` is a size."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A pointer to memory for a tensor whose dimensions are sizes; with ``aliases`` it is that input's memory."""

    name: str
    dtype: str
    shape: tuple[str, ...]
    aliases: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One kernel for given types and constants. The arguments are the inputs, then scalars, then outputs.

    ``constants`` are compiled in; a word names a type of the accumulator. ``grid`` holds three sizes. A thread gets
    ``max_registers``; without a bound the assembler chooses, and may rather spill than let fewer warps run.
    """

    kernel: str
    inputs: tuple[Input, ...]
    scalars: tuple[Scalar, ...]
    outputs: tuple[Output, ...]
    constants: dict[str, Any]
    grid: tuple[str, str, str]
    num_warps: int
    max_registers: int | None = None

    def __post_init__(self) -> None:
        strange = [name for name, value in self.constants.items() if not isinstance(value, int | float | str)]
        if strange:
            raise ValueError(f"constant {strange[0]} of {self.kernel} is neither a number nor a word")

    def scalars_for(self, shapes: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
        """Scalar arguments for inputs of these shapes."""
        return tuple(size_of(scalar.value, shapes) for scalar in self.scalars)

    def outputs_for(self, shapes: Mapping[str, Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        """Shapes of the outputs for inputs of these shapes."""
        return tuple(tuple(size_of(size, shapes) for size in output.shape) for output in self.outputs)

    def grid_for(self, shapes: Mapping[str, Sequence[int]]) -> tuple[int, int, int]:
        """Grid for inputs of these shapes.

        Raises:
            UdxError: an axis is longer than CUDA allows, or empty.
        """
        x, y, z = (size_of(size, shapes) for size in self.grid)
        if not all(1 <= axis <= limit for axis, limit in zip((x, y, z), MAX_GRID, strict=True)):
            raise UdxError(f"{self.kernel} cannot be launched on a grid of {x} × {y} × {z}; use inputs of another size")
        return x, y, z


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFile:
    """A file beside ``kernels.json``."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledKernel:
    """A kernel for one GPU architecture.

    ``entry`` is the function's name in both files, ``block`` its threads. ``target`` is what the PTX says:
    with a letter at its end it runs on that architecture alone, without it also on all later ones.
    The scratch sizes are 0: no memory is passed but the arguments.
    """

    launch: Launch
    entry: str
    arch: int
    target: str
    ptx_version: str
    block: tuple[int, int, int]
    shared_bytes: int
    registers: int
    spill_bytes: int
    global_scratch_bytes: int
    profile_scratch_bytes: int
    ptx: KernelFile
    cubin: KernelFile


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelLibrary:
    """What stands in ``kernels.json``, and the version of Triton that compiled it."""

    triton: str
    kernels: tuple[CompiledKernel, ...]
    format: str = FORMAT

    def find(self, launch: Launch, arch: int) -> CompiledKernel:
        """Return the kernel that was compiled from ``launch`` for ``arch``.

        Raises:
            UdxError: there is none.
        """
        for kernel in self.kernels:
            if kernel.launch == launch and kernel.arch == arch:
                return kernel
        raise UdxError(
            f"the library has no {launch.kernel} of these types and sizes for sm_{arch}; compile it with "
            f"python -m udx.ops.compile --arch {arch}"
        )


def write_library(folder: Path, library: KernelLibrary, images: Mapping[str, bytes]) -> None:
    """Write the files and then the index, so that an index never names a file that is not there yet."""
    for name, image in images.items():
        write_with(folder / name, lambda partial, image=image: partial.write_bytes(image))  # type: ignore[misc]
    write_json(folder / INDEX, to_plain(library))


def read_library(folder: Path) -> KernelLibrary:
    """Read an index.

    Raises:
        UdxError: it is missing, damaged, or of another format.
    """
    path = folder / INDEX
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise UdxError(f"{path} is not an index of format {FORMAT!r}; compile the kernels again")
    return from_plain(KernelLibrary, value, str(path))


def read_image(folder: Path, file: KernelFile) -> bytes:
    """Read a PTX or cubin after checking its hash.

    Raises:
        UdxError: the file is missing, outside the folder, or is not what was written.
    """
    path = folder / file.name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UdxError(f"{folder / INDEX} names {file.name}, which is outside the folder; do not use it")
    try:
        if path.stat().st_size > MAX_KERNEL_BYTES:
            raise UdxError(f"{path} is larger than {MAX_KERNEL_BYTES >> 20} MiB: not a kernel; compile it again")
        image = path.read_bytes()
    except OSError as error:
        raise UdxError(f"cannot read {path}: {error.strerror}; compile the kernels again") from error
    if hashlib.sha256(image).hexdigest() != file.sha256:
        raise UdxError(f"{path} is damaged (its SHA-256 differs from the index); compile the kernels again")
    return image
