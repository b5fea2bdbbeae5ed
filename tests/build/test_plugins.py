"""Which nodes must become plugins, and that a network without them is refused."""

from pathlib import Path
from types import ModuleType, SimpleNamespace

import onnx
import pytest
from onnx import helper

from udx.build.plugins import Plugin, PluginLayer, plugin_layers, plugin_nodes, require_plugins
from udx.errors import UdxError
from udx.operators import DOMAIN, PLUGIN_ATTRIBUTES

PATH = Path("student.onnx")


def model(*nodes):
    return helper.make_model(helper.make_graph(list(nodes), "graph", [], []))


def node(op="UdxPillarMax", name="raise", **changes):
    attributes = {key: value for key, value in (PLUGIN_ATTRIBUTES | changes).items() if value is not None}
    return helper.make_node(op, ["features"], [f"{name}_out"], name, domain=DOMAIN, **attributes)


def layer(op="UdxPillarMax", name="raise", namespace="udx", version="1"):
    return PluginLayer(name=name, plugin=Plugin(name=op, namespace=namespace, version=version))


def test_every_node_of_the_domain_is_to_be_a_plugin():
    graph = model(node(name=""), helper.make_node("Relu", ["_out"], ["y"]), node("UdxBevPool", "pool"))
    assert plugin_nodes(graph, PATH) == (layer(name="_out"), layer("UdxBevPool", "pool"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"plugin_namespace": "udxx"}, "has plugin_namespace 'udxx', not 'udx'"),
        ({"plugin_namespace": None}, "has plugin_namespace None, not 'udx'"),
        ({"plugin_version": "2"}, "has plugin_version '2', not '1'"),
        ({"aot": 0}, "has aot 0, not 1"),
        ({"plugin_version": 1}, "has plugin_version 1, not '1'"),
    ],
)
def test_attributes_that_name_no_plugin_are_refused(changes, said):
    with pytest.raises(UdxError, match=f"node raise .UdxPillarMax. {said}.* slow function body"):
        plugin_nodes(model(node(**changes)), PATH)


def test_a_node_of_another_version_is_refused():
    with pytest.raises(UdxError, match="node raise is a UdxPillarMean, which this udx does not know"):
        plugin_nodes(model(node("UdxPillarMean")), PATH)


def test_one_plugin_for_each_node_is_right():
    nodes = [layer(name="a"), layer(name="b"), layer("UdxBevPool", "c")]
    layers = [layer("UdxBevPool", "c"), layer(name="a_0"), layer(name="b")]
    require_plugins(nodes, layers, PATH)
    require_plugins([], [], PATH)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([], "0 plugin layers of its 2 nodes UdxPillarMax .a, b."),
        ([layer()], "1 plugin layers of its 2 nodes"),
        ([layer()] * 3, "3 plugin layers of its 2 nodes"),
        ([layer(namespace="udxx")] * 2, "0 plugin layers of its 2 nodes UdxPillarMax .a, b. in namespace 'udx'"),
        ([layer(version="2")] * 2, "0 plugin layers"),
        ([layer(), layer(), layer("Other", namespace="")], "a plugin Other that no node asks for"),
    ],
)
def test_any_other_network_is_refused(layers, said):
    with pytest.raises(UdxError, match=said) as refused:
        require_plugins([layer(name="a"), layer(name="b")], layers, PATH)
    assert "\n" not in str(refused.value)


def test_plugin_layers_are_found_among_the_others():
    class ILayer:
        """As networks hand layers out: what is a plugin must be looked at as one."""

        def __init__(self, type, name, core=None):
            self.type, self.name, self._core = type, name, core

    class IPluginV3Layer(ILayer):
        @property
        def plugin(self):
            return SimpleNamespace(get_capability_interface={"core": self._core}.__getitem__)

    trt = ModuleType("tensorrt")
    trt.LayerType = SimpleNamespace(PLUGIN_V3="plugin", CONVOLUTION="convolution")
    trt.PluginCapabilityType = SimpleNamespace(CORE="core")
    trt.IPluginV3Layer = IPluginV3Layer
    core = SimpleNamespace(plugin_name="UdxBevPool", plugin_namespace="udx", plugin_version="1")
    layers = [ILayer("convolution", "conv"), ILayer("plugin", "pool", core)]
    network = SimpleNamespace(num_layers=2, get_layer=layers.__getitem__)
    assert plugin_layers(trt, network) == (layer("UdxBevPool", "pool"),)


def test_a_graph_of_standard_operators_needs_no_plugin():
    graph = model(helper.make_node("Relu", ["x"], ["y"]))
    assert plugin_nodes(graph, PATH) == ()
    assert isinstance(graph, onnx.ModelProto)


def test_a_plugin_that_does_not_tell_its_name_is_one_sentence():
    class Adapter:
        def get_capability_interface(self, kind):
            raise RuntimeError("Unable to cast Python instance\nof type IPluginV3")

    class IPluginV3Layer:
        name, type, plugin = "pool", "plugin v3", Adapter()

    trt = SimpleNamespace(
        __name__="tensorrt",
        __version__="11.4.0",
        LayerType=SimpleNamespace(PLUGIN_V3="plugin v3"),
        IPluginV3Layer=IPluginV3Layer,
        PluginCapabilityType=SimpleNamespace(CORE="core"),
    )
    network = SimpleNamespace(num_layers=1, get_layer=lambda index: IPluginV3Layer())
    said = r"does not tell which plugin layer pool runs \(Unable to cast Python instance\)"
    with pytest.raises(UdxError, match=said):
        plugin_layers(trt, network)
