"""Engines of TensorRT-RTX for the segments of a graph, built ahead of time: no GPU is needed, and no driver.

By default an engine runs on all GPUs that the library supports; it is finished there when it is loaded, in that GPU's
own instructions. Which these are the library is asked (1.7: compute capability 7.5, 8.0, 8.6, 8.9, 12.0 and 12.1, and
not 9.0). Engines of one version do not run in another. What ran where is in
``docs/hardware-status.md``.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from udx.build.builder import TensorrtSettings, serialized_engine
from udx.build.partition import Segment
from udx.build.watch import Watch
from udx.errors import UdxError
from udx.runtime.partitioned import PORTABLE
from udx.runtime.rtx import listed, supported_capabilities
from udx.tensors import TensorSpec

INSTALL: Final = "pip install 'udx[rtx]'"


def tensorrt_rtx() -> ModuleType:
    """The library.

    Raises:
        UdxError: it is not installed.
    """
    try:
        import tensorrt_rtx_bindings
    except ImportError as error:
        raise UdxError(f"TensorRT-RTX is not installed ({error}); {INSTALL}") from error
    module: ModuleType = tensorrt_rtx_bindings
    return module


def buildable_capabilities(trt: ModuleType) -> tuple[int, ...]:
    """Compute capabilities (× 10) for which the library builds engines, and Triton the kernels between them."""
    from udx.ops.aot import PTX_VERSIONS

    return tuple(capability for capability in supported_capabilities(trt) if capability in PTX_VERSIONS)


def require_capabilities(trt: ModuleType, arches: Sequence[int]) -> None:
    """Raise ``UdxError`` if a plan cannot be built for one of these compute capabilities, or not for all GPUs."""
    known = buildable_capabilities(trt)
    only = ",".join(map(str, known))
    for arch in arches:
        if arch not in known:
            raise UdxError(
                f"TensorRT-RTX {trt.__version__} builds no plans for --arch {arch}, only for {only}; without --arch "
                "they are for all of them, and for other GPUs there is --backend tensorrt"
            )
    if not arches and (missing := [arch for arch in PORTABLE if arch not in known]):
        raise UdxError(
            f"TensorRT-RTX {trt.__version__} supports no compute capability {listed(missing)} any more; choose of "
            f"{only} with --arch"
        )


def build_segment(
    segment: Segment,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    source: Path,
    arches: Sequence[int],
    watch: Watch,
) -> bytes:
    """Build the engine of a segment; the parsed network must have just these inputs and outputs.

    Without ``arches`` the engine is portable. ``source`` names the file that the segment is a part of.

    Raises:
        UdxError: TensorRT-RTX is not installed or refuses the segment, or the build was cancelled.
    """
    trt = tensorrt_rtx()
    return serialized_engine(
        trt,
        segment.model.SerializeToString(deterministic=True),
        source.with_name(f"{source.name}#{segment.name}"),
        # FP32 means FP32: what the file leaves in it (coordinates, decoding) does not bear 10 bits of mantissa.
        settings=TensorrtSettings(tf32=False),
        watch=watch,
        check=lambda network: _require_same(trt, network, (*inputs, *outputs), f"{segment.name} of {source}"),
        configure=lambda config: _configure(trt, config, arches),
    )


def _configure(trt: ModuleType, config: Any, arches: Sequence[int]) -> None:
    """All engines of a plan run in memory that is given to them, so that a CUDA graph may hold the whole frame."""
    config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    config.num_compute_capabilities = len(arches)
    for index, arch in enumerate(arches):
        if not config.set_compute_capability(trt.ComputeCapability(arch), index):
            raise UdxError(f"{trt.__name__} {trt.__version__} refuses compute capability {arch}; leave --arch out")


def _require_same(trt: ModuleType, network: Any, wanted: Sequence[TensorSpec], what: str) -> None:
    """The parser must understand names, types and shapes as the plan does."""
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    tensors += [network.get_output(index) for index in range(network.num_outputs)]
    found = [TensorSpec(tensor.name, tuple(tensor.shape), _dtype(trt, tensor.dtype)) for tensor in tensors]
    if found != list(wanted):
        raise UdxError(
            f"{trt.__name__} {trt.__version__} reads {what} as {', '.join(map(str, found))}, and the plan as "
            f"{', '.join(map(str, wanted))}; export the detector again"
        )


def _dtype(trt: ModuleType, dtype: Any) -> str:
    names = {
        trt.float32: "float32", trt.float16: "float16", trt.bfloat16: "bfloat16", trt.int64: "int64",
        trt.int32: "int32", trt.int8: "int8", trt.uint8: "uint8", trt.bool: "bool",
    }  # fmt: skip
    return names.get(dtype, str(dtype))
