"""The plugins in TensorRT's real Python package and its real plugin registry, on TensorRT-RTX's C++ library.

No GPU is needed to register, create and configure. By default the installed bindings are tested. ``make test-tensorrt``
adds others: ``UDX_TENSORRT`` lists folders that hold a ``tensorrt_bindings``, a ``tensorrt_rtx_libs`` and, if it is not
to be the installed one, a ``numpy``.
``UDX_TENSORRT_INCLUDE`` names TensorRT's public headers (``include`` of its open-source repository); with them a C++
program asks the plugins what a builder asks.
"""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.ops.real_tensorrt.cases import CASES, Case
from tests.ops.real_tensorrt.libraries import find_compiler
from udx.operators import OPERATORS
from udx.ops.tensorrt_plugins import launch_parameters, portable

ROOT = Path(__file__).resolve().parents[2]
INSTALLED = "installed"
FOLDERS = [item for item in os.environ.get("UDX_TENSORRT", "").split(os.pathsep) if item]
INCLUDE = os.environ.get("UDX_TENSORRT_INCLUDE")
OUTPUT_TYPES = {"float32": 0, "float16": 1, "int32": 3}


def package(folder: Path | None, name: str) -> Path:
    """Find a package in a folder, or among the installed ones; skip the test without it."""
    if folder is not None:
        return folder / name
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        pytest.skip(f"{name} is not installed: pip install 'udx[dev,rtx]'")
    return Path(spec.origin).parent


@pytest.fixture(scope="module", params=[INSTALLED, *FOLDERS], ids=lambda item: Path(item).name)
def answers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one version of TensorRT answered."""
    pytest.importorskip("triton")
    folder = None if request.param == INSTALLED else Path(request.param)
    bindings, libraries = package(folder, "tensorrt_bindings"), package(folder, "tensorrt_rtx_libs")
    if find_compiler() is None:
        pytest.skip("no C++ compiler is installed: apt-get install g++")
    shims = tmp_path_factory.mktemp("shims")
    command = [sys.executable, "-m", "tests.ops.real_tensorrt.program", str(libraries), str(shims)]
    if INCLUDE is not None:
        command.append(INCLUDE)
    # The folder of the bindings goes first; without udx among what is installed, the checkout serves.
    path = [str(bindings.parent)] if folder is not None else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*path, str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_plugin_is_in_the_registry_once(answers: dict[str, Any]) -> None:
    assert answers["creators"] == sorted(kind.name for kind in OPERATORS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_parser_can_create_every_plugin_in_its_compiled_form(answers: dict[str, Any], case: Case) -> None:
    plugin = answers["plugins"][case.name]
    assert plugin["type"] == "_TemplateAOTPlugin"
    assert plugin["core"] == [case.name, "udx", "1"]
    # The parser fills the fields in this order, and the plugin reads them in it.
    assert plugin["fields"] == list(case.attributes)
    types = {float: "FLOAT32", int: "INT32"}
    assert plugin["field_types"] == [types[type(value)] for value in case.attributes.values()]


def test_the_builder_takes_the_configuration(answers: dict[str, Any]) -> None:
    if "configuration" not in answers:
        pytest.skip(f"no builder for TensorRT {answers['tensorrt']}: TensorRT-RTX's has another interface")
    assert answers["configuration"] == {
        "level": 2,
        "tf32": False,
        "aliased": True,
        "workspace": 2**29,
        "verbosity": "DETAILED",
        "monitored": True,
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_builder_gets_the_operators_launch_through_cpp(answers: dict[str, Any], case: Case) -> None:
    if "driven" not in answers:
        pytest.skip(f"UDX_TENSORRT_INCLUDE names no headers of TensorRT {answers['tensorrt']}")
    driven = answers["driven"][case.name]
    assert "failed_step" not in driven, driven
    launch = case.operator.launch(list(case.inputs))
    image = portable(launch)
    shapes = {name: tensor.shape for name, tensor in zip(case.operator.inputs, case.inputs, strict=True)}
    expected = launch_parameters(image.kernel, shapes)
    assert driven["supported"] is True
    assert (driven["name"], driven["namespace"], driven["version"]) == (case.name, "udx", "1")
    assert driven["launch"] == [*expected.grid, *expected.block, expected.shared_bytes]
    assert driven["scalars"] == list(expected.scalars)
    assert driven["entry"] == image.kernel.entry
    assert without_comments(driven["kernel"]) == without_comments(image.ptx.decode())
    outputs = case.operator.outputs([tensor.dtype for tensor in case.inputs])
    assert driven["output_types"] == [OUTPUT_TYPES[output.dtype] for output in outputs]
    assert driven["aliased"] == [
        case.operator.inputs.index(output.aliases) if output.aliases is not None else -1 for output in outputs
    ]


def without_comments(ptx: str) -> str:
    """PTX without its comments, which may name folders."""
    return re.sub(r"//.*", "", ptx)
