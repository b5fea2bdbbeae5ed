"""What TensorRT-RTX's library says of itself: which GPUs it supports, and whether an engine runs on the one here."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

from udx.errors import MissingHardwareError, UdxError
from udx.runtime.engine_log import logger

MODULE: Final = "tensorrt_rtx_bindings"
OTHER_BACKENDS: Final = "use --backend tensorrt or --backend onnxruntime-cuda on this GPU"

MADE_FOR: Final = "it is made for 16-bit types (udx export --precision fp16) and for INT8"
"""What NVIDIA's documentation says of it."""

_ASKED: Final = range(50, 200)
"""Compute capabilities × 10 that the library is asked about: all that exist, and room for later ones."""

_DIAGNOSTICS: Final = (
    ("UNSUPPORTED_CC", "it does not support this GPU's compute capability, or the engine is for others"),
    ("VERSION_MISMATCH", "the engine is of another version of the library"),
    ("OLD_CUDA_DRIVER", "the NVIDIA driver is too old for it"),
    ("OLD_CUDA_RUNTIME", "the CUDA runtime is too old for it"),
    ("INSUFFICIENT_GPU_MEMORY", "the GPU has too little memory"),
    ("MALFORMED_ENGINE", "the engine is damaged"),
    ("CUDA_ERROR", "the NVIDIA driver or the CUDA runtime does not work"),
)
"""What the library finds wrong with an engine, the decisive reason first."""

_ADVICE: Final = {
    "UNSUPPORTED_CC": f"build the plan again without --arch, or {OTHER_BACKENDS}",
    "VERSION_MISMATCH": "build the plan again with the TensorRT-RTX that is here",
    "OLD_CUDA_DRIVER": "update the NVIDIA driver",
    "OLD_CUDA_RUNTIME": "update the NVIDIA driver, and pip install --force-reinstall 'udx[rtx]'",
    "INSUFFICIENT_GPU_MEMORY": "free memory on the GPU (nvidia-smi lists who holds it), or use a smaller detector",
    "MALFORMED_ENGINE": "copy the plan again, or build it again",
    "CUDA_ERROR": "see udx doctor",
}


def supported_capabilities(trt: ModuleType) -> tuple[int, ...]:
    """Ask the library for which compute capabilities (× 10) it builds and runs engines; this needs no GPU.

    Raises:
        UdxError: its builder does not start.
    """
    log, messages = logger(trt)
    messages.clear()
    try:
        config = trt.Builder(log).create_builder_config()
    except TypeError as error:  # how the bindings say that the library returned nothing
        reason = "; ".join(messages.errors[-2:]) or "it gives no reason"
        raise UdxError(f"{trt.__name__} {trt.__version__} cannot start: {reason}; run udx doctor") from error
    config.num_compute_capabilities = 1
    found = tuple(capability for capability in _ASKED if _takes(trt, config, capability))
    messages.clear()  # each refusal is logged as an error
    return found


def _takes(trt: ModuleType, config: Any, capability: int) -> bool:
    try:
        return bool(config.set_compute_capability(trt.ComputeCapability(capability), 0))
    except ValueError:  # the bindings have no such member
        return False


def dotted(capability: int) -> str:
    """A compute capability × 10 as NVIDIA writes it: ``8.9``."""
    return f"{capability // 10}.{capability % 10}"


def listed(capabilities: Sequence[int]) -> str:
    """Several, as ``8.6, 8.9``."""
    return ", ".join(map(dotted, capabilities))


def require_supported(trt: ModuleType, capability: int, gpu: str) -> None:
    """Raise ``MissingHardwareError`` if the library does not support a GPU of this compute capability (× 10)."""
    supported = supported_capabilities(trt)
    if capability not in supported:
        raise MissingHardwareError(
            f"TensorRT-RTX {trt.__version__} does not support compute capability {dotted(capability)} ({gpu}), only "
            f"{listed(supported)}; {OTHER_BACKENDS}"
        )


def require_valid(trt: ModuleType, runtime: Any, engine: bytes, what: str) -> str:
    """Ask the library whether an engine runs here; ``what`` names it in errors.

    Returns:
        ``valid``, or ``suboptimal`` for an engine that runs slower than one that is built here.

    Raises:
        UdxError: it does not run.
    """
    messages = logger(trt)[1]
    messages.clear()
    validity, found = runtime.get_engine_validity(engine)
    if validity != trt.EngineValidity.INVALID:
        return str(validity.name).lower()
    members = trt.EngineInvalidityDiagnostics.__members__
    names = [name for name, _ in _DIAGNOSTICS if name in members and int(found) & int(members[name])]
    told = dict(_DIAGNOSTICS)
    reasons = [told[name] for name in names] or messages.errors[-2:] or ["it gives no reason"]
    advice = _ADVICE[names[0]] if names else "see udx doctor"
    raise UdxError(f"{what} does not run here, says TensorRT-RTX {trt.__version__}: {', and '.join(reasons)}; {advice}")
