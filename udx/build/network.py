"""Reading ONNX with the parser that TensorRT and TensorRT-RTX share, and what is said of what they report."""

import functools
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from udx.errors import UdxError

MAX_SAID: Final = 3
"""Parser errors that are told; the first is nearly always the cause of the others."""

MAX_SENTENCE: Final = 400


@dataclass(frozen=True, slots=True)
class Messages:
    """What a library logged: errors, and warnings without repetition."""

    errors: list[str]
    warnings: list[str]

    def clear(self) -> None:
        """Forget everything."""
        self.errors.clear()
        self.warnings.clear()


@functools.cache
def logger(trt: ModuleType) -> tuple[Any, Messages]:
    """The logger of a library, and what it heard: one a process, for the library keeps the first that it is given."""
    messages = Messages([], [])
    severity = trt.ILogger.Severity

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, level: Any, message: str) -> None:
            if level in (severity.INTERNAL_ERROR, severity.ERROR):
                messages.errors.append(one_line(message))
            elif level == severity.WARNING and (said := one_line(message)) not in messages.warnings:
                messages.warnings.append(said)

    return Logger(), messages


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


def one_line(message: str) -> str:
    """A message without line breaks, and not endless."""
    text = "; ".join(line.strip() for line in message.splitlines() if line.strip())
    return text if len(text) <= MAX_SENTENCE else text[:MAX_SENTENCE] + "…"
