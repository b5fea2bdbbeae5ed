"""The structure of an ONNX graph without its weights: its hash, what it consists of, and what it costs.

Two exports of one architecture have the same structure whatever their weights: see ``udx.runtime.listing`` for what
the hash covers, and ``udx.runtime.cost`` for how cost is counted.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from udx.errors import UdxError
from udx.manifest import GraphFacts, Manifest
from udx.runtime.cost import count_macs, peak_activation, skeleton_of, with_shapes
from udx.runtime.listing import canonical_listing, op_name, structural_hash, weights_of
from udx.tensors import spec_of_tensor

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What must be equal if two engines are to cost the same.

    ``parameters`` are the graph's constants but for shapes, axes and indices. ``uncounted`` names the nodes that
    should count in ``macs`` but whose shapes are not known, or that run under a condition, and the tensors that
    should count in ``peak_activation_bytes`` but whose size is not known.
    """

    sha256: str
    opset: dict[str, int]
    op_histogram: dict[str, int]
    nodes: int
    parameters: int
    parameter_bytes: int
    macs: int
    peak_activation_bytes: int
    uncounted: tuple[str, ...]
    listing: tuple[str, ...]

    @property
    def facts(self) -> GraphFacts:
        """What a manifest tells of it."""
        return GraphFacts(**{item.name: getattr(self, item.name) for item in fields(GraphFacts)})


def structure_of(model: "onnx.ModelProto", sizes: Mapping[str, int] | None = None) -> Structure:
    """Describe the structure of a checked model; ``sizes`` says how large its open dimensions count, by name."""
    listing = canonical_listing(model)
    skeleton = skeleton_of(model, sizes)
    macs, uncounted = count_macs(with_shapes(skeleton, inline=True).graph)
    peak, unsized = peak_activation(with_shapes(skeleton).graph)
    weights = weights_of(model.graph)
    return Structure(
        sha256=structural_hash(listing),
        opset={item.domain or "ai.onnx": item.version for item in sorted(model.opset_import, key=lambda o: o.domain)},
        op_histogram=dict(sorted(Counter(op_name(node) for node in model.graph.node).items())),
        nodes=len(model.graph.node),
        parameters=sum(math.prod(tensor.dims) for tensor in weights),
        parameter_bytes=sum(spec_of_tensor(tensor).num_bytes for tensor in weights),
        macs=macs,
        peak_activation_bytes=peak,
        uncounted=(*uncounted, *unsized),
        listing=listing,
    )


def require_structure(structure: Structure, manifest: Manifest, source: object) -> None:
    """Hold what a plan tells of its graph to its own listing, and to the manifest; ``source`` names it in errors.

    Raises:
        UdxError: it was changed, or the manifest is that of another graph.
    """
    if structural_hash(structure.listing) != structure.sha256:
        raise UdxError(f"{source} lists another graph than the one whose hash it gives; build it again")
    if structure.facts != manifest.graph:
        raise UdxError(f"{source} was built of another graph than the one that its manifest describes; build it again")


def differences(one: Structure, other: Structure, limit: int = 20) -> tuple[str, ...]:
    """Say in what two structures differ; empty if and only if their hashes are equal."""
    if one.sha256 == other.sha256:
        return ()
    said = [
        f"{op}: {one.op_histogram.get(op, 0)} against {other.op_histogram.get(op, 0)} nodes"
        for op in sorted({*one.op_histogram, *other.op_histogram})
        if one.op_histogram.get(op, 0) != other.op_histogram.get(op, 0)
    ]
    for what, mine, theirs in (
        ("parameters", one.parameters, other.parameters),
        ("parameter bytes", one.parameter_bytes, other.parameter_bytes),
        ("MACs", one.macs, other.macs),
        ("peak activation bytes", one.peak_activation_bytes, other.peak_activation_bytes),
    ):
        if mine != theirs:
            said.append(f"{what}: {mine:,} against {theirs:,}")
    mine_without_wiring, theirs_without_wiring = (Counter(map(_unwired, item.listing)) for item in (one, other))
    changed = [
        f"{line}: {mine_without_wiring[line]} against {theirs_without_wiring[line]}"
        for line in sorted(mine_without_wiring | theirs_without_wiring)
        if mine_without_wiring[line] != theirs_without_wiring[line]
    ]
    said += changed[:limit]
    if len(changed) > limit:
        said.append(f"… and {len(changed) - limit} more kinds of node")
    return tuple(said) or ("the same nodes are wired differently",)


def _unwired(line: str) -> str:
    """A line of the listing without its number and without the numbers of the nodes that it reads."""
    return re.sub(r"%\d+\.\d+\.\d+", "%", re.sub(r"^\d+ ", "", line))
