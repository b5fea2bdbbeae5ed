"""Every kernel compiles for every target on this machine, GPU or not, and the metadata keeps its promises."""

import re

import pytest
from click.testing import CliRunner

from tests.ops import sass
from udx.errors import UdxError
from udx.launch import Input, Launch, Output, Scalar, read_image, read_library
from udx.operators import FLOATS
from udx.ops.aot import PTX_VERSIONS, kernels

pytest.importorskip("triton")

from udx.ops.compile import compile_all, launches_of_recipe, main

ARCHES = (80, 86, 87, 89, 90, 100, 120)
MOST_REGISTERS = {
    "bev_pool_kernel": 64,
    "invert_plan_kernel": 32,
    "bev_pool_backward_kernel": 128,
    "voxel_cells_kernel": 64,
    "voxel_sums_kernel": 64,
    "pillar_features_kernel": 128,
    "pillar_clear_kernel": 16,
    "pillar_max_kernel": 48,
    "pillar_holders_kernel": 48,
    "pillar_backward_kernel": 128,
}
"""More of them, and fewer warps fit on a multiprocessor than hide the latency of memory."""


def tensors(kind, **dtypes):
    return tuple(kind(name=name, dtype=dtype) for name, dtype in dtypes.items())


def output(name, dtype="float32"):
    return Output(name=name, dtype=dtype, shape=("1",))


SIZES = {"POINTS": 473088, "BINS": 112, "PIXELS": 704}
STEPS = {"CHANNELS": 64, "STEP_POINTS": 2, "STEPS": 16, "BLOCK_CHANNELS": 64}
NUMBERS = {name: Scalar(name=name, value="1") for name in ("cells", "slots", "points")}
BACKWARD = [
    Launch(
        kernel="invert_plan_kernel",
        inputs=tensors(Input, point_index="int32", cell_offsets="int32"),
        scalars=(NUMBERS["cells"], NUMBERS["slots"]),
        outputs=(output("cell_of_point", "int32"),),
        constants={"POINTS": SIZES["POINTS"], "BLOCK_POINTS": 64},
        grid=("1", "1", "1"),
        num_warps=2,
    ),
    Launch(
        kernel="bev_pool_backward_kernel",
        inputs=tensors(Input, grad="float32", depth="float32", context="float32", cell_of_point="int32"),
        scalars=(NUMBERS["cells"],),
        outputs=(output("grad_depth"), output("grad_context")),
        constants=SIZES | {"CHANNELS": 80, "ACCUMULATE": "float32", "BLOCK_BINS": 32, "BLOCK_CHANNELS": 128},
        grid=("1", "1", "1"),
        num_warps=4,
    ),
    Launch(
        kernel="pillar_holders_kernel",
        inputs=tensors(Input, features="float32", cell="int32", pillars="float32"),
        scalars=(NUMBERS["points"], NUMBERS["cells"]),
        outputs=(output("holders", "int32"),),
        constants=STEPS,
        grid=("1", "1", "1"),
        num_warps=4,
    ),
    Launch(
        kernel="pillar_backward_kernel",
        inputs=tensors(Input, grad="float32", features="float32", cell="int32", pillars="float32", holders="int32"),
        scalars=(NUMBERS["points"], NUMBERS["cells"]),
        outputs=(output("grad_features"),),
        constants={"CHANNELS": 64, "ACCUMULATE": "float32", "BLOCK_POINTS": 32, "BLOCK_CHANNELS": 64},
        grid=("1", "1", "1"),
        num_warps=4,
    ),
]
"""What only training launches; deployed kernels come from ``udx.operators``."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything compiled for everything: single precision for all targets, all precisions for the portable one."""
    out = tmp_path_factory.mktemp("kernels")
    arches = ",".join(map(str, ARCHES))
    result = CliRunner().invoke(main, ["--arch", arches, "--dtype", "float32", "--out", str(out / "all")])
    assert result.exit_code == 0, result.output
    portable = launches_of_recipe("base", FLOATS)
    compile_all(portable, [80], out / "portable")
    compile_all(BACKWARD, ARCHES, out / "backward")
    return out


@pytest.fixture(scope="module", params=["all", "portable", "backward"])
def library(request, folder):
    """One of the folders, read back from its files."""
    return folder / request.param, read_library(folder / request.param)


def test_every_kernel_is_there_for_every_target(folder):
    deployed = launches_of_recipe("base", ["float32"])
    assert {launch.kernel for launch in (*deployed, *BACKWARD)} == set(kernels())
    for name, launches in (("all", deployed), ("backward", BACKWARD)):
        library = read_library(folder / name)
        assert len(library.kernels) == len(launches) * len(ARCHES)
        for launch in launches:
            for arch in ARCHES:
                assert library.find(launch, arch).launch == launch


def test_no_kernel_spills_or_needs_scratch(library):
    for kernel in library[1].kernels:
        assert kernel.spill_bytes == 0, kernel
        assert kernel.registers <= MOST_REGISTERS[kernel.launch.kernel], kernel
        assert kernel.shared_bytes <= 48 * 1024
        assert kernel.global_scratch_bytes == kernel.profile_scratch_bytes == 0
        assert kernel.block == (32 * kernel.launch.num_warps, 1, 1)


def test_the_machine_code_spills_nothing_and_moves_16_bytes_at_a_time(library):
    for kernel in library[1].kernels:
        found = sass.instructions(read_image(library[0], kernel.cubin))
        assert not sass.spills(found), kernel
        if kernel.launch.kernel == "bev_pool_kernel":
            # Four rows of the context are under way in either of two loops, and a row of the map is stored in either.
            assert sum(number for name, number in found.items() if name.startswith("LDG.E.128")) >= 8, found
            assert any(name.startswith("STG.E.128") for name in found), found
        if kernel.launch.kernel == "pillar_clear_kernel":
            assert any(name.startswith("STG.E.128") for name in found), found


def test_the_ptx_takes_the_arguments_in_their_order_and_no_others(library):
    folder, kernels = library[0], library[1].kernels
    for kernel in kernels:
        ptx = read_image(folder, kernel.ptx).decode()
        signature = re.search(rf"\.entry {kernel.entry}\((.*?)\)", ptx, re.DOTALL)
        found = re.findall(r"\.param \.(\w+)", signature.group(1))
        launch = kernel.launch
        assert found == ["u64"] * len(launch.inputs) + ["u32"] * len(launch.scalars) + ["u64"] * len(launch.outputs)
        assert f".reqntid {kernel.block[0]}" in ptx
        used = {int(place) for place in re.findall(rf"\[{kernel.entry}_param_(\d+)", ptx)}
        assert used <= set(range(len(found)))


def test_the_ptx_is_as_old_as_its_target_allows(library):
    for kernel in library[1].kernels:
        ptx = read_image(library[0], kernel.ptx).decode()
        assert f".version {kernel.ptx_version}\n.target {kernel.target}\n" in ptx
        assert kernel.target == f"sm_{kernel.arch}" + ("a" if kernel.arch >= 90 else "")
        assert round(10 * float(kernel.ptx_version)) == PTX_VERSIONS[kernel.arch]


def test_the_files_name_no_folder_of_this_machine(library):
    for kernel in library[1].kernels:
        assert b"/udx/ops" not in read_image(library[0], kernel.ptx) + read_image(library[0], kernel.cubin)
        assert read_image(library[0], kernel.cubin).startswith(b"\x7fELF")


def test_products_are_rounded_before_they_are_added(library):
    """Or sums would not be those of the CPU bit for bit."""
    for kernel in library[1].kernels:
        assert not re.search(r"\bfma\.", read_image(library[0], kernel.ptx).decode()), kernel.entry


def test_atomics_stay_integer(library):
    """Sums and maxima of floats in memory would depend on the order of the points."""
    for kernel in library[1].kernels:
        ptx = read_image(library[0], kernel.ptx).decode()
        assert not re.search(r"\b(atom|red)\.[\w.:]*\.(f16|bf16|f32|f64)", ptx), kernel.entry


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--arch", "75"], "--arch 75: choose one or more of 80,86"),
        (["--arch", ""], "choose one or more of"),
        (["--dtype", "float64"], "--dtype float64: choose one or more of float32,float16,bfloat16"),
        (["--recipe", "huge"], "no recipe 'huge'; choose from nano"),
    ],
)
def test_bad_options_are_refused(tmp_path, arguments, said):
    result = CliRunner().invoke(main, ["--out", str(tmp_path / "out"), *arguments])
    assert isinstance(result.exception, UdxError)
    assert said in str(result.exception)
    assert not (tmp_path / "out").exists()
