"""Files from strangers: one clear sentence each, and nothing read that is not theirs."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.runtime.test_damaged_onnx import with_right_hash
from udx.errors import UdxError
from udx.manifest import METADATA_KEY
from udx.runtime.engine import open_engine
from udx.runtime.onnx_file import read_onnx, sealed


def saved(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def with_manifest(model: onnx.ModelProto, text: str) -> onnx.ModelProto:
    helper.set_model_props(model, {METADATA_KEY: text})
    return model


def test_a_good_file_is_read(make_engine) -> None:
    file = read_onnx(make_engine(modality="fusion"))
    assert [spec.name for spec in file.inputs] == ["images", "pool_index", "pool_offsets", "points", "num_points"]
    assert file.manifest.recipe == "nano"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UdxError, match=r"cannot read engine .*no.onnx: No such file"):
        open_engine(tmp_path / "no.onnx")
    with pytest.raises(UdxError, match="there is no checkpoint"):
        open_engine(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 7, 100, 500, 900])
def test_a_truncated_file(make_engine, kept: int) -> None:
    path = make_engine()
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UdxError, match=r"damaged|not a valid ONNX|without a udx manifest"):
        open_engine(path)


def test_random_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for size in (1, 10, 1000, 100_000):
        path = tmp_path / "random.onnx"
        path.write_bytes(rng.bytes(size))
        with pytest.raises(UdxError, match="damaged or not an ONNX file"):
            open_engine(path)


def test_mutated_files_end_in_a_sentence_or_open(make_engine) -> None:
    path = make_engine()
    good = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        bad = bytearray(good)
        for position in rng.integers(len(bad), size=3):
            bad[position] = rng.integers(256)
        path.write_bytes(bytes(bad))
        try:
            read_onnx(path)
        except UdxError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100


def test_a_file_of_someone_else(make_model, tmp_path: Path) -> None:
    model = make_model()
    del model.metadata_props[:]
    with pytest.raises(UdxError, match="without a udx manifest; give one that udx export wrote"):
        read_onnx(saved(tmp_path / "other.onnx", model))


def test_a_damaged_manifest(make_model, tmp_path: Path) -> None:
    model = with_manifest(make_model(), '{"format": "udx-detector/1"}')
    with pytest.raises(UdxError, match="damaged udx manifest"):
        read_onnx(saved(tmp_path / "bad.onnx", model))


def test_a_manifest_of_another_box_convention(make_model, make_manifest, tmp_path: Path) -> None:
    fields = json.loads(make_manifest().to_json()) | {"box_convention": "w,l,h"}
    model = with_manifest(make_model(), json.dumps(fields))
    with pytest.raises(UdxError, match="boxes as 'w,l,h'"):
        read_onnx(saved(tmp_path / "swapped.onnx", model))


def test_a_manifest_of_another_modality(make_model, make_manifest, tmp_path: Path) -> None:
    model = with_manifest(make_model("cam"), make_manifest("lidar").to_json())
    with pytest.raises(UdxError, match=r"has input images uint8.* manifest asks for points float32\[500, 5\]"):
        read_onnx(saved(tmp_path / "swapped.onnx", model))


def test_a_manifest_with_one_more_input(make_model, make_manifest, tmp_path: Path) -> None:
    model = with_manifest(make_model("cam"), make_manifest("fusion").to_json())
    with pytest.raises(UdxError, match=r"has inputs .* where its manifest asks for .*num_points"):
        read_onnx(saved(tmp_path / "fewer.onnx", model))


def test_a_manifest_of_other_outputs(make_model, make_manifest, tmp_path: Path) -> None:
    more = dataclasses.replace(make_manifest(), max_boxes=9)
    model = with_manifest(make_model(), more.to_json())
    with pytest.raises(
        UdxError, match=r"output boxes float32\[7, 9\] where its manifest asks for boxes float32\[9, 9\]"
    ):
        read_onnx(saved(tmp_path / "more.onnx", model))


def test_a_dynamic_shape_is_refused(make_model, tmp_path: Path) -> None:
    model = make_model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(UdxError, match=r"has input images uint8\[-1, "):
        read_onnx(saved(tmp_path / "dynamic.onnx", model))


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "", "weights/../../secret.bin"])
def test_weights_outside_the_folder_are_refused(make_model, tmp_path: Path, location: str) -> None:
    model = make_model()
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "conv_w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    with pytest.raises(UdxError, match="outside its folder; do not trust it"):
        read_onnx(saved(tmp_path / "leak.onnx", model))


def test_a_link_out_of_the_folder_is_refused(make_model, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4096))
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / "weights.bin").symlink_to(tmp_path / "secret.bin")
    model = make_model()
    make_external(model, "weights.bin")
    with pytest.raises(UdxError, match="outside its folder"):
        read_onnx(saved(folder / "link.onnx", model))


def make_external(model: onnx.ModelProto, location: str) -> bytes:
    """Move the convolution's weights out of the model; return them."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "conv_w")
    weights = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return weights


def test_weights_beside_the_file_are_read(
    make_model, make_manifest, tmp_path: Path, make_engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from udx.runtime.frames import generated_frame

    model = make_model()
    (tmp_path / "weights.bin").write_bytes(make_external(model, "weights.bin"))
    path = saved(tmp_path / "external.onnx", model)
    monkeypatch.chdir("/")
    frame, _ = generated_frame(make_manifest(), 0)
    with open_engine(path) as external, open_engine(make_engine()) as whole:
        np.testing.assert_array_equal(external.infer(frame())["scores"], whole.infer(frame())["scores"])


def test_missing_or_short_weights_beside_the_file(make_model, tmp_path: Path) -> None:
    model = make_model()
    make_external(model, "weights.bin")
    path = saved(tmp_path / "external.onnx", model)
    with pytest.raises(UdxError, match=r"keeps weights in weights.bin, which cannot be read"):
        read_onnx(path)
    (tmp_path / "weights.bin").write_bytes(bytes(10))
    with pytest.raises(UdxError, match="which is too short"):
        read_onnx(path)


def test_a_tensor_that_claims_100_gigabytes(make_model, tmp_path: Path) -> None:
    model = make_model()
    model.graph.initializer[0].dims[:] = [25_000_000_000]
    with pytest.raises(UdxError, match=r"declares conv_w .* 93 GiB; do not trust it"):
        read_onnx(saved(tmp_path / "huge.onnx", model))


def test_a_constant_in_a_function_that_claims_100_gigabytes(make_model, tmp_path: Path) -> None:
    model = make_model()
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[25_000_000_000], raw_data=bytes(4))
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, t=tensor)
    model.functions.append(helper.make_function("udx", "Huge", [], ["c"], [node], model.opset_import))
    with pytest.raises(UdxError, match="93 GiB; do not trust it"):
        read_onnx(saved(tmp_path / "huge.onnx", model))


def test_a_tensor_with_too_little_data(make_model, tmp_path: Path) -> None:
    model = make_model()
    model.graph.initializer[0].raw_data = bytes(8)
    with pytest.raises(UdxError, match="with 8 bytes of data; it is damaged"):
        read_onnx(saved(tmp_path / "short.onnx", model))
    model.graph.initializer[0].ClearField("raw_data")
    with pytest.raises(UdxError, match="without its data"):
        read_onnx(saved(tmp_path / "empty.onnx", model))


def test_a_manifest_that_asks_for_a_huge_image(make_model, make_manifest, tmp_path: Path) -> None:
    fields = json.loads(make_manifest().to_json())
    fields["spec"]["camera"]["frustum"]["image_height_px"] = 16 * 10**6
    fields["spec"]["camera"]["frustum"]["image_width_px"] = 16 * 10**6
    model = with_manifest(make_model(), json.dumps(fields))
    with pytest.raises(UdxError, match="image_height_px must be at least 1 and at most"):
        read_onnx(saved(tmp_path / "huge.onnx", model))


@pytest.mark.parametrize(("version", "said"), [(13, "opset 13, and udx reads 20"), (None, "opset none")])
def test_an_old_opset(make_model, tmp_path: Path, version: int | None, said: str) -> None:
    model = make_model()
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("" if version else "other", version or 1))
    with pytest.raises(UdxError, match=said):
        read_onnx(saved(tmp_path / "old.onnx", model))


def test_operators_of_another_udx(make_model, tmp_path: Path) -> None:
    model = make_model()
    model.opset_import.append(helper.make_opsetid("udx", 7))
    with pytest.raises(UdxError, match="operators of udx version 7, this udx knows 1"):
        read_onnx(saved(tmp_path / "newer.onnx", model))


def test_a_graph_that_was_changed_after_its_export(make_model, tmp_path: Path) -> None:
    model = make_model()
    next(node for node in model.graph.node if node.op_type == "Sin").op_type = "Cos"
    with pytest.raises(UdxError, match=r"graph with hash [0-9a-f]{12}, and its manifest is of one with"):
        read_onnx(saved(tmp_path / "changed.onnx", model))


def test_a_manifest_without_a_graph(make_model, make_manifest, tmp_path: Path) -> None:
    model = with_manifest(make_model(), make_manifest().to_json())
    with pytest.raises(UdxError, match="does not describe its graph"):
        read_onnx(saved(tmp_path / "blank.onnx", model))


def test_a_graph_that_computes_a_huge_tensor(make_model, make_manifest, tmp_path: Path) -> None:
    model = make_model()
    model.graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [2], [160_000, 160_000]))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["huge"]))
    sealed(model, make_manifest())
    with pytest.raises(UdxError, match=r"declares huge float32\[160000, 160000\], 95 GiB; do not trust it"):
        read_onnx(saved(tmp_path / "huge.onnx", model))


def test_a_value_that_claims_100_gigabytes(make_model, tmp_path: Path) -> None:
    model = make_model()
    model.graph.value_info.append(helper.make_tensor_value_info("total", TensorProto.FLOAT, [25_000_000_000]))
    with pytest.raises(UdxError, match=r"total float32\[25000000000\], 93 GiB; do not trust it"):
        read_onnx(saved(tmp_path / "claim.onnx", model))


@pytest.mark.parametrize("names", [("UdxBevPool",), ("UdxBevPool", "UdxPillarMax")])
def test_functions_that_call_themselves(make_model, tmp_path: Path, names: tuple[str, ...]) -> None:
    model = make_model()
    for name, called in zip(names, (*names[1:], names[0]), strict=True):
        body = [helper.make_node(called, ["x"], ["y"], domain="udx")]
        model.functions.append(helper.make_function("udx", name, ["x"], ["y"], body, [helper.make_opsetid("udx", 1)]))
    model.opset_import.append(helper.make_opsetid("udx", 1))
    with pytest.raises(UdxError, match="a function that calls itself"):
        read_onnx(saved(tmp_path / "endless.onnx", model))


def test_an_invalid_graph(make_model, tmp_path: Path) -> None:
    model = make_model()
    del model.graph.node[0].input[:]
    with pytest.raises(UdxError, match="not a valid ONNX model"):
        read_onnx(saved(tmp_path / "invalid.onnx", model))


def test_an_engine_that_onnx_runtime_refuses(make_model, make_manifest, tmp_path: Path) -> None:
    model = make_model()
    model.graph.node.append(helper.make_node("Reshape", ["total", "label_w"], ["reshaped"]))
    sealed(model, make_manifest())
    path = saved(tmp_path / "reshape.onnx", model)
    from udx.runtime.frames import generated_frame

    frame, _ = generated_frame(make_manifest(), 0)
    with pytest.raises(UdxError, match=r"ONNX Runtime (refuses|failed on)"), open_engine(path) as runner:
        runner.infer(frame())


def with_computed_tensors(model: onnx.ModelProto, nodes: list[onnx.NodeProto], **sizes: list[int]) -> onnx.ModelProto:
    """Add nodes whose outputs are large though the file is small; the hash is made right."""
    for name, size in sizes.items():
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(size)], size))
    model.graph.node.extend(nodes)
    with_right_hash(model)
    return model


def test_tensors_that_are_too_large_together(make_model, tmp_path: Path) -> None:
    nodes = [helper.make_node("ConstantOfShape", ["size"], [f"large_{index}"]) for index in range(4)]
    nodes.append(helper.make_node("Sum", [f"large_{index}" for index in range(4)], ["sum"]))
    model = with_computed_tensors(make_model(), nodes, size=[3, 2**28])  # 3 GiB each
    with pytest.raises(UdxError, match=r"needs 1[25] GiB for its activations; do not trust it"):
        read_onnx(saved(tmp_path / "together.onnx", model))


def test_a_tensor_whose_size_only_values_tell(make_model, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["label_w"], ["size"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["size", "flat"], ["flat_size"]),
        helper.make_node("ConstantOfShape", ["flat_size"], ["unknown"]),
    ]
    model = with_computed_tensors(make_model(), nodes, flat=[-1])
    with pytest.raises(UdxError, match="computes unknown of a size that its graph does not tell"):
        read_onnx(saved(tmp_path / "unknown.onnx", model))


def test_a_tensor_in_segments(make_model, tmp_path: Path) -> None:
    model = make_model()
    model.graph.initializer[0].segment.begin = 1
    with pytest.raises(UdxError, match="in segments, which udx never writes"):
        read_onnx(saved(tmp_path / "segment.onnx", model))


def test_external_weights_at_a_location_with_a_nul(make_model, tmp_path: Path) -> None:
    model = make_model()
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights\0.bin")
    with pytest.raises(UdxError, match="outside its folder; do not trust it"):
        read_onnx(saved(tmp_path / "nul.onnx", model))
