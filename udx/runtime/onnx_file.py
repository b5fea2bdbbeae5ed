"""ONNX files from strangers: read once, bounded, and checked against their manifest before anything runs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from udx.data.input_docs import describe_inputs, describe_outputs
from udx.data.inputs import input_shapes
from udx.errors import UdxError, first_line
from udx.geometry import BOX_SIZE
from udx.manifest import METADATA_KEY, Manifest
from udx.operators import DOMAIN, OPSET, VERSION
from udx.runtime.cost import known_tensors, peak_activation, skeleton_of, with_shapes
from udx.runtime.graph import structure_of
from udx.runtime.isolation import Suspect, check_in_isolation
from udx.runtime.listing import canonical_listing, nodes_inside, structural_hash
from udx.runtime.precision import require_precision
from udx.runtime.vetting import require_bounded_inlining, require_known_operators
from udx.tensors import TensorSpec, dtype_name, tensor_spec, tensors_of

if TYPE_CHECKING:
    import onnx

MAX_FILE_BYTES: Final = 2**31 - 1  # protobuf's own limit; larger models keep their weights beside the file
MAX_TENSOR_BYTES: Final = 4 * 2**30
MAX_WEIGHT_BYTES: Final = 8 * 2**30
MAX_ACTIVATION_BYTES: Final = 8 * 2**30
"""Activations that live at the same time; a full-size detector has less than one GiB."""


@dataclass(frozen=True, eq=False, slots=True)
class OnnxFile:
    """A detector's ONNX file: its graph without external weights, and what its manifest promises.

    ``sha256`` is that of the file as it was read.
    """

    path: Path
    sha256: str
    model: "onnx.ModelProto"
    manifest: Manifest
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def read_onnx(path: Path) -> OnnxFile:
    """Read and check an exported detector.

    Raises:
        UdxError: the file is missing, too large, damaged, not ONNX, too old, not from udx, or refers to files outside
            its folder; or its inputs, outputs or graph are not those of its manifest.
    """
    content = _content_of(path)
    model = _parse(content, path)
    _require_bounded_tensors(model, path)
    _require_versions(model, path)
    require_known_operators(model, path)
    _require_no_recursion(model, path)
    require_bounded_inlining(model, path)
    check_in_isolation(Suspect(content=content, source=str(path), path=path), "graph")
    _require_valid(str(path), path)
    manifest = _manifest_of(model, path)
    inputs = expected_inputs(manifest)
    outputs = expected_outputs(manifest)
    _require_bounded(path, (*largest_inputs(manifest), *outputs))
    initializers = {tensor.name for tensor in model.graph.initializer}
    given = tuple(tensor_spec(value) for value in model.graph.input if value.name not in initializers)
    _require_same(path, "inputs", given, inputs)
    _require_same(path, "outputs", tuple(tensor_spec(value) for value in model.graph.output), outputs)
    _require_its_graph(model, manifest, path)
    _require_its_tensors(model, manifest, path)
    return OnnxFile(path, sha256(content).hexdigest(), model, manifest, inputs, outputs)


def check_graph(suspect: Suspect) -> None:
    """Let ONNX's C++ see a graph in every way that udx does: its checker, shape inference, and functions inlined.

    Raises:
        UdxError: ONNX refuses the model. Other exceptions of the libraries pass.
    """
    model = _parse(suspect.content, suspect.source)
    _require_valid(suspect.content if suspect.path is None else str(suspect.path), suspect.source)
    sizes = {} if suspect.path is None else _manifest_of(model, suspect.path).dynamic
    skeleton = skeleton_of(model, sizes)
    with_shapes(skeleton)
    with_shapes(skeleton, inline=True)


def with_weights_inside(file: OnnxFile) -> "onnx.ModelProto":
    """The model of a checked file with all its weights: itself if none are beside it."""
    import onnx

    if not any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors_of(file.model)):
        return file.model
    whole = onnx.ModelProto()
    whole.CopyFrom(file.model)
    onnx.load_external_data_for_model(whole, str(file.path.resolve().parent))
    return whole


def require_segment(
    content: bytes, source: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """Check the ONNX model of a plan's segment, which has all its weights inside; ``source`` names it in errors.

    Raises:
        UdxError: it is damaged, refers to other files, holds functions, computes huge tensors, or has other inputs and
            outputs.
    """
    import onnx

    model = _parse(content, source)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors_of(model)):
        raise UdxError(f"{source} wants weights from another file, which no segment does; do not trust it")
    if model.functions:
        raise UdxError(f"{source} holds functions, which no segment does; do not trust it")
    _require_bounded_tensors(model, source)
    require_known_operators(model, source)
    check_in_isolation(Suspect(content=content, source=source), "graph")
    _require_valid(content, source)
    found = (tuple(map(tensor_spec, values)) for values in (model.graph.input, model.graph.output))
    if tuple(found) != (inputs, outputs):
        raise UdxError(f"{source} has other inputs or outputs than its plan says; build the plan again")
    _require_bounded_activations(skeleton_of(model), source)


def sealed(model: "onnx.ModelProto", manifest: Manifest) -> Manifest:
    """Store a manifest in a model, with the facts of the graph as it is now; return what was stored.

    Inputs and outputs get a ``doc_string`` each: what their axes, channels, frames and units are.
    """
    import onnx

    complete = replace(manifest, graph=structure_of(model, manifest.dynamic).facts)
    said = describe_inputs(manifest.spec) | describe_outputs(manifest.classes)
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = said.get(value.name, "")
    onnx.helper.set_model_props(model, {METADATA_KEY: complete.to_json()})
    return complete


def expected_inputs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """Return the inputs of a detector with this manifest, in order; open dimensions are −1."""
    return tuple(
        TensorSpec(spec.name, (-1, *spec.shape[1:]), spec.dtype) if spec.name in manifest.dynamic else spec
        for spec in largest_inputs(manifest)
    )


def largest_inputs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """Return the inputs of a detector with this manifest, in order, open dimensions at their largest."""
    return tuple(TensorSpec(name, shape, dtype) for name, (shape, dtype) in input_shapes(manifest.spec).items())


def expected_outputs(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """Return the outputs of a detector with this manifest, in order: K boxes, best first."""
    count = manifest.max_boxes
    return (
        TensorSpec("boxes", (count, BOX_SIZE), "float32"),
        TensorSpec("scores", (count,), "float32"),
        TensorSpec("labels", (count,), "int64"),
    )


def _content_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UdxError(f"{path} is larger than 2 GiB, the limit of an ONNX file; store its weights beside it")
        return path.read_bytes()
    except OSError as error:
        raise UdxError(f"cannot read engine {path}: {error.strerror}; check the path") from error


def _parse(content: bytes, source: Path | str) -> "onnx.ModelProto":
    import onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception as error:  # protobuf's DecodeError, whose module has no types
        raise UdxError(f"{source} is damaged or not an ONNX file; copy or export it again") from error
    if not model.ir_version or not model.graph.node:
        raise UdxError(f"{source} is damaged or not an ONNX file: it holds no graph; copy or export it again")
    if not all(isinstance(text, str) for text in _texts(model)):
        raise UdxError(f"{source} is damaged: it holds names that are no text; copy or export it again")
    return model


def _texts(message: Any) -> Iterator[str | bytes]:
    """Every string in a message and in those within it; protobuf gives bytes for what is not UTF-8."""
    for field, value in message.ListFields():
        if field.message_type:
            for inner in value if field.is_repeated else (value,):
                yield from _texts(inner)
        elif field.type == field.TYPE_STRING:
            yield from value if field.is_repeated else (value,)


def _require_bounded_tensors(model: "onnx.ModelProto", source: Path | str) -> None:
    """Refuse tensors that claim more than they hold, before any library allocates what they claim."""
    import onnx

    total = 0
    for tensor in tensors_of(model):
        spec = TensorSpec(tensor.name or "a constant", tuple(tensor.dims), dtype_name(tensor.data_type))
        if tensor.HasField("segment"):
            raise UdxError(f"{source} holds {spec} in segments, which udx never writes; do not trust it")
        if spec.dtype.startswith("unknown") or any(length < 0 for length in spec.shape):
            raise UdxError(f"{source} holds {spec}, which is no valid tensor; copy or export it again")
        if spec.dtype == "object":  # strings have no fixed size and hold what they hold
            continue
        _require_bounded(source, (spec,))
        total += spec.num_bytes
        if total > MAX_WEIGHT_BYTES:
            raise UdxError(f"{source} holds more than {MAX_WEIGHT_BYTES >> 30} GiB of weights; do not trust it")
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            assert isinstance(source, Path), "only files have a folder"
            _require_own_external_data(tensor, spec, source)
        elif tensor.raw_data and len(tensor.raw_data) != _stored_bytes(tensor, spec):
            raise UdxError(
                f"{source} holds {spec} with {len(tensor.raw_data)} bytes of data; it is damaged, export it again"
            )
        elif not tensor.raw_data and spec.num_bytes > 8 * max(tensor.ByteSize(), 1):
            raise UdxError(f"{source} holds {spec} without its data; it is damaged, export it again")


def _stored_bytes(tensor: "onnx.TensorProto", spec: TensorSpec) -> int:
    """Bytes of a tensor in ``raw_data``; 4-bit types are packed in pairs."""
    import onnx

    packed = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4, onnx.TensorProto.FLOAT4E2M1}
    return (spec.num_bytes + 1) // 2 if tensor.data_type in packed else spec.num_bytes


def _require_own_external_data(tensor: "onnx.TensorProto", spec: TensorSpec, path: Path) -> None:
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    folder = path.resolve().parent
    target = folder if "\0" in location else (folder / location).resolve()
    if not location or target == folder or not target.is_relative_to(folder):
        raise UdxError(f"{path} wants weights from {location!r}, outside its folder; do not trust it")
    try:
        end = int(fields.get("offset", 0)) + int(fields.get("length", spec.num_bytes))
        if end > target.stat().st_size or int(fields.get("offset", 0)) < 0:
            raise UdxError(f"{path} wants {spec} from {target.name}, which is too short; copy both files again")
    except OSError as error:
        raise UdxError(f"{path} keeps weights in {target.name}, which cannot be read; copy both files") from error
    except ValueError as error:
        raise UdxError(f"{path} has a damaged reference to {target.name}; copy or export it again") from error


def _require_valid(model: str | bytes, source: Path | str) -> None:
    """``model`` is a file's path, for weights beside it are checked too, or the content of one."""
    import onnx

    try:
        onnx.checker.check_model(model)
    except Exception as error:  # onnx raises ValidationError, and RuntimeError or InferenceError from C++
        raise UdxError(f"{source} is not a valid ONNX model ({first_line(error)}); copy or export it again") from error


def _require_versions(model: "onnx.ModelProto", path: Path) -> None:
    versions = {item.domain or "ai.onnx": item.version for item in model.opset_import}
    if versions.get("ai.onnx", 0) < OPSET:
        found = versions.get("ai.onnx", "none")
        raise UdxError(f"{path} is of ONNX opset {found}, and udx reads {OPSET} or later; export it again")
    if versions.get(DOMAIN, VERSION) != VERSION:
        raise UdxError(
            f"{path} has operators of udx version {versions[DOMAIN]}, this udx knows {VERSION}; export it again"
        )


def _require_no_recursion(model: "onnx.ModelProto", path: Path) -> None:
    """Refuse functions that call themselves, on whatever way: ONNX forbids them, but its checker does not look."""
    calls = {
        (function.domain, function.name): {
            (node.domain, node.op_type) for outer in function.node for node in (outer, *nodes_inside(outer))
        }
        for function in model.functions
    }
    try:
        TopologicalSorter(calls).prepare()
    except CycleError as error:
        raise UdxError(f"{path} holds a function that calls itself, {error.args[1][0][1]}; do not trust it") from error


def _require_its_graph(model: "onnx.ModelProto", manifest: Manifest, path: Path) -> None:
    if manifest.graph is None:
        raise UdxError(f"{path} has a udx manifest that does not describe its graph; export it again")
    found = structural_hash(canonical_listing(model))
    if found != manifest.graph.sha256:
        raise UdxError(
            f"{path} holds a graph with hash {found[:12]}, and its manifest is of one with "
            f"{manifest.graph.sha256[:12]}: it was changed after its export; export it again"
        )


def _require_its_tensors(model: "onnx.ModelProto", manifest: Manifest, path: Path) -> None:
    """Refuse a graph that computes huge tensors from small ones, or in other types than its manifest says."""
    skeleton = skeleton_of(model, manifest.dynamic)
    _require_bounded_activations(skeleton, path)
    require_precision(with_shapes(skeleton).graph, manifest.precision, path)


def _require_bounded_activations(skeleton: "onnx.ModelProto", source: Path | str) -> None:
    """Refuse activations that are too large, together or one by one, and those whose size nobody knows.

    Inside of functions some sizes are known only when they run.
    """
    try:
        graph, inlined = with_shapes(skeleton).graph, with_shapes(skeleton, inline=True).graph
        peak, unknown = peak_activation(inlined)[0], peak_activation(graph)[1]
    except UdxError as error:
        raise UdxError(f"{source}: {error}") from error
    except Exception as error:  # RuntimeError, InferenceError and others from C++
        raise UdxError(f"{source} is not a valid ONNX model ({first_line(error)}); export it again") from error
    computed = known_tensors(inlined).values()
    _require_bounded(source, tuple(spec for spec in computed if not spec.dtype.startswith(("unknown", "object"))))
    if peak > MAX_ACTIVATION_BYTES:
        raise UdxError(f"{source} needs {peak / 2**30:.0f} GiB for its activations; do not trust it")
    if unknown:
        raise UdxError(f"{source} computes {unknown[0]} of a size that its graph does not tell; do not trust it")


def _manifest_of(model: "onnx.ModelProto", path: Path) -> Manifest:
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            return Manifest.from_json(entry.value, str(path))
    raise UdxError(f"{path} is an ONNX file without a udx manifest; give one that udx export wrote")


def _require_bounded(source: Path | str, specs: tuple[TensorSpec, ...]) -> None:
    for spec in specs:
        if spec.num_bytes > MAX_TENSOR_BYTES:
            raise UdxError(f"{source} declares {spec}, {spec.num_bytes / 2**30:.0f} GiB; do not trust it")


def _require_same(path: Path, what: str, given: tuple[TensorSpec, ...], wanted: tuple[TensorSpec, ...]) -> None:
    for one, other in zip(given, wanted, strict=False):
        if one != other:
            raise UdxError(f"{path} has {what[:-1]} {one} where its manifest asks for {other}; export it again")
    if len(given) != len(wanted):
        names = [[spec.name for spec in specs] for specs in (given, wanted)]
        raise UdxError(f"{path} has {what} {names[0]} where its manifest asks for {names[1]}; export it again")
