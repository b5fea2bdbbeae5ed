"""From a launch to PTX and cubin, for any NVIDIA GPU and on a machine that has none.

A driver refuses PTX of a newer ISA than its own. Each architecture's PTX is therefore written in the oldest ISA that
has it (``PTX_VERSIONS``): for sm_80 that is 7.0, which every driver since CUDA 11.0 takes, and with it every GPU from
Ampere on. Triton writes 90 and above as sm_90a and so on, for that architecture alone: 80 is the portable PTX.

Triton appends two pointers to every kernel's parameters, scratch memory that these kernels do not use. They are taken
out again: TensorRT passes a kernel its inputs, integers and outputs and nothing else.
"""

import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

from udx.config import to_plain
from udx.errors import UdxError
from udx.launch import CompiledKernel, KernelFile, Launch
from udx.workers import end_with_parent

PTX_VERSIONS: Final = {80: 70, 86: 71, 87: 74, 89: 78, 90: 80, 100: 86, 103: 88, 120: 87, 121: 88}
"""For each architecture the oldest PTX ISA that has it, times ten."""

POINTER_TYPES: Final = {
    "float32": "*fp32",
    "float16": "*fp16",
    "bfloat16": "*bf16",
    "int32": "*i32",
}
HIDDEN_POINTERS: Final = 2

_ENTRY = re.compile(r"^\.visible \.entry (?P<name>\w+)\((?P<parameters>[^)]*)\)", re.MULTILINE)
_PARAMETER = re.compile(r"\.param \.(?P<type>\w+)[^,]*?(?P<name>\w+)\s*$")


@dataclass(frozen=True, slots=True)
class CompiledImage:
    """A kernel's record and the bytes of its two files."""

    kernel: CompiledKernel
    ptx: bytes
    cubin: bytes


def compiled(jobs: Sequence[tuple[Launch, int]]) -> Iterator[CompiledImage]:
    """Compile launches for architectures, several at a time; the results come in the order of the jobs.

    Raises:
        UdxError: an architecture is not known, or Triton is not installed or runs as an interpreter.
    """
    try:
        from triton import knobs
    except ImportError as missing:
        raise UdxError("Triton compiles the kernels and is not installed; pip install triton") from missing
    if knobs.runtime.interpret:
        raise UdxError("Triton runs as an interpreter here, which compiles nothing; unset TRITON_INTERPRET")
    unknown = [arch for _, arch in jobs if arch not in PTX_VERSIONS]
    if unknown:
        raise UdxError(f"sm_{unknown[0]} is not a target; choose from {', '.join(map(str, PTX_VERSIONS))}")
    # Processes, not threads: Triton parses the kernels' source, and Python 3.11's parser fails now and then where
    # several threads of one process parse ("AST constructor recursion depth mismatch").
    workers = min(len(jobs), len(os.sched_getaffinity(0)))
    if workers < 2:
        yield from (_image(job) for job in jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        yield from pool.map(_image, jobs)


def _image(job: tuple[Launch, int]) -> CompiledImage:
    from triton import knobs

    launch, arch = job
    with knobs.compilation.scope():
        # Line numbers would put this machine's paths into the files.
        knobs.compilation.disable_line_info = True
        return _assembled(launch, arch)


def _assembled(launch: Launch, arch: int) -> CompiledImage:
    result = _compile(launch, arch)
    found = result.metadata
    assert found.global_scratch_size == found.profile_scratch_size == 0, "the kernels need no scratch memory"
    arguments = len(launch.inputs) + len(launch.scalars) + len(launch.outputs)
    ptx = without_hidden_pointers(result.asm["ptx"], arguments)
    cubin, log = _assemble(ptx, arch)
    stem = f"sm_{arch}/{launch.kernel}-{_digest(json.dumps(to_plain(launch)).encode())[:8]}"
    kernel = CompiledKernel(
        launch=launch,
        entry=found.name,
        arch=arch,
        target=_found(r"^\.target (\w+)", ptx),
        ptx_version=_found(r"^\.version ([\d.]+)", ptx),
        block=(32 * found.num_warps, 1, 1),
        shared_bytes=found.shared,
        registers=int(_found(r"Used (\d+) registers", log)),
        spill_bytes=sum(int(size) for size in re.findall(r"(\d+) bytes spill", log)),
        global_scratch_bytes=found.global_scratch_size,
        profile_scratch_bytes=found.profile_scratch_size,
        ptx=KernelFile(name=f"{stem}.ptx", sha256=_digest(ptx.encode())),
        cubin=KernelFile(name=f"{stem}.cubin", sha256=_digest(cubin)),
    )
    return CompiledImage(kernel, ptx.encode(), cubin)


def without_hidden_pointers(ptx: str, arguments: int) -> str:
    """Take the two scratch pointers out of the parameters of the entry, which has ``arguments`` of its own.

    They are the last two, and nothing may read them; both is asserted, and an assembler proves the rest.
    """
    entry = _ENTRY.search(ptx)
    assert entry is not None, "the PTX has no entry"
    parameters = entry["parameters"].split(",")
    assert len(parameters) == arguments + HIDDEN_POINTERS, f"{entry['name']} has {len(parameters)} parameters"
    for parameter in parameters[arguments:]:
        found = _PARAMETER.search(parameter)
        assert found is not None and found["type"] == "u64", f"{parameter.strip()} is not a hidden pointer"
        assert not re.search(rf"\b{found['name']}\b", ptx[entry.end() :]), f"{found['name']} is read"
    kept = ",".join(parameters[:arguments]) + "\n"
    return ptx[: entry.start("parameters")] + kept + ptx[entry.end("parameters") :]


def _compile(launch: Launch, arch: int) -> Any:
    """Let Triton compile, for pointers aligned to 16 bytes and integers of any value."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types = {tensor.name: POINTER_TYPES[tensor.dtype] for tensor in launch.inputs}
    types |= {scalar.name: "i32" for scalar in launch.scalars}
    types |= {tensor.name: POINTER_TYPES[tensor.dtype] for tensor in launch.outputs}
    aligned = {(place,): [["tt.divisibility", 16]] for place, kind in enumerate(types.values()) if kind[0] == "*"}
    constants = {name: _constant(value) for name, value in launch.constants.items()}
    source = ASTSource(
        fn=kernels()[launch.kernel],
        signature=types | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs=aligned,
    )
    options = {
        "num_warps": launch.num_warps,
        "maxnreg": launch.max_registers,
        "ptx_version": PTX_VERSIONS[arch],
        "enable_fp_fusion": False,
    }
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def kernels() -> dict[str, Any]:
    """Every kernel by its name."""
    from udx.ops.kernels import bev_pool, pillar_features, pillar_scatter, voxelize

    modules = (bev_pool, pillar_features, pillar_scatter, voxelize)
    return {name: item for module in modules for name, item in vars(module).items() if name.endswith("_kernel")}


def _constant(value: float | int | str) -> Any:
    import triton.language as tl

    return getattr(tl, value) if isinstance(value, str) else value


def _assemble(ptx: str, arch: int) -> tuple[bytes, str]:
    """Cubin of a PTX, and what the assembler tells of registers and spills."""
    from triton.backends.nvidia.compiler import get_ptxas

    with tempfile.TemporaryDirectory(prefix="udx-ptxas-") as folder:
        source, image = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx, encoding="utf-8")
        target = _found(r"^\.target (\w+)", ptx)
        command = [get_ptxas(arch).path, "-v", f"--gpu-name={target}", str(source), "-o", str(image)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"ptxas refuses the edited PTX: {done.stderr}"
        return image.read_bytes(), done.stderr


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, f"no {pattern!r} in the compiler's output"
    return found.group(1)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
