"""What TensorRT and TensorRT-RTX log."""

import functools
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

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


def one_line(message: str) -> str:
    """A message without line breaks, and not endless."""
    text = "; ".join(line.strip() for line in message.splitlines() if line.strip())
    return text if len(text) <= MAX_SENTENCE else text[:MAX_SENTENCE] + "…"
