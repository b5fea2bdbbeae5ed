"""What an engine is made of: the graph with its weights, without what only people read."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from udx.tensors import spec_of_tensor, tensors_of

if TYPE_CHECKING:
    import onnx

CHUNK_BYTES: Final = 1 << 22


def content_hash(model: "onnx.ModelProto", folder: Path) -> str:
    """SHA-256 of a checked model and of its weights in files of ``folder``.

    Metadata, documentation and the name of the program that wrote the file do not count; names of nodes and tensors
    do. Two files of one hash therefore give one engine, and two files that differ in a single weight do not share one.
    """
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for field in ("metadata_props", "doc_string", "producer_name", "producer_version", "model_version", "domain"):
        bare.ClearField(field)
    digest = hashlib.sha256(bare.SerializeToString(deterministic=True))
    for tensor in tensors_of(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            for chunk in _external(tensor, folder):
                digest.update(chunk)
    return digest.hexdigest()


def _external(tensor: "onnx.TensorProto", folder: Path) -> Iterator[bytes]:
    """Bytes of a tensor whose reference to its file was checked."""
    fields = {entry.key: entry.value for entry in tensor.external_data}
    left = int(fields.get("length", spec_of_tensor(tensor).num_bytes))
    with open(folder / fields["location"], "rb") as file:
        file.seek(int(fields.get("offset", 0)))
        while left > 0:
            chunk = file.read(min(left, CHUNK_BYTES))
            assert chunk, "the file was long enough when the model was read"
            left -= len(chunk)
            yield chunk
