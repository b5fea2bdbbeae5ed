"""A driver for Triton that has no GPU: kernels are compiled as they are for one, and their launch does nothing.

Triton asks its active driver what the current device is, and to load and launch what was compiled. This one answers
for an H100 and keeps what it is given. Tensors are on the CPU; only their types and addresses count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime import driver

MAX_SHARED_BYTES = 227 * 1024
THREADS = 1024


@dataclass(frozen=True, slots=True)
class Compiled:
    """A kernel that was launched: its name, its machine code, and the types of its arguments."""

    name: str
    cubin: bytes
    signature: tuple[str, ...]


@dataclass
class PretendedDriver:
    """What Triton's runtime asks of a driver; ``launched`` is what it was given, in order."""

    arch: int
    launched: list[Compiled] = field(default_factory=list)

    @property
    def utils(self) -> Any:
        return SimpleNamespace(load_binary=self.load_binary, get_device_properties=self.get_device_properties)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": MAX_SHARED_BYTES}

    def load_binary(self, name: str, cubin: bytes, shared: int, device: int, *_: Any) -> tuple[Any, ...]:
        assert cubin.startswith(b"\x7fELF")
        self._loaded = cubin
        return None, None, 0, 0, THREADS

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        """What launches one compiled kernel. Triton makes it before it loads the kernel."""
        signature = tuple(str(kind) for kind in source.signature.values())
        entry: list[Compiled] = []

        def launch(*_: Any) -> None:
            if not entry:
                entry.append(Compiled(metadata.name, self._loaded, signature))
            self.launched.append(entry[0])

        return launch


@contextmanager
def pretended(arch: int = 90) -> Iterator[PretendedDriver]:
    """Let Triton find a GPU of compute capability ``arch`` / 10."""
    from udx.ops.aot import kernels

    before = driver._active
    found = PretendedDriver(arch)
    driver.set_active(found)
    try:
        yield found
    finally:
        driver._active = before
        for kernel in kernels().values():
            kernel.device_caches.clear()
