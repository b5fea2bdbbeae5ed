"""Plans for the GPU's stand-in: those for the CPU, with their segments as engines and kernels that name themselves."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.build.plans import build_plan, rewrite
from udx.config import to_plain
from udx.launch import CompiledKernel, KernelFile, KernelLibrary, Launch
from udx.runtime.partitioned import KERNELS, PORTABLE, read_partitioned

VERSION = "1.7.1.116"


def compiled(
    launch: Launch, arch: int, target: str | None = None, shared: int = 0
) -> tuple[CompiledKernel, dict[str, bytes]]:
    """A kernel and its two files, which say what they are."""
    members, files = {}, {}
    for kind in ("ptx", "cubin"):
        content = json.dumps({"kernel": launch.kernel, "arch": arch, "kind": kind}).encode()
        digest = sha256(content + json.dumps(to_plain(launch)).encode()).hexdigest()
        files[kind] = KernelFile(
            name=f"sm_{arch}/{launch.kernel}-{digest[:8]}.{kind}", sha256=sha256(content).hexdigest()
        )
        members[KERNELS + files[kind].name] = content
    kernel = CompiledKernel(
        launch=launch, entry=f"{launch.kernel}_{arch}", arch=arch, target=target or f"sm_{arch}", ptx_version="7.0",
        block=(32 * launch.num_warps, 1, 1), shared_bytes=shared, registers=32, spill_bytes=0, global_scratch_bytes=0,
        profile_scratch_bytes=0, ptx=files["ptx"], cubin=files["cubin"],
    )  # fmt: skip
    return kernel, members


def rtx_plan(file: Path, out: Path, arches: tuple[int, ...] = PORTABLE, shared: int = 0) -> Path:
    """A plan of TensorRT-RTX, as far as the stand-in can tell."""
    cpu = build_plan(file, out).path
    launches: list[Launch] = []
    for step in read_partitioned(cpu).plan.kernel_steps:
        if step.launch not in launches:
            launches.append(step.launch)
    members: dict[str, bytes] = {}
    kernels = []
    for launch in launches:
        for arch in arches:
            kernel, its = compiled(launch, arch, shared=shared)
            kernels.append(kernel)
            members |= its

    def change(index: dict[str, Any]) -> None:
        library = to_plain(KernelLibrary(triton="3.6.0", kernels=tuple(kernels))) if kernels else None
        index |= {
            "backend": "tensorrt-rtx",
            "backend_version": VERSION,
            "capabilities": list(arches),
            "kernels": library,
        }

    return rewrite(cpu, change, members)
