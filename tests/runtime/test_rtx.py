"""What TensorRT-RTX says of itself: asked of the real library, as far as it answers without a GPU."""

import pytest
from onnx import TensorProto, helper

from tests.runtime.device.gpu_stand_in import DIAGNOSTICS
from udx.errors import UdxError
from udx.runtime import rtx
from udx.runtime.engine_log import logger
from udx.runtime.rtx import listed, require_supported, require_valid, supported_capabilities

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'udx[rtx]'")


@pytest.fixture(scope="module")
def runtime():
    return trt.Runtime(logger(trt)[0])


def engine(*capabilities: int) -> bytes:
    """An engine of one node; portable without ``capabilities``."""
    value = helper.make_tensor_value_info
    tensors = [value(name, TensorProto.FLOAT, (4,)) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "exp", tensors[:1], tensors[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    builder = trt.Builder(logger(trt)[0])
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger(trt)[0]).parse(model.SerializeToString())
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        assert config.set_compute_capability(trt.ComputeCapability(capability), index)
    return bytes(memoryview(builder.build_serialized_network(network, config)))


def test_the_library_is_asked_for_the_gpus_that_it_supports():
    supported = supported_capabilities(trt)
    named = {int(name[2:]) for name in trt.ComputeCapability.__members__ if name.startswith("SM")}
    assert set(supported) == named, "what the bindings name the library supports, and nothing else"
    assert list(supported) == sorted(supported)
    assert logger(trt)[1].errors == [], "a refusal that was asked for is no error"
    for capability in supported[:2]:
        require_supported(trt, capability, "a GPU")
        assert len(engine(capability)) > 1000


@pytest.mark.parametrize("capability", [70, 87, 90, 100])
def test_other_gpus_are_refused_with_what_to_use_there(capability):
    if capability in supported_capabilities(trt):
        pytest.skip("this version supports it")
    said = (
        rf"^TensorRT-RTX \S+ does not support compute capability {capability / 10} \(NVIDIA H200\), only 7\.5, .*; "
        r"use --backend tensorrt or --backend onnxruntime-cuda on this GPU$"
    )
    with pytest.raises(UdxError, match=said):
        require_supported(trt, capability, "NVIDIA H200")


def test_a_damaged_engine_is_told_before_it_is_loaded(runtime):
    whole = engine()
    for damaged in (b"", b"\0" * 4000, whole[:20], b"x" + whole[1:]):
        said = rf"^segment-0 of a\.plan does not run here, says TensorRT-RTX {trt.__version__}: .*; "
        with pytest.raises(UdxError, match=said) as caught:
            require_valid(trt, runtime, damaged, "segment-0 of a.plan")
        assert "\n" not in str(caught.value)
    with pytest.raises(UdxError, match="the engine is damaged; copy the plan again, or build it again"):
        require_valid(trt, runtime, b"\0" * 4000, "segment-0 of a.plan")


def test_without_a_driver_the_library_s_own_words_are_told(runtime):
    from udx.runtime.cuda_driver import cuda_driver

    try:
        gpus = cuda_driver().devices
    except UdxError:
        gpus = ()
    if gpus:
        pytest.skip("there is a GPU here")
    with pytest.raises(UdxError, match=r"Error reading CUDA GPU properties.*; see udx doctor$"):
        require_valid(trt, runtime, engine(), "an engine")


def test_the_diagnostics_are_the_library_s():
    members = {name: int(value) for name, value in trt.EngineInvalidityDiagnostics.__members__.items()}
    assert members == DIAGNOSTICS
    assert set(members) == {name for name, _ in rtx._DIAGNOSTICS} == set(rtx._ADVICE)
    assert [member.name for member in (trt.EngineValidity(index) for index in range(3))] == [
        "VALID",
        "SUBOPTIMAL",
        "INVALID",
    ]


def test_what_a_runtime_cache_needs_is_there():
    for kind, names in {
        trt.ICudaEngine: ("create_runtime_config", "create_execution_context"),
        trt.IRuntimeConfig: (
            "create_runtime_cache", "set_runtime_cache", "set_execution_context_allocation_strategy",
        ),
        trt.IRuntimeCache: ("deserialize", "serialize"),
        trt.IExecutionContext: ("is_stream_capturable", "set_device_memory", "execute_async_v3"),
    }.items():  # fmt: skip
        assert all(callable(getattr(kind, name)) for name in names)


def test_capabilities_are_written_as_nvidia_writes_them():
    assert listed((75, 89, 120)) == "7.5, 8.9, 12.0"
