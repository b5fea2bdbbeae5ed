"""One client reads one exported file and runs it: no udx here, only what a user of that client has.

    python clients_worker.py CLIENT MODEL.onnx INPUTS.npz OUTPUTS.npz

Exits with 0 and writes boxes, scores and labels; or tells on its last line why not, and exits with 1. A client that
rewrites the file does so, and ONNX Runtime runs what it wrote.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]
OUTPUTS = ("boxes", "scores", "labels")


def run_onnxruntime(model: Path, inputs: Arrays) -> Arrays:
    """Run a file on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return dict(zip(OUTPUTS, session.run(list(OUTPUTS), inputs), strict=True))


def rewritten(rewrite: Callable[[Any], Any]) -> Callable[[Path, Arrays], Arrays]:
    """What reads a file with onnx, rewrites the model, has it checked, and runs the result."""

    def run(model: Path, inputs: Arrays) -> Arrays:
        import onnx

        changed = rewrite(onnx.load(model))
        onnx.checker.check_model(changed, full_check=True)
        return saved_and_run(changed, inputs)

    return run


def saved_and_run(model: Any, inputs: Arrays) -> Arrays:
    """Run what a client wrote."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "rewritten.onnx")
        return run_onnxruntime(Path(folder) / "rewritten.onnx", inputs)


def simplify(model: Any) -> Any:
    """Rewrite with onnxsim."""
    import onnxsim

    simplified, same = onnxsim.simplify(model)
    if not same:
        raise RuntimeError("onnxsim says that its result differs")
    return simplified


def slim(model: Any) -> Any:
    """Rewrite with onnxslim."""
    import onnxslim

    return onnxslim.slim(model)


def through_graphsurgeon(model: Any) -> Any:
    """Import into GraphSurgeon, clean up and sort, and export."""
    import onnx_graphsurgeon

    graph = onnx_graphsurgeon.import_onnx(model)
    return onnx_graphsurgeon.export_onnx(graph.cleanup().toposort())


def optimize(model: Any) -> Any:
    """Rewrite with onnxoptimizer."""
    import onnxoptimizer

    return onnxoptimizer.optimize(model)


def to_opset(version: int) -> Callable[[Any], Any]:
    """What converts a model to another opset."""

    def convert(model: Any) -> Any:
        from onnx import version_converter

        return version_converter.convert_version(model, version)

    return convert


def sanitize(model: Path, inputs: Arrays) -> Arrays:
    """Fold constants with Polygraphy."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "folded.onnx"
        polygraphy = Path(sys.executable).parent / "polygraphy"
        command = [sys.executable, str(polygraphy), "surgeon", "sanitize", str(model), "--fold-constants"]
        subprocess.run([*command, "-o", str(out)], check=True, capture_output=True)
        return run_onnxruntime(out, inputs)


def run_openvino(model: Path, inputs: Arrays) -> Arrays:
    """Run in OpenVINO on the CPU, in FP32: it takes BF16 where the processor has it."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(inputs)
    return {name: found[compiled.output(name)] for name in OUTPUTS}


def run_tract(model: Path, inputs: Arrays) -> Arrays:
    """Run in tract."""
    import tract

    runnable = tract.onnx().load(str(model)).into_model().into_runnable()
    found = runnable.run([np.ascontiguousarray(array) for array in inputs.values()])
    return {name: tensor.to_numpy() for name, tensor in zip(OUTPUTS, found, strict=True)}


CLIENTS: Mapping[str, tuple[str, Callable[[Path, Arrays], Arrays]]] = {
    "onnxruntime": ("onnxruntime", run_onnxruntime),
    "onnx checker": ("onnx", rewritten(lambda model: model)),
    "onnxsim": ("onnxsim", rewritten(simplify)),
    "onnxslim": ("onnxslim", rewritten(slim)),
    "onnxoptimizer": ("onnxoptimizer", rewritten(optimize)),
    "onnx-graphsurgeon": ("onnx-graphsurgeon", rewritten(through_graphsurgeon)),
    "polygraphy sanitize": ("polygraphy", sanitize),
    "version_converter to 18": ("onnx", rewritten(to_opset(18))),
    "version_converter to 21": ("onnx", rewritten(to_opset(21))),
    "version_converter to 24": ("onnx", rewritten(to_opset(24))),
    "openvino": ("openvino", run_openvino),
    "tract": ("tract", run_tract),
}
"""Distribution and function of each client."""


def main(client: str, model: str, inputs: str, outputs: str) -> None:
    """Run one client."""
    distribution, run = CLIENTS[client]
    try:
        found = run(Path(model), dict(np.load(inputs)))
    except Exception as error:  # whatever a client throws is its answer
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        print(metadata.version(distribution))
        print(lines[0][:300])
        raise SystemExit(1) from error
    np.savez(outputs, **found)
    print(metadata.version(distribution))


if __name__ == "__main__":
    main(*sys.argv[1:])
