"""TensorRT's own parser and builder, through TensorRT-RTX: the same calls, and no GPU is needed."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from udx.build.builder import TensorrtSettings, serialized_engine
from udx.build.network import logger
from udx.build.plugins import plugin_layers
from udx.build.watch import Watch, cancellable
from udx.errors import UdxError

trt = pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'udx[rtx]'")


class Recorder:
    """A display that counts, and may do something when a phase begins."""

    def __init__(self, begun=lambda phase: None):
        self.begun, self.depths, self.open = begun, {}, set()

    def start(self, phase, depth, steps):
        assert steps > 0
        self.depths[phase] = depth
        self.open.add(phase)
        self.begun(phase)

    def advance(self, phase, done):
        assert phase in self.open and done > 0

    def finish(self, phase):
        self.open.discard(phase)


def convolutions(dtype=TensorProto.FLOAT, count=4) -> bytes:
    """A few convolutions in a row."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    weight = numpy_helper.from_array(np.full((8, 8, 3, 3), 0.1, kind), "weight")
    pads = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [helper.make_node("Conv", [f"x{i}", "weight"], [f"x{i + 1}"], f"conv{i}", **pads) for i in range(count)]
    values = [helper.make_tensor_value_info(name, dtype, [1, 8, 16, 16]) for name in ("x0", f"x{count}")]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def build(model: bytes, watch: Watch, check=lambda network: None, configure=None, **settings) -> bytes:
    return serialized_engine(
        trt,
        model,
        Path("student.onnx"),
        settings=TensorrtSettings(**settings),
        watch=watch,
        check=check,
        configure=configure,
    )


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_an_engine_is_built_and_its_progress_told(dtype):
    shown = Recorder()
    layers = []

    def check(network):
        layers.extend((network.get_layer(index).name, network.get_layer(index).type) for index in range(4))
        assert plugin_layers(trt, network) == ()

    plan = build(convolutions(dtype), Watch(shown), check, tf32=False, workspace_gib=1.0)
    assert len(plan) > 1000
    assert layers == [(f"conv{index}", trt.LayerType.CONVOLUTION) for index in range(4)]
    assert 0 in shown.depths.values() and max(shown.depths.values()) >= 2
    assert not shown.open


def test_the_configuration_can_be_added_to():
    configs = []

    def configure(config):
        assert (config.builder_optimization_level, config.get_flag(trt.BuilderFlag.TF32)) == (1, False)
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM120, 0)
        configs.append(config)

    narrow = build(convolutions(), Watch(Recorder()), configure=configure, level=1, tf32=False)
    assert len(configs) == 1
    assert narrow != build(convolutions(), Watch(Recorder()), level=1, tf32=False)


def test_a_refused_node_is_one_sentence():
    model = onnx.load_from_string(convolutions())
    model.graph.node.insert(0, helper.make_node("Unique", ["x0"], ["unique"], "odd_one"))
    with pytest.raises(UdxError, match=r'cannot read student\.onnx: Unique "odd_one": .*; export it again$') as refused:
        build(model.SerializeToString(), Watch(Recorder()))
    assert "\n" not in str(refused.value)


def test_what_is_no_model_is_one_sentence():
    with pytest.raises(UdxError, match=r"cannot read student\.onnx: "):
        build(b"not a model", Watch(Recorder()))


def test_what_the_check_refuses_is_not_built():
    def check(network):
        raise UdxError("no")

    shown = Recorder()
    with pytest.raises(UdxError, match=r"^no$"):
        build(convolutions(), Watch(shown), check)
    assert not shown.depths


def test_a_cancelled_build_ends_at_once():
    watch = Watch(Recorder(begun=lambda phase: watch.cancel()))
    with pytest.raises(UdxError, match=r"built no engine of student\.onnx: it was cancelled"):
        build(convolutions(), watch)
    assert any("cancel" in error.lower() for error in logger(trt)[1].errors)
    build(convolutions(), Watch(Recorder()))  # and the next one is not


def test_ctrl_c_cancels_a_build(press_ctrl_c):
    watch = Watch(Recorder(begun=lambda phase: press_ctrl_c() if phase == "Building engine" else None))
    with pytest.raises(KeyboardInterrupt):
        cancellable(lambda: build(convolutions(count=40), watch), watch.cancel)


def test_the_stand_in_has_no_name_that_the_library_lacks():
    """Names of TensorRT that TensorRT-RTX has too; plugins and timing caches are TensorRT's own."""
    from tests.build import tensorrt_stand_in

    imitated = tensorrt_stand_in.module(tensorrt_stand_in.Machine())
    own = {"IPluginV3Layer"}
    missing = {name for name in vars(imitated) if not name.startswith("__")} - set(dir(trt)) - own
    assert not missing
    for kind in ("LayerType", "BuilderFlag", "PreviewFeature", "ProfilingVerbosity", "MemoryPoolType", "TensorIOMode"):
        assert set(getattr(imitated, kind).__members__) <= set(getattr(trt, kind).__members__)
    for imitation, real in (
        (tensorrt_stand_in.Config(tensorrt_stand_in.Machine()), trt.IBuilderConfig),
        (tensorrt_stand_in.Network(), trt.INetworkDefinition),
        (tensorrt_stand_in.Engine({"layers": 0, "tensors": []}), trt.ICudaEngine),
    ):
        public = {name for name in dir(imitation) if not name.startswith("_")}
        assert public - set(dir(real)) <= {"flags", "previews", "limits", "timings", "layers", "model"}
