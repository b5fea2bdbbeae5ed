"""Plans from strangers: an index that would read or write wrong memory, or is not of these members, is one sentence."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.build.detectors import write_detector
from tests.build.plans import build_plan, rewrite
from tests.runtime.plan_records import GPU
from udx.build.bundle import write_bundle
from udx.errors import UdxError
from udx.launch import CompiledKernel, KernelFile, KernelLibrary
from udx.runtime.bundle import read_bundle
from udx.runtime.engine import open_engine
from udx.runtime.identity import identify
from udx.runtime.partitioned import INDEX, PORTABLE, KernelStep, read_partitioned, require_runnable


@pytest.fixture(scope="module")
def detector(tmp_path_factory) -> Path:
    return write_detector(tmp_path_factory.mktemp("plans") / "student.onnx")


@pytest.fixture(scope="module")
def plan(detector) -> Path:
    return build_plan(detector, detector.with_name("student.plan")).path


def test_what_was_built_is_read(detector, plan):
    file = read_partitioned(plan)
    assert [step.name for step in file.plan.steps] == ["cells", "sums", "segment-0"]
    assert [step.launch.kernel for step in file.plan.kernel_steps] == ["voxel_cells_kernel", "voxel_sums_kernel"]
    assert file.plan.backend == "onnxruntime"
    assert file.plan.precision == "fp32"
    assert file.manifest == read_partitioned(plan).manifest
    assert file.plan.kernel_steps[1].in_place() == {"sums": "cleared"}
    assert file.plan.unshared_bytes <= file.plan.arena_bytes + 256 * len(file.plan.tensors)


def test_an_index_is_the_same_after_it_was_read(plan):
    text = read_bundle(plan)[INDEX].decode()
    assert read_partitioned(plan).plan.to_json() == text


def test_two_builds_of_one_file_are_one_file(detector, plan):
    again = build_plan(detector, detector.with_name("again.plan")).path
    assert again.read_bytes() == plan.read_bytes()


def test_a_plan_is_identified_as_the_file_that_it_was_built_from(detector, plan):
    of_file, of_plan = identify(detector), identify(plan)
    assert of_plan.structure == of_file.structure
    assert of_plan.manifest.spec == of_file.manifest.spec
    assert of_plan.sha256 != of_file.sha256


def set_tensor(name, **fields):
    def change(index):
        next(tensor for tensor in index["tensors"] if tensor["name"] == name).update(fields)

    return change


def set_step(name, **fields):
    def change(index):
        next(step for step in index["steps"] if step["name"] == name).update(fields)

    return change


def set_launch(name, **fields):
    def change(index):
        next(step for step in index["steps"] if step["name"] == name)["launch"].update(fields)

    return change


CHANGES = {
    "is a plan of format 'udx-plan/99', this udx reads": lambda index: index.update(format="udx-plan/99"),
    "is a plan of format None": lambda index: index.pop("format"),
    "missing 1 required": lambda index: index.pop("arena_bytes"),
    "unknown field 'more'": lambda index: index.update(more=1),
    "'cuda' is not one of": lambda index: index.update(backend="cuda"),
    "outside of the 256 bytes": lambda index: index.update(arena_bytes=256),
    "there is no tensor 'cell'": lambda index: index["tensors"].remove(
        next(tensor for tensor in index["tensors"] if tensor["name"] == "cell")
    ),
    "two tensors have one name": lambda index: index["tensors"].append(index["tensors"][0]),
    "cannot lie at byte 8": set_tensor("cell", offset=8),
    "cannot lie at byte -256": set_tensor("cell", offset=-256),
    r"gives int32\[500\], not cell float32": set_tensor("cell", dtype="float32"),
    "cannot pass from one step to another": set_tensor("cell", dtype="float64"),
    r"gives int32\[500\], not cell int32\[499\]": set_tensor("cell", shape=[499]),
    "expected int, not 'many'": set_tensor("cell", shape=["many"]),
    "sums is no view of cell": set_tensor("sums", view_of="cell"),
    "reads sums, which nothing has written": lambda index: index["steps"].pop(1),
    "sums reads cell, which nothing has written": lambda index: index["steps"].reverse() or index["steps"].pop(0),
    "kind 'script' is not one of kernel, segment": set_step("cells", kind="script"),
    "another number of arguments": set_step("sums", inputs=["cell"]),
    "takes float32, int32, int32, int32, not": set_step(
        "sums", inputs=["points_batch", "count_batch", "cell", "points_batch"]
    ),
    "is not a size of the inputs": set_launch("cells", grid=["().__class__", "1", "1"]),
    "cannot be launched on a grid of 0": set_launch("cells", grid=["0", "1", "1"]),
    "has inputs num_points int32.*where its manifest asks for points": lambda index: index["inputs"].reverse(),
    "reads points_batch, which nothing has written": lambda index: index.update(inputs=["num_points"]),
    "lacks segments/other.onnx": set_step("segment-0", file="segments/other.onnx"),
    r"lacks \.\./\.\./secret": set_step("segment-0", file="../../secret"),
    "has a damaged udx manifest": lambda index: index["manifest"].pop("spec"),
}


@pytest.mark.parametrize("said", CHANGES)
def test_an_index_that_is_not_sound_is_one_sentence(plan, said):
    changed = rewrite(plan, CHANGES[said])
    with pytest.raises(UdxError, match=said) as caught:
        read_partitioned(changed)
    assert str(changed) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_memory_is_asked_for_as_much_as_is_used(plan):
    with pytest.raises(UdxError, match=r"its tensors end at byte \d+ of 1099511627776"):
        read_partitioned(rewrite(plan, lambda index: index.update(arena_bytes=2**40)))
    more = {"name": "more", "dtype": "int8", "shape": [2**35], "offset": 2**20}
    with pytest.raises(UdxError, match="nothing uses tensor more"):
        read_partitioned(rewrite(plan, lambda index: (index["tensors"].append(more), index.update(arena_bytes=2**36))))


def test_a_plan_is_of_the_graph_that_its_manifest_describes(plan):
    with pytest.raises(UdxError, match="lists another graph than the one whose hash it gives; build it again"):
        read_partitioned(rewrite(plan, lambda index: index["structure"]["listing"].append("opset more 1")))
    with pytest.raises(UdxError, match="was built of another graph than the one that its manifest describes"):
        read_partitioned(rewrite(plan, lambda index: index["manifest"]["graph"].update(sha256="0" * 64)))


def for_gpus(plan, **changes):
    """The plan as one for GPUs, as far as a check of versions and GPUs sees it."""
    file = read_partitioned(plan)
    kernels = KernelLibrary(triton="3.6.0", kernels=tuple(map(compiled, file.plan.kernel_steps)))
    built = {"backend": "tensorrt-rtx", "backend_version": "1.7.1", "capabilities": PORTABLE, "kernels": kernels}
    return replace(file, plan=replace(file.plan, **built | changes))


def compiled(step):
    file = KernelFile(name="k", sha256="0" * 64)
    return CompiledKernel(
        launch=step.launch, entry="k", arch=80, target="sm_80", ptx_version="7.0", block=(128, 1, 1), shared_bytes=0,
        registers=8, spill_bytes=0, global_scratch_bytes=0, profile_scratch_bytes=0, ptx=file, cubin=file,
    )  # fmt: skip


def test_a_plan_runs_on_the_gpus_that_it_was_built_for(plan):
    for capability in ((8, 0), (8, 9), (9, 0), (12, 0)):
        require_runnable(for_gpus(plan), "1.7.1", replace(GPU, compute_capability=capability))
    require_runnable(for_gpus(plan, capabilities=(89,)), "1.7.1", GPU)


@pytest.mark.parametrize(
    ("changes", "version", "capability", "said"),
    [
        ({}, "1.8.0", (8, 9), r"was built by TensorRT-RTX 1\.7\.1, and TensorRT-RTX 1\.8\.0 is here; build it again"),
        ({}, "1.7.1", (7, 5), r"for GPUs of compute capability 8\.0, 8\.6, 8\.9, 12\.0, and Some GPU \(7\.5\) is here"),
        ({"capabilities": (86,)}, "1.7.1", (8, 9), r"of compute capability 8\.6, and Some GPU \(8\.9\) is here"),
        ({"backend": "onnxruntime"}, "1.7.1", (8, 9), "is a plan for the CPU; for GPUs build one"),
    ],
)
def test_a_plan_of_another_version_or_gpu_is_refused(plan, changes, version, capability, said):
    with pytest.raises(UdxError, match=said):
        require_runnable(for_gpus(plan, **changes), version, replace(GPU, compute_capability=capability))


def test_two_live_tensors_in_one_place_are_refused(plan):
    """The cells of the points where the cleared sums are: the first kernel would write one over the other."""

    def together(index):
        index.update(arena_bytes=2**20)
        for name in ("cell", "cleared", "sums"):
            set_tensor(name, offset=2**19)(index)

    with pytest.raises(UdxError, match="cells writes cell over cleared"):
        read_partitioned(rewrite(plan, together))


def test_what_is_written_in_place_must_lie_in_place(plan):
    with pytest.raises(UdxError, match="sums writes sums in place of cleared, and the two lie apart"):
        read_partitioned(
            rewrite(plan, lambda index: (set_tensor("sums", offset=2**20)(index), index.update(arena_bytes=2**21)))
        )


def test_more_members_than_the_index_names_are_refused(plan):
    with pytest.raises(UdxError, match=r"holds an unexpected segments/more\.onnx"):
        read_partitioned(rewrite(plan, lambda index: None, {"segments/more.onnx": b""}))


def test_an_index_that_is_no_json_is_one_sentence(plan, tmp_path):
    for damage in (b"", b"[]", b"{", b"[" * 100_000, b"\xff"):
        write_bundle(tmp_path / "bad.plan", read_bundle(plan) | {INDEX: damage})
        with pytest.raises(UdxError, match=r"damaged plan\.json|format None"):
            read_partitioned(tmp_path / "bad.plan")
    write_bundle(tmp_path / "no.plan", {"a": b""})
    with pytest.raises(UdxError, match=r"without plan\.json, so no plan"):
        read_partitioned(tmp_path / "no.plan")


def test_a_plan_for_gpus_needs_its_kernels(plan):
    with pytest.raises(UdxError, match="kernel cells is compiled for no GPU"):
        read_partitioned(rewrite(plan, lambda index: index.update(backend="tensorrt-rtx")))


def test_a_plan_for_gpus_says_how_to_get_one_for_the_cpu(plan):
    def without_kernels(index):
        index.update(backend="tensorrt-rtx", steps=[])
        index["outputs"] = index["inputs"]

    with pytest.raises(UdxError):
        open_engine(rewrite(plan, without_kernels))


def leaves(value, path=()):
    """Every place in nested dicts and lists."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*path, key))


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=30),
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    st.sampled_from(["cell", "cleared", "points", "kernel", "segment", "-1", "cdiv(1,0)", "points[0] * points[1]"]),
)  # fmt: skip


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_junk_anywhere_in_the_index_is_one_sentence_or_a_sound_plan(plan, tmp_path, data):
    members = read_bundle(plan)
    index = json.loads(members[INDEX])
    del index["structure"]["listing"][5:]  # places that are all alike
    path = data.draw(st.sampled_from(list(leaves(index))[1:]))
    place = index
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = data.draw(JUNK)
    write_bundle(tmp_path / "junk.plan", members | {INDEX: json.dumps(index).encode()})
    try:
        file = read_partitioned(tmp_path / "junk.plan")
    except UdxError as error:
        assert "\n" not in str(error)
    else:
        assert all(tensor.end <= file.plan.arena_bytes for tensor in file.plan.tensors)
        assert all(isinstance(step, KernelStep) for step in file.plan.kernel_steps)


def test_reading_imports_no_torch(plan):
    code = (
        "import sys; from pathlib import Path; from udx.runtime.engine import open_engine; "
        "open_engine(Path(sys.argv[1])); assert not {'torch', 'triton'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(plan)], check=True)
