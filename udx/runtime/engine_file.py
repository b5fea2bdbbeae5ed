"""What an engine file is: told by its content, not by its name, and in one place for everything that opens one."""

from pathlib import Path
from typing import Final

from udx.errors import UdxError
from udx.runtime.bundle import MAGIC
from udx.runtime.onnx_file import OnnxFile, read_onnx
from udx.runtime.partitioned import PartitionedFile, read_partitioned
from udx.runtime.plan_file import PlanFile, has_record, read_plan

TENSORRT: Final = (b"ftrt", b"ptrt", b"vtrt")
"""How engines of TensorRT begin, as far as is known, and those of TensorRT-RTX (``vtrt``, which udx keeps in a zip); a
record beside one tells it, too."""

EngineFile = OnnxFile | PartitionedFile | PlanFile


def read_engine(path: Path) -> EngineFile:
    """Read and check an engine file, whatever it is: an ONNX file, or a plan that ``udx build`` wrote.

    Raises:
        UdxError: the file is missing or damaged, or anything but what it says of itself.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4)
    except OSError as error:
        raise UdxError(f"cannot read engine {path}: {error.strerror}; check the path") from error
    if head == MAGIC:
        return read_partitioned(path)
    return read_plan(path) if head in TENSORRT or has_record(path) else read_onnx(path)
