"""Cut a detector's graph at its nodes of domain ``udx``: plain ONNX segments, and kernels between them.

A backend that takes no plugins runs the segments as engines and launches the kernels itself. The number of segments
is the least that is possible: everything that can run before a kernel is in the segment before it. Reshapes of what
the frame or a kernel wrote are no work at all but *views* of the same memory. Constants, and the quantisation of a
tensor, go to the segment that reads them: engines fuse a pair of Q and DQ with the layer behind it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from udx.build.shapes import launch_of, spec_between, tensors_between
from udx.errors import UdxError
from udx.launch import Launch
from udx.operators import DOMAIN
from udx.tensors import TensorSpec, value_info_of

if TYPE_CHECKING:
    import onnx

VIEWS: Final = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"})
QUANTISATION: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Segment:
    """A model of standard operators, and the tensors that it reads and writes."""

    name: str
    model: "onnx.ModelProto"
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A node of domain ``udx``."""

    name: str
    launch: Launch
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Partition:
    """Segments and kernels in an order in which they can run, and every tensor between them.

    ``views`` maps a tensor to the one whose memory it is under another shape.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Segment | Kernel, ...]
    tensors: Mapping[str, TensorSpec]
    views: Mapping[str, str]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The steps that are segments."""
        return tuple(step for step in self.steps if isinstance(step, Segment))

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """The steps that are kernels."""
        return tuple(step for step in self.steps if isinstance(step, Kernel))


def partition(model: "onnx.ModelProto", sizes: Mapping[str, int] | None = None) -> Partition:
    """Cut a checked model with all its weights inside; ``sizes`` fixes the dimensions that it leaves open, by name.

    Raises:
        UdxError: a node is not known to this udx, a shape between two parts is not fixed, or a kernel reads a constant.
    """
    graph = _Graph(model, tensors_between(model, sizes))
    steps = tuple(_steps(graph))
    between = (name for step in steps for name in (*step.inputs, *step.outputs))
    named = dict.fromkeys([*graph.inputs, *graph.outputs, *between])
    views = {name: graph.views[name] for name in named if name in graph.views}
    return Partition(
        inputs=graph.inputs,
        outputs=graph.outputs,
        steps=steps,
        tensors={name: graph.spec(name) for name in dict.fromkeys([*named, *views.values()])},
        views=views,
    )


class _Graph:
    """What has to be known of every node before the graph can be cut.

    ``level`` numbers the rounds: in each, kernels run first and then one segment. A node's is the earliest possible.
    """

    def __init__(self, model: "onnx.ModelProto", known: Mapping[str, TensorSpec]) -> None:
        graph = model.graph
        self.model = model
        self.nodes = list(graph.node)
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = tuple(value.name for value in graph.input if value.name not in self.initializers)
        self.outputs = tuple(value.name for value in graph.output)
        self.producer = {name: at for at, node in enumerate(self.nodes) for name in node.output if name}
        self.kernels = [at for at, node in enumerate(self.nodes) if node.domain == DOMAIN]
        self.views: dict[str, str] = {}
        self._known = known
        self._read_outside = {name for at in self.kernels for name in self.nodes[at].input} | set(self.outputs)
        self._constant = set(self.initializers)
        self._of_segment: set[str] = set()
        self._level: dict[str, int] = dict.fromkeys(self.inputs, 0)
        for node in self.nodes:
            self._classify(node)

    def _classify(self, node: "onnx.NodeProto") -> None:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise UdxError(f"node {node.name} ({node.op_type}) holds a graph of its own; export without control flow")
        variable = [name for name in node.input if name and name not in self._constant]
        if node.domain == DOMAIN:
            # What a segment computes is there only in the round after it.
            level = max((self._level[name] + (name in self._of_segment) for name in variable), default=0)
        elif not variable and not self._read_outside & set(node.output):
            self._constant |= set(node.output)
            return
        elif self._is_view(node):
            self.views[node.output[0]] = self.views.get(node.input[0], node.input[0])
            level = self._level[node.input[0]]
        else:
            self._of_segment |= set(node.output)
            level = max((self._level[name] for name in variable), default=0)
        self._level |= dict.fromkeys(node.output, level)

    def _is_view(self, node: "onnx.NodeProto") -> bool:
        """Whether the node only reshapes what no segment computes."""
        outside = bool(node.input) and node.input[0] not in self._constant | self._of_segment
        return node.op_type in VIEWS and outside and all(name in self._constant for name in node.input[1:] if name)

    def level(self, at: int) -> int:
        """The round that a node runs in."""
        return self._level[self.nodes[at].output[0]]

    def floats(self, at: int) -> bool:
        """Whether a node has no segment of its own but runs in each that reads it."""
        node = self.nodes[at]
        if node.output[0] in self._constant:
            return True
        return node.op_type in QUANTISATION and not self._read_outside & set(node.output)

    def own_nodes(self) -> dict[int, list[int]]:
        """For each round the nodes that its segment exists for."""
        found: dict[int, list[int]] = {}
        for at, node in enumerate(self.nodes):
            if node.domain != DOMAIN and node.output[0] not in self.views and not self.floats(at):
                found.setdefault(self.level(at), []).append(at)
        return found

    def with_floating(self, own: Iterable[int]) -> list[int]:
        """The nodes, and all that run wherever they are read, in the graph's order."""
        found = set(own)
        waiting = list(found)
        while waiting:
            for name in self.nodes[waiting.pop()].input:
                at = self.producer.get(name)
                if at is not None and at not in found and self.floats(at):
                    found.add(at)
                    waiting.append(at)
        return sorted(found)

    def spec(self, name: str) -> TensorSpec:
        """Type and shape of a tensor between two parts.

        Raises:
            UdxError: they are not known.
        """
        return spec_between(name, self._known)

    def launch(self, at: int) -> Launch:
        """The kernel of a node of domain ``udx``.

        Raises:
            UdxError: the node is of another version of udx, or reads a constant, or types or shapes that it cannot.
        """
        node = self.nodes[at]
        constants = [name for name in node.input if name in self.initializers]
        if constants:
            raise UdxError(f"node {node.name} ({node.op_type}) reads the constant {constants[0]}; export it again")
        return launch_of(node, self._known)


def _steps(graph: _Graph) -> Iterator[Segment | Kernel]:
    kernels: dict[int, list[Kernel]] = {}
    for at in graph.kernels:
        kernels.setdefault(graph.level(at), []).append(_kernel(graph, at))
    nodes = {level: graph.with_floating(own) for level, own in graph.own_nodes().items()}
    reads = {level: _read_from_outside(graph, own) for level, own in nodes.items()}
    wanted = {name for names in reads.values() for name in names} | set(graph.outputs)
    wanted |= {name for of_level in kernels.values() for kernel in of_level for name in kernel.inputs}
    count = 0
    for level in sorted({*kernels, *nodes}):
        yield from kernels.get(level, ())
        made = [name for at in nodes.get(level, ()) if not graph.floats(at) for name in graph.nodes[at].output]
        outputs = tuple(name for name in made if name in wanted)
        if outputs:
            yield _segment(graph, f"segment-{count}", nodes[level], reads[level], outputs)
            count += 1


def _kernel(graph: _Graph, at: int) -> Kernel:
    node = graph.nodes[at]
    name = node.name or node.output[0]
    return Kernel(name=name, launch=graph.launch(at), inputs=tuple(node.input), outputs=tuple(node.output))


def _read_from_outside(graph: _Graph, nodes: Sequence[int]) -> tuple[str, ...]:
    """What a segment of these nodes reads of others, in the order of reading."""
    made = {name for at in nodes for name in graph.nodes[at].output}
    read = dict.fromkeys(name for at in nodes for name in graph.nodes[at].input if name)
    return tuple(name for name in read if name not in made and name not in graph.initializers)


def _segment(
    graph: _Graph, name: str, nodes: Sequence[int], inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> Segment:
    import onnx
    from onnx import helper

    stored = dict.fromkeys(read for at in nodes for read in graph.nodes[at].input if read in graph.initializers)
    model = helper.make_model(
        helper.make_graph(
            [graph.nodes[at] for at in nodes],
            name,
            [value_info_of(graph.spec(tensor)) for tensor in inputs],
            [value_info_of(graph.spec(tensor)) for tensor in outputs],
            [graph.initializers[tensor] for tensor in stored],
        ),
        opset_imports=[opset for opset in graph.model.opset_import if opset.domain != DOMAIN],
        ir_version=graph.model.ir_version,
        producer_name="udx",
    )
    onnx.checker.check_model(model)
    return Segment(name=name, model=model, inputs=inputs, outputs=outputs)
