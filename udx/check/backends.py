"""What each backend makes of an exported detector: one file, read in three ways."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from udx.build.partition import Kernel, partition
from udx.build.plugins import plugin_nodes, require_operators
from udx.errors import UdxError
from udx.operators import DOMAIN
from udx.runtime.cost import skeleton_of, with_shapes
from udx.runtime.onnx_file import OnnxFile, with_weights_inside

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class Bodies:
    """The file runs as it is, and its ``udx`` nodes as their function bodies: ``operators`` nodes in all.

    ``in_fp32`` says that FP16 is computed in FP32 nevertheless.
    """

    functions: Mapping[str, int]
    operators: int
    in_fp32: bool

    def __str__(self) -> str:
        nodes = sum(self.functions.values())
        custom = f", its {_count(nodes, 'udx node')} as function bodies" if nodes else ""
        halves = "; computes FP16 in FP32, for it has few FP16 kernels for the CPU" if self.in_fp32 else ""
        return f"runs the file as it is{custom}: {self.operators} operators in all{halves}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugins:
    """The graph becomes one network; every ``udx`` node becomes the plugin of its name, compiled ahead of time."""

    plugins: Mapping[str, int]
    nodes: int

    def __str__(self) -> str:
        if not self.plugins:
            return f"builds one engine of {self.nodes} nodes, and takes no plugin"
        names = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in self.plugins.items())
        count = _count(sum(self.plugins.values()), "plugin")
        return f"builds one engine of {self.nodes} nodes, with {count} of namespace {DOMAIN!r} inside: {names}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The graph is cut at its ``udx`` nodes: ``segments`` gives the nodes of each engine, ``kernels`` the launches.

    ``fixed`` are the dimensions that the file leaves open and a plan does not, with their sizes.
    """

    segments: Mapping[str, int]
    kernels: tuple[str, ...]
    fixed: Mapping[str, int]

    def __str__(self) -> str:
        engines = ", ".join(str(nodes) for nodes in self.segments.values())
        fixed = "".join(f"; {name} fixed at {size}" for name, size in self.fixed.items())
        return (
            f"builds {_count(len(self.segments), 'segment')} ({engines} nodes) and launches "
            f"{_count(len(self.kernels), 'kernel')} between them: {', '.join(self.kernels) or 'none'}{fixed}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The backend cannot take the file."""

    why: str

    def __str__(self) -> str:
        return f"cannot take this file: {self.why}"


Reading = Bodies | Plugins | Parts | Refused


def readings(file: OnnxFile) -> dict[str, Reading]:
    """What each backend does with a checked file, by the backends' names."""
    return {
        "onnxruntime": _read(lambda: _bodies(file, on_cpu=True)),
        "onnxruntime-cuda": _read(lambda: _bodies(file, on_cpu=False)),
        "tensorrt": _read(lambda: _plugins(file)),
        "tensorrt-rtx": _read(lambda: _parts(file)),
    }


def _read(reading: Callable[[], Reading]) -> Reading:
    try:
        return reading()
    except UdxError as error:
        return Refused(why=str(error))


def _bodies(file: OnnxFile, *, on_cpu: bool) -> Bodies:
    inlined = with_shapes(skeleton_of(file.model), inline=True).graph
    halves = file.manifest.precision.precision == "fp16"
    return Bodies(functions=_custom(file.model), operators=len(inlined.node), in_fp32=halves and on_cpu)


def _plugins(file: OnnxFile) -> Plugins:
    require_operators(file.manifest, file.path)
    found = Counter(layer.plugin.name for layer in plugin_nodes(file.model, file.path))
    return Plugins(plugins=dict(found), nodes=len(file.model.graph.node))


def _parts(file: OnnxFile) -> Parts:
    require_operators(file.manifest, file.path)
    cut = partition(with_weights_inside(file), file.manifest.dynamic)
    return Parts(
        segments={segment.name: len(segment.model.graph.node) for segment in cut.segments},
        kernels=tuple(step.launch.kernel for step in cut.steps if isinstance(step, Kernel)),
        fixed=file.manifest.dynamic,
    )


def _custom(model: "onnx.ModelProto") -> dict[str, int]:
    return dict(Counter(node.op_type for node in model.graph.node if node.domain == DOMAIN))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
