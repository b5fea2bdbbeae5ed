"""Holding TensorRT to its plugins: a node whose plugin is not found would silently become its slow function body."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from udx.errors import UdxError, first_line
from udx.manifest import Manifest
from udx.operators import DOMAIN, OPERATORS, PLUGIN_ATTRIBUTES

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """What TensorRT finds a plugin by."""

    name: str
    namespace: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginLayer:
    """A node, or the layer that it became, and its plugin."""

    name: str
    plugin: Plugin


def require_operators(manifest: Manifest, path: Path) -> None:
    """Refuse a portable file where the nodes of domain ``udx`` are to become plugins or kernels.

    Raises:
        UdxError: the file was exported with ``--portable`` and has no such nodes.
    """
    if manifest.portable:
        raise UdxError(
            f"{path} was exported with --portable: it has standard operators where plugins and kernels of udx would "
            "be, and TensorRT cannot run those; build the file that udx export writes without --portable"
        )


def plugin_nodes(model: "onnx.ModelProto", path: Path) -> tuple[PluginLayer, ...]:
    """The nodes that must become plugins, in the graph's order.

    Raises:
        UdxError: a node is not one of this udx, or its attributes do not name the plugin and ask for its compiled form.
    """
    return tuple(_plugin_node(node, path) for node in model.graph.node if node.domain == DOMAIN)


def _plugin_node(node: "onnx.NodeProto", path: Path) -> PluginLayer:
    from onnx.helper import get_attribute_value

    name = node.name or node.output[0]
    if node.op_type not in {kind.name for kind in OPERATORS}:
        raise UdxError(f"{path}: node {name} is a {node.op_type}, which this udx does not know; export it again")
    attributes = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    for key, wanted in PLUGIN_ATTRIBUTES.items():
        found = attributes.get(key)
        found = found.decode(errors="replace") if isinstance(found, bytes) else found
        if found != wanted:
            raise UdxError(
                f"{path}: node {name} ({node.op_type}) has {key} {found!r}, not {wanted!r}: TensorRT would run its "
                "slow function body instead of the plugin; export it again"
            )
    namespace, version = PLUGIN_ATTRIBUTES["plugin_namespace"], PLUGIN_ATTRIBUTES["plugin_version"]
    return PluginLayer(name=name, plugin=Plugin(name=node.op_type, namespace=namespace, version=version))


def plugin_layers(trt: ModuleType, network: Any) -> tuple[PluginLayer, ...]:
    """List the plugin layers of a network, in its order.

    Raises:
        UdxError: a plugin does not tell its name, namespace and version, so that it cannot be checked.
    """
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return tuple(_plugin_layer(trt, layer) for layer in layers if layer.type == trt.LayerType.PLUGIN_V3)


def _plugin_layer(trt: ModuleType, layer: Any) -> PluginLayer:
    name = layer.name
    layer.__class__ = trt.IPluginV3Layer  # networks hand out the base class of all layers
    try:
        core = layer.plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
        plugin = Plugin(name=core.plugin_name, namespace=core.plugin_namespace, version=core.plugin_version)
    except Exception as error:  # the bindings' own types and casts, which differ from version to version
        raise UdxError(
            f"{trt.__name__} {trt.__version__} does not tell which plugin layer {name} runs ({first_line(error)}), so "
            "that it cannot be checked; report this, and build with another version of TensorRT"
        ) from error
    return PluginLayer(name=name, plugin=plugin)


def require_plugins(nodes: Sequence[PluginLayer], layers: Sequence[PluginLayer], path: Path) -> None:
    """Hold the layers of a parsed network to the nodes of its file: exactly one of the right plugin for each.

    Raises:
        UdxError: a node became no plugin, another one, or several.
    """
    wanted, found = Counter(node.plugin for node in nodes), Counter(layer.plugin for layer in layers)
    for plugin in wanted:
        if found[plugin] != wanted[plugin]:
            names = [node.name for node in nodes if node.plugin == plugin]
            some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            raise UdxError(
                f"{path}: TensorRT made {found[plugin]} plugin layers of its {wanted[plugin]} nodes {plugin.name} "
                f"({some}) in namespace {plugin.namespace!r}: the others would run as slow function bodies; export it "
                "again, and build it with TensorRT 10.15 or later"
            )
    foreign = sorted(plugin.name for plugin in found if plugin not in wanted)
    if foreign:
        raise UdxError(f"{path}: TensorRT made a plugin {foreign[0]} that no node asks for; export it again")
