"""The operators as TensorRT plugins: each node's kernel is compiled ahead of time and embedded in the engine.

``register_plugins()`` before an engine is built lets TensorRT's parser take a plugin for every node of domain ``udx``:
the nodes' attributes name it, and ask for its compiled form. The engine then holds PTX and runs wherever TensorRT
does, ``trtexec`` and C++ included; it needs neither udx nor Python. The PTX is that of sm_80, which runs on every GPU
from Ampere on: these kernels gain nothing from an architecture's own instructions.

``UdxVoxelSums`` and ``UdxPillarMax`` write into the memory of their last input. The builder's configuration must
allow that: ``config.set_preview_feature(tensorrt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True)``, or
``trtexec --preview=+aliasedPluginIO1003``.

For ``tensorrt.plugin`` of TensorRT 10.15 and 11, with NumPy 1.26 or 2. The tests register, create and ask the
plugins with TensorRT's real Python package and plugin registry; what ran where is in ``docs/hardware-status.md``.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing

from udx.errors import UdxError
from udx.launch import INTEGERS, Arithmetic, CompiledKernel, Launch, size_of
from udx.operators import DOMAIN, OPERATORS, Operator, TensorType
from udx.ops.aot import CompiledImage, compiled

PORTABLE_ARCH: Final = 80
MAX_SHARED_BYTES: Final = 48 * 1024
"""More dynamic shared memory than this needs an attribute on the function, which TensorRT does not set."""

TENSORRT_NAMES: Final = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "int32": "INT32"}
"""Types as TensorRT's combinations spell them."""

ATTRIBUTE_ARRAYS: Final[dict[type, Any]] = {
    float: np.ndarray[Any, np.dtype[np.float32]],
    int: np.ndarray[Any, np.dtype[np.int32]],
}
"""Attributes are declared as arrays, because TensorRT's parser passes them as arrays of shape (1,).

Declared as ``float``, TensorRT before 11.2 calls ``float(array)``, which NumPy 2.4 and later refuse; declared as
``NDArray[numpy.float32]``, it asks ``issubclass`` of what is no class since NumPy 2.5. Importing ``numpy.typing`` here
is needed, too: TensorRT 11.2 and later read it without importing it.
"""

Compiler = Callable[[Launch], CompiledImage]


def portable(launch: Launch) -> CompiledImage:
    """Compile a launch to PTX for Ampere and everything later."""
    (image,) = compiled([(launch, PORTABLE_ARCH)])
    return image


def register_plugins(compiler: Compiler = portable) -> None:
    """Register every operator with TensorRT's plugin registry, once a process; calling it again changes nothing.

    Raises:
        UdxError: TensorRT is not installed, or is too old for plugins that are compiled ahead of time.
    """
    try:
        import tensorrt as trt
        import tensorrt.plugin as trtp
    except ImportError as missing:
        raise UdxError(f"TensorRT is not installed ({missing}); pip install tensorrt") from missing
    if not hasattr(trtp, "aot_impl"):
        raise UdxError(f"TensorRT {trt.__version__} embeds no compiled plugins; pip install 'tensorrt>=10.15'")
    registered = getattr(trtp.op, DOMAIN, None)
    for kind in OPERATORS:
        if not hasattr(registered, kind.name):
            _register(kind, compiler)


# -- what the plugins answer, in plain Python --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchParameters:
    """Grid, block and integer arguments; grid and integers are symbols where dimensions are."""

    grid: tuple[Any, Any, Any]
    block: tuple[int, int, int]
    shared_bytes: int
    scalars: tuple[Any, ...]


def launch_parameters(
    kernel: CompiledKernel, shapes: Mapping[str, Sequence[Any]], arithmetic: Arithmetic = INTEGERS
) -> LaunchParameters:
    """How to launch a kernel on inputs of these shapes."""
    assert kernel.shared_bytes <= MAX_SHARED_BYTES, f"{kernel.entry} needs {kernel.shared_bytes} bytes of shared memory"
    x, y, z = (size_of(size, shapes, arithmetic) for size in kernel.launch.grid)
    return LaunchParameters(
        grid=(x, y, z),
        block=kernel.block,
        shared_bytes=kernel.shared_bytes,
        scalars=tuple(size_of(scalar.value, shapes, arithmetic) for scalar in kernel.launch.scalars),
    )


def combination(kind: type[Operator]) -> str:
    """The supported types in TensorRT's grammar: inputs and outputs, alternatives side by side."""
    columns = []
    for alternatives in zip(*kind.types, strict=True):
        names = [TENSORRT_NAMES[dtype] for dtype in alternatives]
        columns.append(names[0] if len(set(names)) == 1 else "|".join(names))
    return ", ".join(columns)


# -- the plugins -------------------------------------------------------------------------------------------------------


def _register(kind: type[Operator], compiler: Compiler) -> None:
    """Hand TensorRT three functions; it reads their signatures, which follow from the operator."""
    import tensorrt as trt
    import tensorrt.plugin as trtp

    dtypes = {"float32": trt.float32, "float16": trt.float16, "bfloat16": trt.bfloat16, "int32": trt.int32}
    names = {dtype: name for name, dtype in dtypes.items()}
    arithmetic = _symbolic()
    inputs = len(kind.inputs)
    attributes = kind.attributes()

    def operator(values: Mapping[str, Any]) -> Operator:
        return kind(**{name: form(values[name].reshape(-1)[0]) for name, form in attributes.items()})

    def describe(*descs: trtp.TensorDesc, **values: Any) -> tuple[trtp.TensorDesc, ...]:
        given = kind.named([names.get(desc.dtype, str(desc.dtype)) for desc in descs])
        shapes = _symbols(kind, descs)
        outputs = []
        for output in operator(values).outputs([tensor.dtype for tensor in given]):
            if output.aliases is not None:
                outputs.append(descs[kind.inputs.index(output.aliases)].aliased())
            else:
                shape = tuple(size_of(size, shapes, arithmetic) for size in output.shape)
                outputs.append(trtp.from_shape_expr(shape, dtypes[output.dtype]))
        return tuple(outputs)

    def combinations(*_: Any) -> list[trtp.AutoTuneCombination]:
        return [trtp.AutoTuneCombination(combination(kind), "LINEAR")]

    def implement(*given: Any) -> tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        descs: tuple[trtp.TensorDesc, ...] = given[:inputs]
        values = dict(zip(attributes, given[inputs:-2], strict=True))
        types = [TensorType(names.get(desc.dtype, str(desc.dtype)), tuple(desc.shape)) for desc in descs]
        image = compiler(operator(values).launch(types))
        parameters = launch_parameters(image.kernel, _symbols(kind, descs), arithmetic)
        x, y, z = parameters.grid
        block_x, block_y, block_z = parameters.block
        launch = trtp.KernelLaunchParams(x, y, z, block_x, block_y, block_z, parameters.shared_bytes)
        scalars = trtp.SymIntExprs(len(parameters.scalars))
        for place, scalar in enumerate(parameters.scalars):
            scalars[place] = trtp.SymInt32(scalar)
        return image.kernel.entry, image.ptx.decode(), launch, scalars

    tensors = dict.fromkeys(kind.inputs, trtp.TensorDesc)
    arrays = {name: ATTRIBUTE_ARRAYS[form] for name, form in attributes.items()}
    outputs = {"outputs": _tuple_of(trtp.TensorDesc, len(kind.types[0]) - inputs)}
    compiled_form = tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]
    plugin = f"{DOMAIN}::{kind.name}"
    trtp.register(plugin)(_signed(describe, tensors | arrays, outputs["outputs"]))
    trtp.autotune(plugin)(_signed(combinations, tensors | outputs, list[trtp.AutoTuneCombination]))
    trtp.aot_impl(plugin)(_signed(implement, tensors | arrays | outputs | {"tactic": int}, compiled_form))


def _symbols(kind: type[Operator], descs: Sequence[Any]) -> dict[str, tuple[Any, ...]]:
    """Dimensions of the inputs as TensorRT knows them at that time."""
    return dict(zip(kind.inputs, (tuple(desc.shape_expr) for desc in descs), strict=True))


def _symbolic() -> Arithmetic:
    """Arithmetic on dimensions that TensorRT may know only as symbols."""
    import tensorrt.plugin as trtp

    def cdiv(number: Any, divisor: Any) -> Any:
        return INTEGERS.cdiv(number, divisor) if _known(number, divisor) else trtp.cdiv(number, divisor)

    def maximum(left: Any, right: Any) -> Any:
        return INTEGERS.maximum(left, right) if _known(left, right) else trtp.max(left, right)

    return Arithmetic(cdiv=cdiv, maximum=maximum)


def _known(*numbers: Any) -> bool:
    return all(isinstance(number, int) for number in numbers)


def _signed(function: Callable[..., Any], parameters: Mapping[str, Any], returned: Any) -> Callable[..., Any]:
    """Give a function the signature that TensorRT is to see."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters.items()],
        return_annotation=returned,
    )
    return function


def _tuple_of(kind: Any, length: int) -> Any:
    return tuple[(kind,) * length]  # type: ignore[misc]
