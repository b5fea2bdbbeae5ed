"""A description on a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from udx.check.description import Description
from udx.console import say, table
from udx.doctor.show import cures_of
from udx.manifest import Manifest, Quantization
from udx.runtime.graph import Structure
from udx.tensors import TensorSpec


def show(description: Description) -> None:
    """Print everything: what the file is, what it reads and writes, what it costs, what each backend does with it."""
    for line in file_lines(description):
        say(line)
    rows = [("reads", spec) for spec in description.inputs] + [("writes", spec) for spec in description.outputs]
    largest = description.manifest.dynamic
    table(
        "inputs and outputs",
        ["tensor", "", "type", "shape"],
        [[spec.name, way, spec.dtype, shape_of(spec, largest)] for way, spec in rows],
        texts=("", "type", "shape"),
    )
    for name, meaning in description.meanings.items():
        say(f"{name}: {meaning}")
    for line in (*manifest_lines(description.manifest), *graph_lines(description.structure)):
        say(line)
    for line in description.disagreements:
        say(f"DISAGREES: {line}")
    for node in description.nodes:
        reads, writes = (", ".join(map(_type_of, specs)) for specs in (node.inputs, node.outputs))
        say(f"{node.operator} {node.name}: {reads} → {writes}")
    table(
        "backends",
        ["backend", "version", "builds here", "runs here"],
        [
            [item.backend.name, item.backend.version or "–", item.backend.build.verdict, item.backend.run.verdict]
            for item in description.backends
        ],
        texts=("version", "builds here", "runs here"),
    )
    for item in description.backends:
        say(f"{item.backend.name} {item.reading}")
    for line in cures_of(item.backend for item in description.backends):
        say(line)


def file_lines(description: Description) -> Iterator[str]:
    """What the file is, and who wrote it."""
    identity, manifest = description.identity, description.manifest
    size = f"{identity.bytes / 2**20:.1f} MiB"
    yield f"{identity.file}: {manifest.spec.modality} detector, recipe {manifest.recipe}, {size}"
    yield f"written by udx {manifest.udx_version}, commit {manifest.git_commit}; sha256 {identity.sha256}"


def manifest_lines(manifest: Manifest) -> Iterator[str]:
    """What the detector says of itself."""
    yield f"accuracy: {_metrics(manifest.metrics)}"
    yield f"checkpoint: sha256 {manifest.checkpoint_sha256}"
    yield f"teacher: {_teacher(manifest.teacher)}"
    yield f"boxes: {manifest.box_convention}; {manifest.max_boxes} a frame, of {len(manifest.classes)} classes"
    yield f"precision: {_precision(manifest)}"
    if manifest.portable:
        yield "portable: standard operators alone, in fixed shapes; for TensorRT export it without --portable"


def graph_lines(structure: Structure) -> Iterator[str]:
    """What the graph is, and what it costs."""
    yield f"structural hash: {structure.sha256}, computed anew and equal to the manifest's"
    opsets = ", ".join(f"{domain} {version}" for domain, version in structure.opset.items())
    yield f"{structure.nodes} nodes of opset {opsets}: {_histogram(structure.op_histogram)}"
    yield (
        f"{structure.macs / 1e9:.3g} GMACs, {structure.parameters:,} parameters in "
        f"{structure.parameter_bytes / 2**20:.2f} MiB, activations up to "
        f"{structure.peak_activation_bytes / 2**20:.1f} MiB at once"
    )
    if structure.uncounted:
        yield f"not counted, for their shapes are not known: {', '.join(structure.uncounted)}"


def shape_of(spec: TensorSpec, largest: Mapping[str, int]) -> str:
    """A shape as it is said: an open dimension with the largest size it may have."""
    open_size = f"1…{largest[spec.name]}" if spec.name in largest else "?"
    return " × ".join(open_size if length < 0 else str(length) for length in spec.shape)


def _type_of(spec: TensorSpec) -> str:
    return f"{spec.dtype}[{', '.join(map(str, spec.shape))}]"


def _metrics(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {100 * value:.1f} %" for name, value in metrics.items()) or "not evaluated"


def _teacher(teacher: Mapping[str, Any] | None) -> str:
    if teacher is None:
        return "none"
    figures = {name: teacher[name] for name in ("mAP", "NDS") if isinstance(teacher.get(name), int | float)}
    return f"{teacher.get('modality', 'unknown')}, {_metrics(figures)}; none of it is in the file"


def _precision(manifest: Manifest) -> str:
    plan = manifest.precision
    kept = ", ".join(f"{reason} {len(names)}" for reason, names in plan.float32.items() if names)
    name = plan.precision.upper()
    if plan.quantization is not None:
        return f"{_quantized(name, plan.quantization)}; {f'of layers, FP32 are {kept}' if kept else 'no layer is FP32'}"
    if not plan.float32:
        return name
    said = f"{name}, but for {len(plan.exact_nodes)} nodes in FP32 ({kept}); by {plan.converter}"
    return f"{said}; {plan.saturated} weights too large for it and {plan.raised} too small"


def _quantized(name: str, quantization: Quantization) -> str:
    lost = f", {quantization.map_drop:+.2f} points of mAP lost" if quantization.map_drop is not None else ""
    return (
        f"{name} in {len(quantization.layers)} layers, and FP32 in everything else; scales by {quantization.method} of "
        f"{len(quantization.samples)} keyframes of split {quantization.split}{lost}"
    )


def _histogram(histogram: Mapping[str, int]) -> str:
    ranked = sorted(histogram.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in ranked)
