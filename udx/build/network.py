"""Reading ONNX with the parser that TensorRT and TensorRT-RTX share, and what is said of what they report."""

from pathlib import Path
from types import ModuleType
from typing import Any, Final

from udx.errors import UdxError
from udx.runtime.engine_log import logger as logger
from udx.runtime.engine_log import one_line as one_line

MAX_SAID: Final = 3
"""Parser errors that are told; the first is nearly always the cause of the others."""


def parse(trt: ModuleType, network: Any, model: bytes, path: Path) -> None:
    """Read a model into an empty network; ``path`` is where its external weights are looked for.

    Raises:
        UdxError: the parser refuses the model; the sentence names its nodes.
    """
    parser = trt.OnnxParser(network, logger(trt)[0])
    if parser.parse(model, str(path)):
        return
    errors = [parser_error(parser.get_error(index)) for index in range(parser.num_errors)]
    said = "; ".join(errors[:MAX_SAID]) or "it gives no reason"
    more = f"; and {len(errors) - MAX_SAID} more" if len(errors) > MAX_SAID else ""
    raise UdxError(f"{trt.__name__} {trt.__version__} cannot read {path}: {said}{more}; export it again")


def parser_error(error: Any) -> str:
    """One error of the parser: the node, as ``Unsqueeze "images_batch"``, and what is wrong with it."""
    node = f'{error.node_operator()} "{error.node_name()}": ' if error.node_operator() else ""
    return node + one_line(error.desc())
