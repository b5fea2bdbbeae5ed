"""The diagnosis on a terminal."""

from collections.abc import Iterable, Iterator

from udx.console import say, table
from udx.doctor.diagnosis import Answer, Backend, Diagnosis, Library
from udx.runtime.rtx import MADE_FOR, listed


def show(diagnosis: Diagnosis) -> None:
    """Print machine, backends and libraries, then every reason with its cure."""
    for line in machine_lines(diagnosis):
        say(line)
    table(
        "backends",
        ["backend", "version", "builds here", "runs here"],
        [
            [backend.name, backend.version or "–", backend.build.verdict, backend.run.verdict]
            for backend in diagnosis.backends
        ],
        texts=("version", "builds here", "runs here"),
    )
    table(
        "libraries",
        ["library", "version", "works"],
        [[library.name, library.version or "–", library.works.verdict] for library in diagnosis.libraries],
        texts=("version", "works"),
    )
    for line in cures(diagnosis):
        say(line)


def machine_lines(diagnosis: Diagnosis) -> Iterator[str]:
    """The machine in a few lines."""
    machine = diagnosis.machine
    memory = f", {machine.memory_gib:g} GiB" if machine.memory_gib else ""
    yield f"udx {machine.versions['udx']}, Python {machine.python}, {machine.os}"
    yield f"{machine.cpu or 'unknown CPU'}, {machine.cores} cores{memory}"
    if diagnosis.cuda:
        yield f"NVIDIA driver {diagnosis.driver or 'of unknown version'}, for CUDA up to {diagnosis.cuda}"
    for gpu in diagnosis.gpus:
        capability = "{}.{}".format(*gpu["compute_capability"])
        yield f"{gpu['name']}, compute capability {capability}, {gpu['memory_bytes'] / 2**30:.0f} GiB"
    if not diagnosis.gpus:
        yield f"no GPU: {diagnosis.gpu.why}"
    if diagnosis.providers:
        names = (provider.removesuffix("ExecutionProvider") for provider in diagnosis.providers)
        yield f"ONNX Runtime has {', '.join(names)}"
    if diagnosis.rtx_capabilities:
        yield f"TensorRT-RTX supports compute capability {listed(diagnosis.rtx_capabilities)}; {MADE_FOR}"


def cures(diagnosis: Diagnosis) -> Iterator[str]:
    """As ``cures_of``, for everything that was diagnosed."""
    return cures_of(diagnosis.backends, diagnosis.libraries)


def cures_of(backends: Iterable[Backend], libraries: Iterable[Library] = ()) -> Iterator[str]:
    """Everything that does not work and why, then the commands that mend it, each once."""
    subjects: dict[Answer, list[str]] = {}
    for backend in backends:
        for what, answer in (("build", backend.build), ("run", backend.run)):
            subjects.setdefault(answer, []).append(f"{what} {backend.name}")
    for library in libraries:
        subjects.setdefault(library.works, []).append(f"use {library.name} ({library.needed_for})")
    missing = {answer: names for answer, names in subjects.items() if answer.verdict != "yes"}
    for answer, names in missing.items():
        yield f"cannot {', '.join(names)}: {answer.why}"
    for command in dict.fromkeys(command for answer in missing for command in answer.mend):
        yield f"    {command}"
