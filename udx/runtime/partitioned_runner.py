"""Partitioned plans on the CPU: segments in ONNX Runtime, kernels in NumPy, both on the plan's one arena of memory."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from udx.data.inputs import Tensors
from udx.errors import UdxError, first_line
from udx.runtime.arena import ALIGNMENT
from udx.runtime.isolation import Suspect, check_in_isolation
from udx.runtime.numpy_kernels import require_kernels, run_kernel
from udx.runtime.onnx_file import require_segment
from udx.runtime.onnxruntime_runner import open_session, require_threads, session_settings
from udx.runtime.partitioned import KernelStep, PartitionedFile, PartitionedPlan, SegmentStep, read_partitioned
from udx.runtime.runner import Runner

UNWRITTEN: Final = 0xA5
"""What fresh memory is filled with: whatever reads it unwritten gives nonsense, and not by chance zero."""


class PartitionedRunner(Runner):
    """Runs a plan that was checked; the file is read and checked again when the runner is activated."""

    def __init__(self, file: PartitionedFile, threads: int | None = None) -> None:
        require_threads(threads)
        assert file.plan.backend == "onnxruntime", "plans of other backends have other runners"
        path = file.path
        require_kernels([step.launch for step in file.plan.kernel_steps], str(path))
        for step in file.plan.segments:
            _segment_of(file, step)
        by_name = file.plan.by_name
        super().__init__(
            path,
            file.manifest,
            tuple(by_name[name].spec for name in file.plan.inputs),
            tuple(by_name[name].spec for name in file.plan.outputs),
        )
        self._plan = file.plan
        self._threads = threads
        self._memory: dict[str, NDArray[Any]] = {}
        self._steps: list[Callable[[], None]] = []

    @property
    def settings(self) -> Mapping[str, str | int | None]:
        """As of whole files in ONNX Runtime, and into what the graph was cut."""
        return session_settings("cpu", self._threads) | {
            "segments": len(self._plan.segments),
            "kernels": f"{len(self._plan.kernel_steps)} in NumPy {np.__version__}",
            "arena_bytes": self._plan.arena_bytes,
        }

    def _activate(self) -> None:
        assert not self._steps, "already active"
        file = read_partitioned(self.path)
        if file.plan != self._plan:
            raise UdxError(f"{self.path} has been replaced since it was opened; open it again")
        self._memory = arena_of(self._plan)
        for step in self._plan.steps:
            match step:
                case SegmentStep():
                    self._steps.append(self._segment(step, _segment_of(file, step)))
                case KernelStep():
                    self._steps.append(self._kernel(step))

    def _segment(self, step: SegmentStep, model: bytes) -> Callable[[], None]:
        """A session that reads and writes the arena itself."""
        source = f"{step.name} of {self.path}"
        check_in_isolation(Suspect(content=model, source=source), "run")
        session = open_session(model, source, threads=self._threads)
        binding = session.io_binding()
        for bind, names in ((binding.bind_input, step.inputs), (binding.bind_output, step.outputs)):
            for name in names:
                tensor = self._memory[name]
                bind(name, "cpu", 0, tensor.dtype, tensor.shape, tensor.ctypes.data)

        def run() -> None:
            try:
                session.run_with_iobinding(binding)
            except Exception as error:
                raise UdxError(
                    f"ONNX Runtime failed on {step.name} of {self.path} ({first_line(error)}); free memory or build it "
                    "again"
                ) from error

        return run

    def _kernel(self, step: KernelStep) -> Callable[[], None]:
        inputs, outputs = ([self._memory[name] for name in names] for names in (step.inputs, step.outputs))

        def run() -> None:
            try:
                run_kernel(step.launch, inputs, outputs)
            except (ArithmeticError, LookupError, TypeError, ValueError, MemoryError) as error:
                # The compiled constants of a plan from a stranger may be anything.
                raise UdxError(
                    f"kernel {step.name} of {self.path} cannot run ({first_line(error)}); build the plan again"
                ) from error

        return run

    def _infer(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        assert self._steps, "activate the runner first"
        for name, tensor in tensors.items():
            self._memory[name][...] = tensor
        for step in self._steps:
            step()
        return {name: self._memory[name].copy() for name in self._plan.outputs}

    def _deactivate(self) -> None:
        self._steps = []
        self._memory = {}


def arena_of(plan: PartitionedPlan) -> dict[str, NDArray[Any]]:
    """Every tensor of a plan as a view of one new arena in the host's memory.

    Raises:
        UdxError: there is not so much memory.
    """
    try:
        arena = np.full(plan.arena_bytes + ALIGNMENT, UNWRITTEN, np.uint8)
    except (MemoryError, ValueError) as error:  # NumPy says the latter of what no machine can address
        size = f"{plan.arena_bytes / 2**30:.1f} GiB"
        raise UdxError(f"the plan needs {size} for its tensors, more than is free; free memory") from error
    aligned = arena[-arena.ctypes.data % ALIGNMENT :]
    return {
        tensor.name: aligned[tensor.offset : tensor.end].view(tensor.dtype).reshape(tensor.shape)
        for tensor in plan.tensors
    }


def _segment_of(file: PartitionedFile, step: SegmentStep) -> bytes:
    """The checked model of a segment: a graph with the plan's own inputs and outputs."""
    content = file.members[step.file]
    inputs, outputs = (tuple(file.plan.by_name[name].spec for name in names) for names in (step.inputs, step.outputs))
    require_segment(content, f"{step.file} of {file.path}", inputs, outputs)
    return content
