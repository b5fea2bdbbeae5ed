"""A diagnosis: what builds and runs here, what does not and why, and the commands that mend it."""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from udx.doctor.machine import Machine
from udx.errors import MissingHardwareError, UdxError

Verdict = Literal["yes", "no"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Whether something works; if not, or if nobody knows, why, and what mends it or finds out."""

    verdict: Verdict
    why: str | None = None
    mend: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        assert self.verdict == "yes" or (self.why and self.mend), "what does not work has a reason and a cure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """Whether this machine builds for a backend, and runs it."""

    name: str
    version: str | None
    build: Answer
    run: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """What backends and training need besides."""

    name: str
    version: str | None
    needed_for: str
    works: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that ``udx doctor`` tells.

    ``cuda`` is the newest that the driver runs, ``providers`` are those that ONNX Runtime was built with, and
    ``rtx_capabilities`` the compute capabilities (× 10) that TensorRT-RTX says it supports.
    """

    machine: Machine
    driver: str | None
    cuda: str | None
    gpus: tuple[dict[str, Any], ...]
    gpu: Answer
    providers: tuple[str, ...]
    rtx_capabilities: tuple[int, ...]
    backends: tuple[Backend, ...]
    libraries: tuple[Library, ...]

    def to_json(self) -> dict[str, Any]:
        """What ``udx doctor --json`` writes."""
        return {"schema": "udx-doctor/1"} | asdict(self)

    def require(self, name: str) -> None:
        """Insist on a backend.

        Raises:
            UdxError: it does not build here, or does not run here; a ``MissingHardwareError`` for lack of a GPU.
        """
        (backend,) = (backend for backend in self.backends if backend.name == name)
        for what, answer in (("build", backend.build), ("run", backend.run)):
            if answer.verdict != "yes":
                lacks_gpu = bool(self.gpu.why) and str(self.gpu.why) in str(answer.why)
                kind = MissingHardwareError if lacks_gpu else UdxError
                raise kind(f"{name} does not {what} here: {answer.why}; {'; '.join(answer.mend)}")


YES: Final = Answer(verdict="yes")


def no(why: str, *mend: str) -> Answer:
    """Something does not work."""
    return Answer(verdict="no", why=why, mend=mend)


def all_of(*answers: Answer) -> Answer:
    """Several things are needed; every one that is missing is said, once."""
    missing = [answer for answer in answers if answer.verdict != "yes"]
    if not missing:
        return YES
    mend = tuple(dict.fromkeys(command for answer in missing for command in answer.mend))
    reasons = dict.fromkeys(answer.why for answer in missing if answer.why)
    return no(", and ".join(reasons), *mend)


def in_turn(*answers: Answer) -> Answer:
    """Each thing needs the one before it; the first that is missing is said."""
    return next((answer for answer in answers if answer.verdict != "yes"), YES)
