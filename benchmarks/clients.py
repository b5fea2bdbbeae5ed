"""Which other programs read an export, and whether they find its boxes.

    python benchmarks/clients.py [--student cam] [--cache FOLDER] [--json FILE]

Exports untrained detectors of recipe nano, as they are and portable, and lets every client run each in a process of its
own; what it needs is installed into virtual environments and a folder of npm packages below the cache folder, made
once. A box counts as found if a client has one with the same label within half a metre of ONNX Runtime's own.
"""

import json
import subprocess
import venv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import click
import numpy as np
from latency import untrained_run

from udx.console import say, table
from udx.data.detections import Detections
from udx.data.inputs import Tensors
from udx.data.spec import Modality
from udx.entry import run_command
from udx.errors import UdxError
from udx.export.deploy import DeployableDetector
from udx.export.description import manifest_of
from udx.export.onnx_export import to_onnx
from udx.export.parity import agreement
from udx.export.portable import to_portable
from udx.export.precision import to_fp16
from udx.files import write_json
from udx.runtime.environment import environment
from udx.runtime.frames import generated_frame
from udx.train.checkpoint import load_detector
from udx.train.recipes import RECIPES

HERE = Path(__file__).parent
WORKER, WEB = HERE / "clients_worker.py", HERE / "clients_web.mjs"
TOOLS: Final = (
    "onnx==1.23.2",
    "onnxruntime==1.32.0",
    "onnxsim",
    "onnxslim",
    "onnxoptimizer",
    "onnx-graphsurgeon",
    "polygraphy",
    "openvino",
    "tract",
)
OLDER: Final = ("1.18.1", "1.20.1", "1.22.1", "1.24.4")
"""Versions of ONNX Runtime, besides the one among the tools."""
REWRITERS: Final = ("onnx checker", "onnxsim", "onnxslim", "onnxoptimizer", "onnx-graphsurgeon", "polygraphy sanitize")
FOR_PORTABLE: Final = (*(f"version_converter to {opset}" for opset in (18, 21, 24)), "openvino", "tract")
FILES: Final[tuple[tuple[Modality, str], ...]] = (
    ("lidar", "fp32"),
    ("cam", "fp32"),
    ("fusion", "fp32"),
    ("fusion", "fp16"),
)
SECONDS: Final = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one client made of one file: how many of its boxes it found, or why none."""

    student: str
    precision: str
    portable: bool
    client: str
    version: str
    boxes: int = 0
    found: int = 0
    score_max: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One exported file, one frame for it, and what ONNX Runtime finds in it."""

    student: str
    precision: str
    portable: bool
    folder: Path
    frame: Tensors

    @property
    def model(self) -> Path:
        """The file."""
        return self.folder / "model.onnx"

    @property
    def inputs(self) -> Path:
        """The frame, for Python."""
        return self.folder / "inputs.npz"


@click.command()
@click.option("--student", "students", multiple=True, help="Only these; repeatable.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path.home() / ".cache" / "udx-clients")
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=HERE / "results" / "clients.json")
def main(students: tuple[str, ...], cache: Path, json_file: Path) -> None:
    """Let every client run every file; print a table and save it."""
    tools = python_with(cache / "main", TOOLS)
    older = {
        version: python_with(cache / f"ort-{version}", [f"onnxruntime=={version}", "numpy<3"]) for version in OLDER
    }
    web = node_with(cache / "web", ["onnxruntime-web"])
    rows: list[Row] = []
    with TemporaryDirectory(prefix="udx-clients-") as folder:
        for case in exported(Path(folder), students):
            reference = detections(in_python(tools, "onnxruntime", case)[1])
            for row in compared(case, reference, tools, older, web):
                rows.append(row)
                name = f"{case.student} {case.precision}{' portable' * case.portable}"
                say(f"{name}, {row.client} {row.version}: {told(row)}")
                found = {"environment": asdict(environment()), "rows": [asdict(one) for one in rows]}
                write_json(json_file, found)  # what is interrupted keeps what it has
    names = [f"{student} {precision}" for student, precision in FILES if not students or student in students]
    for portable in (False, True):
        of_kind = [row for row in rows if row.portable is portable]
        cells = {(row.client, f"{row.student} {row.precision}"): told(row) for row in of_kind}
        clients = dict.fromkeys(f"{row.client} {row.version}" for row in of_kind)
        plain = {f"{row.client} {row.version}": row.client for row in of_kind}
        title = "portable files" if portable else "files as udx export writes them"
        table(
            title,
            ["client", *names],
            [[key, *(cells.get((plain[key], name), "–") for name in names)] for key in clients],
        )
    say(f"written: {json_file}")


def exported(folder: Path, students: Sequence[str]) -> Iterator[Case]:
    """Every file, as it is and portable."""
    for student, precision in FILES:
        if students and student not in students:
            continue
        run = untrained_run(RECIPES["nano"](student), folder / f"run-{student}-{precision}")
        detector, record = load_detector(run.checkpoint)
        frame = dict(generated_frame(manifest_of(run, record), 0)[0]())
        model = to_onnx(DeployableDetector(detector), frame)
        model = to_fp16(model)[0] if precision == "fp16" else model
        for portable in (False, True):
            own = folder / f"{student}-{precision}{'-portable' * portable}"
            own.mkdir()
            content = (to_portable(model) if portable else model).SerializeToString()
            (own / "model.onnx").write_bytes(content)
            np.savez(own / "inputs.npz", **frame)
            yield Case(student=student, precision=precision, portable=portable, folder=own, frame=frame)


def compared(case: Case, reference: Detections, tools: Path, older: dict[str, Path], web: Path) -> Iterator[Row]:
    """What every client makes of a file."""
    contestants = [("onnxruntime", tools), *(("onnxruntime", python) for python in older.values())]
    contestants += [(client, tools) for client in (*REWRITERS, *(FOR_PORTABLE if case.portable else ()))]
    for client, python in contestants:
        yield row_of(case, client, reference, *in_python(python, client, case))
    yield row_of(case, "onnxruntime-web", reference, *in_node(web, "onnxruntime-web", case))


def row_of(case: Case, client: str, reference: Detections, version: str, found: dict[str, Any] | str) -> Row:
    """Compare what a client found; ``found`` is why it found nothing, if it is text."""
    common = {"student": case.student, "precision": case.precision, "portable": case.portable, "client": client}
    if isinstance(found, str):
        return Row(**common, version=version, error=found)
    agreed = agreement(reference, detections(found))
    return Row(**common, version=version, boxes=agreed.boxes, found=agreed.matched, score_max=agreed.score_max)


def detections(found: dict[str, Any] | str) -> Detections:
    """A client's outputs.

    Raises:
        UdxError: it gave none.
    """
    if isinstance(found, str):
        raise UdxError(f"ONNX Runtime does not run the export ({found}); export it again")
    return Detections(boxes_K9=found["boxes"], scores_K=found["scores"], labels_K=found["labels"])


def in_python(python: Path, client: str, case: Case) -> tuple[str, dict[str, Any] | str]:
    """Version of a client, and what it found or why it found nothing."""
    outputs = case.folder / "outputs.npz"
    outputs.unlink(missing_ok=True)
    said = run_process([str(python), str(WORKER), client, str(case.model), str(case.inputs), str(outputs)])
    lines = said.splitlines() or ["unknown"]
    if not outputs.exists():
        return lines[0], lines[-1]
    return lines[0], dict(np.load(outputs))


def in_node(packages: Path, package: str, case: Case) -> tuple[str, dict[str, Any] | str]:
    """The same of an npm package."""
    described = {}
    for name, array in case.frame.items():
        file = case.folder / f"{name}.bin"
        file.write_bytes(array.tobytes())
        described[name] = {"dtype": array.dtype.name, "shape": list(array.shape), "file": str(file)}
    inputs, outputs = case.folder / "inputs.json", case.folder / "outputs.json"
    inputs.write_text(json.dumps(described))
    outputs.unlink(missing_ok=True)
    said = run_process(["node", str(WEB), str(packages), package, str(case.model), str(inputs), str(outputs)])
    version = json.loads((packages / "node_modules" / package / "package.json").read_text())["version"]
    if not outputs.exists():
        return version, (said.splitlines() or ["it ended without a word"])[-1]
    found = json.loads(outputs.read_text())
    types = {"boxes": np.float32, "scores": np.float32, "labels": np.int64}
    return version, {name: np.array(found[name]["data"], types[name]).reshape(found[name]["dims"]) for name in types}


def run_process(command: Sequence[str]) -> str:
    """What a process says on standard output; one that crashes or hangs says so."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"unknown\nit took more than {SECONDS} s"
    if done.returncode < 0:
        return f"unknown\nit ended by signal {-done.returncode}"
    return done.stdout or "\n".join(done.stderr.splitlines()[-1:])


def python_with(folder: Path, packages: Sequence[str]) -> Path:
    """The interpreter of a virtual environment with these packages, made if it is not there."""
    python, made = folder / "bin" / "python", folder / ".made"
    if not made.exists() or made.read_text() != " ".join(packages):
        say(f"installing {', '.join(packages)} into {folder}")
        venv.create(folder, with_pip=True, clear=True)
        install([str(python), "-m", "pip", "install", "--quiet", *packages], folder)
        made.write_text(" ".join(packages))
    return python


def node_with(folder: Path, packages: Sequence[str]) -> Path:
    """A folder of these npm packages."""
    if not all((folder / "node_modules" / package).is_dir() for package in packages):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}')
        install(["npm", "install", "--prefix", str(folder), *packages], folder)
    return folder


def install(command: Sequence[str], folder: Path) -> None:
    """Run an installer.

    Raises:
        UdxError: it fails.
    """
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UdxError(f"{command[0]} could not install into {folder} ({error}); check the network") from error


def told(row: Row) -> str:
    """A cell of the table."""
    return row.error if row.error is not None else f"{row.found} of {row.boxes}"


if __name__ == "__main__":
    run_command(main)
