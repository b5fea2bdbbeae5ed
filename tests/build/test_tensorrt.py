"""Plans of TensorRT: the whole flow on a stand-in for the library, from a file to a plan, a record and a cache."""

import importlib.util
import json
import sys
import threading
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from tests.build import tensorrt_stand_in as stand_in
from tests.build.detectors import voxelizing_detector, write_detector
from tests.build.plans import Silent
from tests.build.tensorrt_stand_in import BuilderFlag, Machine, MemoryPoolType, PreviewFeature
from udx.build import tensorrt as module
from udx.build.builder import TensorrtSettings
from udx.build.cache import EngineCache
from udx.build.tensorrt import build_tensorrt
from udx.build.watch import Watch
from udx.errors import UdxError
from udx.files import sha256_of
from udx.manifest import METADATA_KEY
from udx.runtime.cuda_driver import CudaDevice, CudaDriver
from udx.runtime.graph import structure_of
from udx.runtime.plan_file import read_plan

GPU = CudaDevice(name="Some GPU", compute_capability=(8, 9), multiprocessors=58, memory_bytes=16 << 30, uuid="GPU-0")


class Pressing(Silent):
    """Presses Ctrl-C when the builder has begun to time tactics, and lets it go on once that was heard."""

    def __init__(self, press):
        self._press = press

    def start(self, phase, depth, steps):
        if phase == "Timing tactics":
            self._press()


@pytest.fixture
def machine(monkeypatch):
    """A machine with a GPU and TensorRT; kernels are compiled to their own description."""
    from udx.ops import tensorrt_plugins

    found = Machine()
    stand_in.install(monkeypatch, found)
    monkeypatch.setattr(module, "cuda_driver", lambda: CudaDriver(cuda_version=(13, 0), devices=(GPU,)))
    monkeypatch.setattr(tensorrt_plugins, "portable", lambda launch: SimpleNamespace(ptx=repr(launch).encode()))
    return found


@pytest.fixture
def detector(tmp_path):
    return write_detector(tmp_path / "student.onnx")


def build(detector, name="student.plan", **options):
    return build_tensorrt(detector, detector.with_name(name), display=options.pop("display", Silent()), **options)


def test_a_plan_and_its_record(machine, detector):
    built = build(detector)
    plan = read_plan(detector.with_name("student.plan"))
    assert plan.record == built.record and not built.cached
    record = built.record
    assert record.sha256 == sha256(built.path.read_bytes()).hexdigest()
    assert built.path.read_bytes().startswith(b"ftrt")
    assert record.onnx_sha256 == sha256_of(detector)
    assert record.plugins == {"cells": "UdxVoxelCells", "sums": "UdxVoxelSums"}
    assert {str(spec) for spec in record.inputs} == {"points float32[500, 5]", "num_points int32[1]"}
    assert {spec.name for spec in record.outputs} == {"boxes", "scores", "labels"}
    assert (record.key.tensorrt, record.key.gpu, record.key.compute_capability) == ("10.15.1.29", "Some GPU", (8, 9))
    assert record.device_memory_bytes == 3 << 20
    assert record.warnings == ("a layer has no choice of tactics",)
    assert plan.manifest.recipe == "nano"
    assert json.dumps(built.to_json())
    assert "2 plugins of udx" in built.summary() and "\n" not in built.summary()


def test_the_builder_is_asked_for_what_the_settings_say(machine, detector):
    build(detector)
    (config,) = machine.configs
    assert config.builder_optimization_level == 3
    assert BuilderFlag.TF32 in config.flags
    assert PreviewFeature.ALIASED_PLUGIN_IO_10_03 in config.previews
    assert not config.limits
    build(detector, settings=TensorrtSettings(level=5, tf32=False, workspace_gib=0.5))
    config = machine.configs[-1]
    assert config.builder_optimization_level == 5
    assert BuilderFlag.TF32 not in config.flags
    assert config.limits == {MemoryPoolType.WORKSPACE: 512 << 20}


@pytest.mark.parametrize(
    "wrong", [{"level": 6}, {"level": -1}, {"workspace_gib": 0.0}, {"workspace_gib": float("nan")}]
)
def test_settings_that_no_builder_takes_are_refused(wrong):
    with pytest.raises(UdxError, match=r"choose one from 0 to 5|holds nothing"):
        TensorrtSettings(**wrong)


def test_an_open_point_buffer_is_built_at_its_largest(machine, tmp_path):
    path = write_detector(tmp_path / "student.onnx", open_points=True)
    built = build(path)
    assert {str(spec) for spec in built.record.inputs} == {"points float32[500, 5]", "num_points int32[1]"}
    assert built.record.manifest["dynamic"] == {}
    assert read_plan(built.path).manifest.dynamic == {}
    assert built.record.structure == structure_of(onnx.load(path), {"points": 500})


# -- plugins -----------------------------------------------------------------------------------------------------------


def test_a_misspelt_namespace_is_refused_before_anything_is_built(machine, tmp_path):
    path = write_detector(tmp_path / "student.onnx", plugin_namespace="udxx")
    with pytest.raises(UdxError, match=r"node cells .UdxVoxelCells. has plugin_namespace 'udxx', not 'udx'"):
        build(path)
    assert machine.builds == 0 and not (tmp_path / "student.plan").exists()


def test_a_plugin_that_tensorrt_does_not_find_is_no_silent_function_body(machine, detector, monkeypatch):
    from udx.ops import tensorrt_plugins

    monkeypatch.setattr(tensorrt_plugins, "register_plugins", lambda: None)
    with pytest.raises(UdxError, match=r"made 0 plugin layers of its 1 nodes UdxVoxelCells .cells."):
        build(detector)
    assert machine.builds == 0 and not detector.with_name("student.plan").exists()


def test_a_plugin_of_another_namespace_is_not_ours(machine, detector, monkeypatch):
    from udx.ops import tensorrt_plugins

    def misspelt():
        for name in ("UdxVoxelCells", "UdxVoxelSums"):
            machine.plugins[name, "1", "udxx"] = name

    monkeypatch.setattr(tensorrt_plugins, "register_plugins", misspelt)
    with pytest.raises(UdxError, match="0 plugin layers"):
        build(detector)


def test_the_flow_needs_no_plugin_where_there_is_no_node(machine, tmp_path):
    from tests.runtime.conftest import detector_model, manifest_of

    path = tmp_path / "plain.onnx"
    onnx.save(detector_model(manifest_of("lidar")), path)
    assert build(path).record.plugins == {}
    assert machine.plugins == {}


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_what_the_parser_refuses_is_one_sentence(machine, detector):
    machine.refuses = "Cast"
    with pytest.raises(
        UdxError, match=r'cannot read .*student\.onnx: Cast "sums_f": Invalid Node - sums_f; this'
    ) as said:
        build(detector)
    assert "\n" not in str(said.value)
    assert not detector.with_name("student.plan").exists()


def test_a_library_that_cannot_start_says_why(machine, detector):
    machine.starts = False
    with pytest.raises(UdxError, match="cannot start: CUDA initialization failure with error: 35; run udx doctor"):
        build(detector)


def test_a_build_that_fails_says_why(machine, detector, monkeypatch):
    def fails(self, network, config):
        self._logger.log(stand_in.Severity.ERROR, "Error Code 10: could not find any implementation\nfor node conv")
        return

    monkeypatch.setattr(stand_in.Builder, "build_serialized_network", fails)
    with pytest.raises(UdxError, match=r"built no engine of .*: Error Code 10: could not find any implementation; for"):
        build(detector)


def test_an_engine_that_does_not_load_is_not_written(machine, detector, monkeypatch):
    real = stand_in.Runtime.deserialize_cuda_engine

    def newer(self, plan):
        self._machine.version = "11.0"
        return real(self, plan)

    monkeypatch.setattr(stand_in.Runtime, "deserialize_cuda_engine", newer)
    with pytest.raises(UdxError, match=r"cannot load the engine that it built .* not compatible"):
        build(detector)
    assert not detector.with_name("student.plan").exists()


def test_an_engine_with_other_tensors_is_not_written(machine, detector, monkeypatch):
    real = stand_in.Engine.__init__

    def other(self, described):
        described["tensors"][0][3] = "float16"
        real(self, described)

    monkeypatch.setattr(stand_in.Engine, "__init__", other)
    with pytest.raises(UdxError, match="its manifest do not agree on labels"):
        build(detector)


def test_ctrl_c_stops_the_builder_and_writes_no_plan(machine, detector, tmp_path, press_ctrl_c, monkeypatch):
    cache = EngineCache(tmp_path / "cache")
    heard = threading.Event()
    cancel = Watch.cancel
    monkeypatch.setattr(Watch, "cancel", lambda self: (cancel(self), heard.set()))

    def press():
        press_ctrl_c()
        assert heard.wait(30)

    with pytest.raises(KeyboardInterrupt):
        build(detector, display=Pressing(press), cache=cache)
    assert not detector.with_name("student.plan").exists()
    assert not list(tmp_path.glob("cache/engines/*"))
    kept = cache.timings("10.15.1.29", GPU)
    assert kept.read_bytes() == b"timings Some GPU 12"  # what was measured is not lost


# -- what is missing ---------------------------------------------------------------------------------------------------


def no_driver():
    raise UdxError("no NVIDIA driver is installed")


def test_without_tensorrt_and_gpu_both_are_said(monkeypatch, detector):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(module, "cuda_driver", no_driver)
    with pytest.raises(
        UdxError,
        match=r"TensorRT is not installed, pip install 'tensorrt>=10\.15'; and no NVIDIA driver.*tensorrt-rtx$",
    ):
        build(detector)


def test_without_a_gpu_that_alone_is_said(machine, monkeypatch, detector):
    monkeypatch.setattr(module, "cuda_driver", lambda: CudaDriver(cuda_version=(13, 0), devices=()))
    with pytest.raises(UdxError, match="built here: the NVIDIA driver shows no GPU"):
        build(detector)


def test_an_old_tensorrt_is_refused(monkeypatch, detector):
    stand_in.install(monkeypatch, Machine(version="10.9.0.34"))
    monkeypatch.setattr(module, "cuda_driver", no_driver)
    with pytest.raises(UdxError, match=r"TensorRT 10\.9\.0\.34 embeds no compiled plugins"):
        build(detector)


def test_a_file_that_is_no_detector_is_found_before_the_library(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    (tmp_path / "a.onnx").write_bytes(b"not an ONNX file")
    with pytest.raises(UdxError, match="damaged or not an ONNX file"):
        build(tmp_path / "a.onnx")


# -- the cache ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path):
    return EngineCache(tmp_path / "cache")


def test_a_second_build_is_a_copy(machine, detector, cache):
    first = build(detector, cache=cache)
    second = build(detector, "again.plan", cache=cache)
    assert (first.cached, second.cached, machine.builds) == (False, True, 1)
    assert "from the cache, built" in second.summary()
    assert read_plan(second.path).record == first.record
    assert second.path.read_bytes() == first.path.read_bytes()


def test_without_a_cache_nothing_is_kept(machine, detector):
    build(detector)
    build(detector)
    assert machine.builds == 2


def test_another_description_of_the_same_graph_is_the_same_engine(machine, detector, cache):
    build(detector, cache=cache)
    model = voxelizing_detector()
    manifest = json.loads(model.metadata_props[0].value) | {"recipe": "renamed"}
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(manifest)})
    onnx.save(model, detector)
    built = build(detector, "again.plan", cache=cache)
    assert built.cached and machine.builds == 1
    assert read_plan(built.path).manifest.recipe == "renamed"
    assert built.record.onnx_sha256 == sha256_of(detector)


@pytest.mark.parametrize(
    "change",
    [
        lambda machine, detector, patch: write_detector(detector, seed=1),
        lambda machine, detector, patch: write_detector(detector, z_max=2.0),
        lambda machine, detector, patch: setattr(sys.modules["tensorrt"], "__version__", "10.16.0"),
        lambda machine, detector, patch: patch.setattr(module.udx, "__version__", "9.9"),
        lambda machine, detector, patch: patch.setattr(
            module,
            "cuda_driver",
            lambda: CudaDriver(cuda_version=(13, 0), devices=(CudaDevice(**(_fields(GPU) | {"multiprocessors": 60})),)),
        ),
        lambda machine, detector, patch: patch.setattr(
            "udx.ops.tensorrt_plugins.portable", lambda launch: SimpleNamespace(ptx=b"new kernel")
        ),
    ],
    ids=["weights", "attributes", "tensorrt", "udx", "gpu", "kernels"],
)
def test_whatever_changes_is_built_anew(machine, detector, cache, monkeypatch, change):
    build(detector, cache=cache)
    change(machine, detector, monkeypatch)
    assert not build(detector, "again.plan", cache=cache).cached
    assert machine.builds == 2


def _fields(device):
    return {name: getattr(device, name) for name in device.__slots__}


def test_other_settings_are_another_engine(machine, detector, cache):
    build(detector, cache=cache)
    assert not build(detector, "again.plan", cache=cache, settings=TensorrtSettings(tf32=False)).cached


def test_a_damaged_plan_in_the_cache_is_built_anew(machine, detector, cache):
    build(detector, cache=cache)
    (kept,) = cache.folder.glob("engines/*/engine.plan")
    kept.write_bytes(kept.read_bytes()[:-1])
    assert not build(detector, "again.plan", cache=cache).cached
    assert build(detector, "third.plan", cache=cache).cached


def test_a_timing_cache_that_cannot_be_serialized_hides_no_error(machine, detector, cache, monkeypatch):
    def fail(self):
        raise RuntimeError("Unable to serialize timing cache")

    def refuse(self, network, config):
        self._logger.log(stand_in.Severity.ERROR, "no implementation for node pool")

    monkeypatch.setattr(stand_in.TimingCache, "serialize", fail)
    built = build(detector, cache=cache)
    assert any("timing cache was not kept" in warning for warning in built.record.warnings)
    monkeypatch.setattr(stand_in.Builder, "build_serialized_network", refuse)
    with pytest.raises(UdxError, match="no implementation for node pool"):
        build(detector, "other.plan", cache=cache, settings=TensorrtSettings(level=1))


def test_timings_add_up_over_builds_and_are_not_taken_from_another_gpu(machine, detector, cache):
    build(detector, cache=cache)
    path = cache.timings("10.15.1.29", GPU)
    assert path.read_bytes() == b"timings Some GPU 12"
    build(detector, cache=cache, settings=TensorrtSettings(level=4))
    assert path.read_bytes() == b"timings Some GPU 24"
    for level, foreign in enumerate((b"timings Other GPU 99", b"damaged")):
        path.write_bytes(foreign)
        build(detector, cache=cache, settings=TensorrtSettings(level=level))
        assert path.read_bytes() == b"timings Some GPU 12"


def test_a_cache_that_cannot_be_written_costs_no_plan(machine, detector, tmp_path):
    (tmp_path / "file").write_text("in the way")
    built = build(detector, cache=EngineCache(tmp_path / "file" / "cache"))
    assert read_plan(built.path).record.sha256 == built.record.sha256
    assert any("timing cache was not kept" in warning for warning in built.record.warnings)
    assert any("plan was not kept" in warning for warning in built.record.warnings)


def test_an_output_that_cannot_be_written_is_one_sentence(machine, detector, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UdxError, match="cannot write"):
        build_tensorrt(detector, tmp_path / "file" / "student.plan", display=Silent())


# -- the library's own names -------------------------------------------------------------------------------------------

NAMES = (
    "STRONGLY_TYPED", "create_network", "build_serialized_network", "create_builder_config",
    "builder_optimization_level", "profiling_verbosity", "set_preview_feature", "ALIASED_PLUGIN_IO_10_03",
    "set_memory_pool_limit", "progress_monitor", "create_timing_cache", "set_timing_cache", "serialize",
    "OnnxParser", "num_errors", "get_error", "node_operator", "node_name", "PLUGIN_V3", "IPluginV3Layer",
    "get_capability_interface", "PluginCapabilityType", "plugin_name", "plugin_namespace", "plugin_version",
    "deserialize_cuda_engine", "num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype",
    "get_tensor_shape", "num_layers", "device_memory_size_v2", "phase_start", "step_complete", "phase_finish",
)  # fmt: skip


@pytest.mark.parametrize(
    ("package", "library"), [("tensorrt_bindings", "tensorrt.so"), ("tensorrt_rtx_bindings", "tensorrt_rtx.so")]
)
def test_the_library_knows_the_names_that_a_build_uses(package, library):
    """Without its other libraries it cannot be imported; its names stand in its file all the same."""
    found = importlib.util.find_spec(package)
    path = Path(found.origin).with_name(library) if found and found.origin else None
    if path is None or not path.is_file():
        pytest.skip(f"{package} is not installed")
    content = path.read_bytes()
    assert [name for name in NAMES if f"{name}\0".encode() not in content] == []
