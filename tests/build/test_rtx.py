"""Plans for TensorRT-RTX, built by the library itself on a machine without a GPU, at the full size of recipe ``base``.

What cannot be tested here is that they run: an engine is loaded on a GPU only.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from tests.build.detectors import write_detector
from tests.build.exported import MODALITIES, exported_model, write_fp16, write_sealed
from tests.build.plans import Silent, build_plan
from tests.build.quantised import write_quantised
from udx.build import rtx
from udx.build.partition import Segment
from udx.build.partitioned import PartitionedBuild, build_partitioned
from udx.build.watch import Watch
from udx.data.spec import Modality
from udx.errors import UdxError
from udx.launch import CompiledKernel
from udx.ops import aot
from udx.runtime import open_engine
from udx.runtime.onnx_file import expected_inputs, expected_outputs
from udx.runtime.partitioned import KERNELS, PORTABLE, KernelStep, PartitionedPlan, SegmentStep, read_partitioned
from udx.runtime.rtx import supported_capabilities
from udx.tensors import TensorSpec

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'udx[rtx]'")
pytest.importorskip("triton", reason="compiles the kernels between segments")


@dataclass
class Seen:
    """What the library made of each segment: its inputs and outputs, from its own network."""

    segments: list[tuple[list[TensorSpec], list[TensorSpec]]] = field(default_factory=list)


@pytest.fixture
def seen(monkeypatch) -> Seen:
    """Looks at every network before it is built."""
    found, real = Seen(), rtx._require_same

    def look(library: Any, network: Any, wanted: Any, what: str) -> None:
        inputs = [network.get_input(index) for index in range(network.num_inputs)]
        outputs = [network.get_output(index) for index in range(network.num_outputs)]
        found.segments.append(tuple([described(tensor) for tensor in tensors] for tensors in (inputs, outputs)))
        real(library, network, wanted, what)

    monkeypatch.setattr(rtx, "_require_same", look)
    return found


def described(tensor: Any) -> TensorSpec:
    names = {"FLOAT": "float32", "HALF": "float16"}
    return TensorSpec(tensor.name, tuple(tensor.shape), names.get(tensor.dtype.name, tensor.dtype.name.lower()))


COMPILED: dict[tuple[str, int], Any] = {}


@pytest.fixture(autouse=True)
def compiled_once(monkeypatch) -> None:
    """Detectors of one recipe have most kernels in common: each is compiled once in all of these tests."""
    real = aot.compiled

    def compiled(jobs: Any) -> Iterator[Any]:
        missing = [job for job in jobs if key(job) not in COMPILED]
        COMPILED.update(zip(map(key, missing), real(missing), strict=True))
        return iter([COMPILED[key(job)] for job in jobs])

    def key(job: Any) -> tuple[str, int]:
        return str(job[0]), job[1]

    monkeypatch.setattr(aot, "compiled", compiled)


def write_base(precision: str, modality: Modality, path: Path) -> Path:
    model, manifest = exported_model("base", modality)
    if precision == "fp16":
        return write_fp16(path, model, manifest)
    if precision == "int8":
        return write_quantised(path, model, manifest)
    return write_sealed(path, model, manifest)


def require_chain(plan: PartitionedPlan, seen: Seen) -> None:
    """Follow the frame through the plan: what a step reads is what an earlier one wrote, as each of them sees it."""
    tensors = plan.by_name
    written = {name: tensors[name].spec for name in plan.inputs}
    engines = iter(seen.segments)
    for step in plan.steps:
        match step:
            case SegmentStep():
                inputs, outputs = next(engines)
            case KernelStep():
                kinds = zip(step.inputs, step.launch.inputs, strict=True)
                inputs = [TensorSpec(name, tensors[name].shape, kind.dtype) for name, kind in kinds]
                shapes = step.launch.outputs_for(step.shapes(tensors))
                made = zip(step.outputs, step.launch.outputs, shapes, strict=True)
                outputs = [TensorSpec(name, shape, kind.dtype) for name, kind, shape in made]
        assert [spec.name for spec in inputs] == list(step.inputs)
        assert [spec.name for spec in outputs] == list(step.outputs)
        for spec in inputs:
            base = tensors[spec.name].view_of
            if base is None:
                assert written[spec.name] == spec
            else:
                assert written[base].dtype == spec.dtype
                assert written[base].num_bytes == spec.num_bytes
        written |= {spec.name: spec for spec in outputs}
    assert not list(engines)
    assert {written[name] for name in plan.outputs} == {tensors[name].spec for name in plan.outputs}


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_full_size_detector_becomes_engines_and_kernels_that_fit_together(precision, modality, seen, tmp_path):
    file = write_base(precision, modality, tmp_path / "student.onnx")
    built = build_plan(file, tmp_path / "student.plan", "tensorrt-rtx", precision=precision)
    read = read_partitioned(built.path)
    plan = read.plan
    assert plan == built.plan
    require_chain(plan, seen)
    assert tuple(plan.by_name[name].spec for name in plan.inputs) == expected_inputs(read.manifest)
    assert tuple(plan.by_name[name].spec for name in plan.outputs) == expected_outputs(read.manifest)
    assert (plan.backend, plan.backend_version, plan.precision) == ("tensorrt-rtx", trt.__version__, precision)
    assert len(plan.segments) == 2
    assert len(plan.kernel_steps) == {"cam": 1, "lidar": 5, "fusion": 6}[modality]
    require_images(built, read.members)
    between = {plan.by_name[name].dtype for step in plan.kernel_steps for name in (*step.inputs, *step.outputs)}
    assert ("float16" in between) == (precision == "fp16" and modality != "lidar")
    if precision != "fp32":
        weights = file.stat().st_size
        assert sum(built.engine_bytes.values()) < 1.5 * weights
    if modality != "cam":
        assert plan.arena_bytes < plan.unshared_bytes


def require_images(built: PartitionedBuild, members: dict[str, bytes]) -> None:
    """An engine for every segment, and for every kernel PTX and cubin for every GPU."""
    plan = built.plan
    for step in plan.segments:
        assert trt.Runtime(trt.Logger()).engine_header_size < len(members[step.file]) == built.engine_bytes[step.file]
    kernels: tuple[CompiledKernel, ...] = plan.kernels.kernels
    for step in plan.kernel_steps:
        assert {kernel.arch for kernel in kernels if kernel.launch == step.launch} == set(PORTABLE)
    for kernel in kernels:
        assert members[KERNELS + kernel.cubin.name].startswith(b"\x7fELF")
        assert kernel.entry.encode() in members[KERNELS + kernel.ptx.name]


@pytest.fixture
def detector(tmp_path) -> Path:
    return write_detector(tmp_path / "student.onnx")


def test_an_architecture_of_one_s_own(detector, tmp_path):
    built = build_plan(detector, tmp_path / "student.plan", "tensorrt-rtx", arches=(89,))
    assert built.plan.capabilities == (89,)
    assert {kernel.arch for kernel in built.plan.kernels.kernels} == {89}
    assert "for compute capability 8.9;" in built.summary()
    described = json.loads(json.dumps(built.to_json()))
    assert described["capabilities"] == [89]
    assert [step["kind"] for step in described["steps"]] == ["kernel", "kernel", "segment"]


@pytest.mark.parametrize("arch", [75, 87, 90, 100])
def test_no_engine_is_promised_for_a_gpu_that_the_library_does_not_name(detector, tmp_path, arch):
    assert (arch in supported_capabilities(trt)) == (arch == 75), "its kernels cannot be compiled"
    with pytest.raises(
        UdxError, match=rf"TensorRT-RTX \S+ builds no plans for --arch {arch}, only for 80,86,89,120,121"
    ):
        build_plan(detector, tmp_path / "student.plan", "tensorrt-rtx", arches=(arch,))


@pytest.mark.parametrize(
    ("precision", "said"),
    [
        ("fp32", "is made for 16-bit types.*udx export --precision fp16"),
        ("fp8", "documents FP8 for matrix multiplications alone.*or INT8"),
        ("fp16", None),
        ("int8", None),
    ],
)
def test_one_sentence_says_what_the_library_makes_of_a_precision(detector, tmp_path, precision, said):
    built = build_plan(detector, tmp_path / "student.plan", "tensorrt-rtx", arches=(89,))
    other = replace(built, plan=replace(built.plan, precision=precision))
    assert other.to_json()["advice"] == other.advice
    assert (said is None) == (other.advice is None) == ("\n" not in other.summary())
    if said is not None:
        assert re.search(said, other.summary().splitlines()[1])
    on_cpu = build_plan(detector, tmp_path / "cpu.plan")
    assert on_cpu.plan.precision == "fp32" and on_cpu.advice is None


def test_portable_plans_are_for_gpus_that_the_library_supports(monkeypatch):
    assert set(PORTABLE) <= set(rtx.buildable_capabilities(trt)) <= set(aot.PTX_VERSIONS)
    monkeypatch.setattr(rtx, "supported_capabilities", lambda library: (86, 89, 120))
    with pytest.raises(
        UdxError, match=r"supports no compute capability 8\.0 any more; choose of 86,89,120 with --arch"
    ):
        rtx.require_capabilities(trt, ())
    rtx.require_capabilities(trt, (86,))


def test_a_plan_for_a_gpu_does_not_run_on_the_cpu(detector, tmp_path):
    plan = build_plan(detector, tmp_path / "student.plan", "tensorrt-rtx").path
    with pytest.raises(UdxError, match=r"runs on what it was built for \(tensorrt-rtx\) and not on onnxruntime"):
        open_engine(plan, "onnxruntime")
    assert open_engine(plan).settings == {"backend": "tensorrt-rtx", "version": trt.__version__}


def segment_of(op_type: str, outputs: list[str], **attributes: Any) -> tuple[Segment, list[TensorSpec]]:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node(op_type, ["x"], outputs, "culprit", **attributes)]
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, (4,))], [value(outputs[0], TensorProto.FLOAT, (4,))]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    specs = [TensorSpec(name, (4,), "float32") for name in ("x", outputs[0])]
    return Segment(name="segment-7", model=model, inputs=("x",), outputs=(outputs[0],)), specs


def build_one(segment: Segment, specs: list[TensorSpec]) -> bytes:
    watch = Watch(Silent())
    return rtx.build_segment(segment, specs[:1], specs[1:], source=Path("a/student.onnx"), arches=(), watch=watch)


def test_a_segment_that_the_library_refuses_is_named_with_its_node():
    with pytest.raises(UdxError, match=r'cannot read a/student\.onnx#segment-7: Unique "culprit".*') as caught:
        build_one(*segment_of("Unique", ["y", "i", "j", "n"]))
    assert "\n" not in str(caught.value)


def test_the_library_must_see_the_tensors_that_the_plan_sees():
    segment, specs = segment_of("Exp", ["y"])
    assert len(build_one(segment, specs)) > 1000
    with pytest.raises(UdxError, match=r"reads segment-7 of a/student\.onnx as x float32\[4\], y float32\[4\]"):
        build_one(segment, [specs[0], TensorSpec("y", (4,), "float16")])


def test_without_the_library_the_error_says_how_to_install_it(detector, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(UdxError, match=r"TensorRT-RTX is not installed .*; pip install 'udx\[rtx\]'"):
        build_plan(detector, tmp_path / "student.plan", "tensorrt-rtx")


def test_ctrl_c_stops_the_build_and_nothing_is_written(detector, tmp_path, press_ctrl_c, monkeypatch):
    class Impatient(Silent):
        def start(self, phase: str, depth: int, steps: int) -> None:
            if "compiling" not in phase:
                press_ctrl_c()

    with pytest.raises(KeyboardInterrupt):
        build_partitioned(detector, tmp_path / "student.plan", backend="tensorrt-rtx", display=Impatient())
    assert [path.name for path in tmp_path.iterdir()] == ["student.onnx"]
