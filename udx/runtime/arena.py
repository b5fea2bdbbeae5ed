"""One arena of memory for all tensors that pass between the steps of a plan, and the proof that none is lost in it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from udx.tensors import TensorSpec

ALIGNMENT: Final = 256
"""Every tensor begins at a multiple of this, as memory from CUDA's own allocator does."""
MAX_BYTES: Final = 64 * 2**30
ITEM_BYTES: Final = {
    "bool": 1, "int8": 1, "uint8": 1, "float16": 2, "bfloat16": 2, "float32": 4, "int32": 4, "int64": 8,
}  # fmt: skip
"""Types of tensors between steps, and the bytes of an element; NumPy alone knows no bfloat16."""


def bytes_of(spec: TensorSpec) -> int:
    """Bytes of a tensor between steps.

    Raises:
        ValueError: it is empty, of no fixed size, or of a type that cannot pass between steps.
    """
    if spec.dtype not in ITEM_BYTES or any(length < 1 for length in spec.shape):
        raise ValueError(f"{spec} cannot pass from one step to another")
    return ITEM_BYTES[spec.dtype] * math.prod(spec.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedTensor:
    """A tensor in the arena; a view is another tensor's memory under another shape.

    Raises:
        ValueError: the tensor is empty or of a type that cannot pass between steps, or its place is none.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    view_of: str | None = None

    def __post_init__(self) -> None:
        if self.offset < 0 or self.offset % ALIGNMENT or self.end > MAX_BYTES:
            raise ValueError(f"{self.spec} cannot lie at byte {self.offset}")

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensor."""
        return bytes_of(self.spec)

    @property
    def end(self) -> int:
        """Byte behind the last."""
        return self.offset + self.num_bytes

    @property
    def spec(self) -> TensorSpec:
        """Name, shape and type."""
        return TensorSpec(self.name, self.shape, self.dtype)

    def overlaps(self, other: "PlacedTensor") -> bool:
        """Whether the two have a byte in common."""
        return self.offset < other.end and other.offset < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(ABC):
    """Something that reads the tensors ``inputs`` and writes the tensors ``outputs``."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @abstractmethod
    def in_place(self) -> Mapping[str, str]:
        """Outputs that are written into the memory of an input, with that input."""


def require_sound_memory(
    tensors: Mapping[str, PlacedTensor], inputs: Sequence[str], outputs: Sequence[str], steps: Sequence[Step]
) -> None:
    """Run the steps on paper: whatever is read must still hold what was written to it.

    ``inputs`` are written once and outlive the frame: they may hold a calibration that is not uploaded again.

    Raises:
        ValueError: a step reads or writes what it must not; the message names it.
    """
    for tensor in tensors.values():
        _require_view(tensor, tensors)
    memory = _Memory(tensors)
    for name in inputs:
        memory.write(name, "the frame")
    for step in steps:
        for name in step.inputs:
            memory.read(name, step.name)
        _require_apart(step, tensors)
        for name in step.outputs:
            memory.write(name, step.name)
    for name in inputs:
        memory.read(name, "the next frame")
    for name in outputs:
        memory.read(name, "the caller")


def _require_view(tensor: PlacedTensor, tensors: Mapping[str, PlacedTensor]) -> None:
    if tensor.view_of is None:
        return
    base = tensors.get(tensor.view_of)
    if base is None or base.view_of is not None or (base.offset, base.end) != (tensor.offset, tensor.end):
        raise ValueError(f"{tensor.name} is no view of {tensor.view_of}")


def _require_apart(step: Step, tensors: Mapping[str, PlacedTensor]) -> None:
    """A step's outputs lie apart from each other and from its inputs, but for those that are written in place."""
    in_place = step.in_place()
    for name in step.outputs:
        output, replaced = tensors[name], in_place.get(name)
        if replaced is not None and output.offset != tensors[replaced].offset:
            raise ValueError(f"{step.name} writes {name} in place of {replaced}, and the two lie apart")
        for other in (*step.inputs, *step.outputs):
            if other not in (name, replaced) and output.overlaps(tensors[other]):
                raise ValueError(f"{step.name} writes {name} over {other}")


class _Memory:
    """Which tensors hold their values, and who overwrote those that do not any more."""

    def __init__(self, tensors: Mapping[str, PlacedTensor]) -> None:
        self._tensors = tensors
        self._valid: set[str] = set()
        self._overwritten_by: dict[str, str] = {}

    def write(self, name: str, writer: str) -> None:
        written = self._tensors[name]
        if written.view_of is not None:
            raise ValueError(f"{writer} writes {name}, which is a view")
        lost = {other for other in self._valid if written.overlaps(self._tensors[other])}
        self._overwritten_by |= dict.fromkeys(lost, writer)
        self._valid = self._valid - lost | {name}

    def read(self, name: str, reader: str) -> None:
        holder = self._tensors[name].view_of or name
        if holder not in self._valid:
            writer = self._overwritten_by.get(holder)
            reason = f"which {writer} has overwritten" if writer else "which nothing has written"
            raise ValueError(f"{reader} reads {name}, {reason}")
