"""A whole plan on the fake driver, run by ``test_driver.py`` in a process of its own.

The kernels are the real ones, as far as their launch; the engines have a step's tensors, and do nothing.

``UDX_PLAN`` is a plan of TensorRT-RTX, ``UDX_DRIVER`` the library that calls the driver: ``bindings``,
``pycuda``, or ``pycuda-stand-in``.
"""

import os
import sys
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.runtime.device.fake_cuda import Fake, require_clean
from udx.runtime import open_engine
from udx.runtime.frames import generated_frame
from udx.runtime.partitioned import read_partitioned

KIND = os.environ["UDX_DRIVER"]
PLAN = read_partitioned(Path(os.environ["UDX_PLAN"]))
MODE = IntEnum("TensorIOMode", "NONE INPUT OUTPUT", start=0)
STRATEGY = IntEnum("ExecutionContextAllocationStrategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED", start=0)
VALIDITY = IntEnum("EngineValidity", "VALID SUBOPTIMAL INVALID", start=0)


class Engine:
    """An engine with a step's inputs and outputs; running it enqueues nothing."""

    device_memory_size_v2 = 5000

    def __init__(self, step: Any) -> None:
        self.tensors = dict.fromkeys(step.inputs, MODE.INPUT) | dict.fromkeys(step.outputs, MODE.OUTPUT)
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.tensors[name]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return PLAN.plan.by_name[name].shape

    def get_tensor_dtype(self, name: str) -> Any:
        return np.dtype(PLAN.plan.by_name[name].dtype)

    def create_runtime_config(self) -> "Engine":
        return self

    set_execution_context_allocation_strategy = set_runtime_cache = lambda self, what: None
    create_runtime_cache = create_runtime_config
    deserialize = lambda self, content: True  # noqa: E731
    serialize = lambda self: b"compiled"  # noqa: E731

    def create_execution_context(self, how: Any) -> "Engine":
        return self

    set_device_memory = lambda self, address, size: None  # noqa: E731
    set_tensor_address = lambda self, name, address: address % 256 == 0  # noqa: E731
    is_stream_capturable = execute_async_v3 = lambda self, stream: stream > 0


class Runtime:
    def __init__(self, log: Any) -> None: ...

    def get_engine_validity(self, content: bytes) -> tuple[Any, int]:
        return VALIDITY.VALID, 0

    def deserialize_cuda_engine(self, content: bytes) -> Engine:
        return Engine(next(step for step in PLAN.plan.segments if PLAN.members[step.file] == content))


class Builder:
    num_compute_capabilities = 0

    def __init__(self, log: Any) -> None: ...

    def create_builder_config(self) -> "Builder":
        return self

    def set_compute_capability(self, capability: int, index: int) -> bool:
        return capability in (86, 89)


class ILogger:
    Severity = IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("tensorrt_rtx_bindings")
    library.__version__ = PLAN.plan.backend_version
    for name, value in {
        "ILogger": ILogger, "Runtime": Runtime, "Builder": Builder, "ComputeCapability": int, "TensorIOMode": MODE,
        "ExecutionContextAllocationStrategy": STRATEGY, "EngineValidity": VALIDITY,
    }.items():  # fmt: skip
        setattr(library, name, value)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", library)
    if KIND == "pycuda-stand-in":
        from tests.runtime.device import pycuda_stand_in

        pycuda_stand_in.install()
    if KIND == "pycuda":
        sys.setdlopenflags(os.RTLD_LAZY)  # it asks for functions that the fake driver has not, and calls none
    if KIND != "bindings":
        for name in ("cuda", "cuda.bindings"):
            monkeypatch.setitem(sys.modules, name, None)


def test_a_plan_takes_runs_and_gives_back(tmp_path, monkeypatch):
    monkeypatch.setenv("UDX_CACHE", str(tmp_path))
    fake, plan = Fake(), PLAN.plan
    runner = open_engine(PLAN.path)
    frame = generated_frame(runner.manifest, seed=0)[0]()
    for _ in range(2):
        fake.report()
        with runner:
            assert fake.current() == 0, "between two frames the context is nobody's"
            graph = runner.settings["cuda_graph"]
            assert graph == "yes" if KIND == "bindings" else "no: pycuda has no calls for CUDA graphs" in str(graph)
            assert runner.settings["driver"] == {"bindings": "cuda-bindings"}.get(KIND, "pycuda")
            warm_up = fake.report()["launches"]
            runner.infer(frame)
            report = fake.report()
            assert report["violations"] == []
            assert report["launches"] == warm_up
            require_order(warm_up)
            calls = [call for call in report["calls"] if not call.startswith("cuCtx")]
            if KIND == "bindings":
                expected = ["cuEventRecordWithFlags", "cuMemcpyHtoDAsync", "cuGraphLaunch", "cuStreamSynchronize"]
                assert calls == expected
            assert all(time > 0 for time in runner.stages_ms().values())
        require_clean(fake.report())
    assert len(plan.kernel_steps) == len(warm_up) > 1


def require_order(launches: list[dict[str, Any]]) -> None:
    """The kernels in the plan's order, on the plan's tensors, with the launches' scalars."""
    plan = PLAN.plan
    arena = launches[0]["arguments"][0] - plan.by_name[plan.kernel_steps[0].inputs[0]].offset
    for step, launch in zip(plan.kernel_steps, launches, strict=True):
        shapes = step.shapes(plan.by_name)
        assert launch["kernel"] == step.launch.kernel
        assert launch["grid"] == list(step.launch.grid_for(shapes))
        assert launch["arguments"] == [
            *(arena + plan.by_name[name].offset for name in step.inputs),
            *step.launch.scalars_for(shapes),
            *(arena + plan.by_name[name].offset for name in step.outputs),
        ]
