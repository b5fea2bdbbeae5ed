"""Everything that can be told of an exported detector without running it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from udx.check.backends import Reading, readings
from udx.data.input_docs import describe_inputs, describe_outputs
from udx.doctor.diagnosis import Backend, Diagnosis
from udx.errors import UdxError
from udx.manifest import GraphFacts, Manifest
from udx.operators import DOMAIN
from udx.runtime.cost import known_tensors, skeleton_of, with_shapes
from udx.runtime.engine_file import read_engine
from udx.runtime.graph import Structure
from udx.runtime.identity import Identity, identity_of
from udx.runtime.onnx_file import OnnxFile
from udx.tensors import TensorSpec

SCHEMA: Final = "udx-check/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorNode:
    """A node of domain ``udx``, with what it reads and writes; open dimensions are at their largest."""

    name: str
    operator: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendReading:
    """What a backend does with the file, and whether this machine builds for it and runs it."""

    backend: Backend
    reading: Reading

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self.backend) | {
            "kind": type(self.reading).__name__.lower(),
            "reading": asdict(self.reading),
            "said": str(self.reading),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """An exported detector. That its graph is the one of its manifest was checked when it was read.

    ``disagreements`` are figures of the manifest that are counted otherwise here, as a graph's cost may be by another
    version of onnx.
    """

    identity: Identity
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: tuple[OperatorNode, ...]
    disagreements: tuple[str, ...]
    backends: tuple[BackendReading, ...]

    @property
    def manifest(self) -> Manifest:
        """What the file says of itself."""
        return self.identity.manifest

    @property
    def meanings(self) -> dict[str, str]:
        """What each input and output holds: axes, channels, frame, unit."""
        return describe_inputs(self.manifest.spec) | describe_outputs(self.manifest.classes)

    @property
    def structure(self) -> Structure:
        """What the graph is."""
        return self.identity.structure

    def to_json(self) -> dict[str, Any]:
        """What ``udx check --json`` writes."""
        found = self.identity.to_json()
        assert self.manifest.graph is not None, "no file without it is read"
        found["structure"] |= {"manifest_sha256": self.manifest.graph.sha256}
        said = self.manifest
        found["manifest"] |= {
            "dynamic": said.dynamic,
            "portable": said.portable,
            "precision": asdict(said.precision),
        }
        return {
            "schema": SCHEMA,
            **found,
            "inputs": [asdict(spec) for spec in self.inputs],
            "outputs": [asdict(spec) for spec in self.outputs],
            "meanings": self.meanings,
            "nodes": [asdict(node) for node in self.nodes],
            "disagreements": list(self.disagreements),
            "backends": [backend.to_json() for backend in self.backends],
        }


def describe(path: Path, examine: Callable[[], Diagnosis]) -> Description:
    """Read and check an exported detector, and tell everything of it; ``examine`` looks at this machine after that.

    Raises:
        UdxError: the file cannot be read (see ``read_engine``), or is a plan.
    """
    file = read_engine(path)
    if not isinstance(file, OnnxFile):
        raise UdxError(
            f"{path} is a plan, and udx check reads ONNX files: give the file that it was built from, or measure the "
            f"plan with udx bench --engine {path}"
        )
    identity = identity_of(file)
    found = readings(file)
    return Description(
        identity=identity,
        inputs=file.inputs,
        outputs=file.outputs,
        nodes=_operator_nodes(file),
        disagreements=_disagreements(file.manifest, identity.structure),
        backends=tuple(BackendReading(backend=backend, reading=found[backend.name]) for backend in examine().backends),
    )


def _operator_nodes(file: OnnxFile) -> tuple[OperatorNode, ...]:
    known = known_tensors(with_shapes(skeleton_of(file.model, file.manifest.dynamic)).graph)
    return tuple(
        OperatorNode(
            name=node.name or node.output[0],
            operator=node.op_type,
            inputs=tuple(known[name] for name in node.input if name in known),
            outputs=tuple(known[name] for name in node.output if name in known),
        )
        for node in file.model.graph.node
        if node.domain == DOMAIN
    )


def _disagreements(manifest: Manifest, structure: Structure) -> tuple[str, ...]:
    assert manifest.graph is not None, "no file without it is read"
    names = (item.name for item in fields(GraphFacts))
    pairs = [(name, getattr(manifest.graph, name), getattr(structure, name)) for name in names]
    return tuple(
        f"{name.replace('_', ' ')}: the manifest says {said}, and it is {found}"
        for name, said, found in pairs
        if said != found
    )
