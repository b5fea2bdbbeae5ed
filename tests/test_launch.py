"""Sizes, launches, and the files of compiled kernels."""

import json
from dataclasses import replace

import pytest

from udx.errors import UdxError
from udx.launch import (
    CompiledKernel,
    Input,
    KernelFile,
    KernelLibrary,
    Launch,
    Output,
    Scalar,
    read_image,
    read_library,
    size_of,
    write_library,
)

LAUNCH = Launch(
    kernel="sum_kernel",
    inputs=(Input(name="terms", dtype="float16"), Input(name="cleared", dtype="float32")),
    scalars=(Scalar(name="rows", value="terms[0] - 1"),),
    outputs=(Output(name="sums", dtype="float32", shape=("cleared[0]", "4"), aliases="cleared"),),
    constants={"CELL": 0.1, "BLOCK": 256, "ACCUMULATE": "float32"},
    grid=("cdiv(max(terms[0] * terms[1], cleared[0] + 1), 256)", "1", "terms[0]"),
    num_warps=4,
)
PTX, CUBIN = b".version 7.0", b"\x7fELF"
SHAPES = {"terms": (3, 200), "cleared": (500,)}


def compiled(ptx: KernelFile, cubin: KernelFile) -> CompiledKernel:
    return CompiledKernel(
        launch=LAUNCH,
        entry="sum_kernel",
        arch=80,
        target="sm_80",
        ptx_version="7.0",
        block=(128, 1, 1),
        shared_bytes=0,
        registers=32,
        spill_bytes=0,
        global_scratch_bytes=0,
        profile_scratch_bytes=0,
        ptx=ptx,
        cubin=cubin,
    )


@pytest.fixture
def library(tmp_path):
    import hashlib

    files = [
        KernelFile(name=name, sha256=hashlib.sha256(image).hexdigest())
        for name, image in (("sm_80/sum.ptx", PTX), ("sm_80/sum.cubin", CUBIN))
    ]
    library = KernelLibrary(triton="3.9.0", kernels=(compiled(*files),))
    write_library(tmp_path, library, {"sm_80/sum.ptx": PTX, "sm_80/sum.cubin": CUBIN})
    return library


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("terms[1]", 200),
        ("terms[0] * terms[1] + 1", 601),
        ("terms[1] - 1 * 2", 198),
        ("cdiv(600, 256)", 3),
        ("cdiv(512, 256)", 2),
        ("max(terms[0] * terms[1], cleared[0] + 1)", 600),
    ],
)
def test_a_size_by_hand(text, value):
    assert size_of(text, SHAPES) == value


@pytest.mark.parametrize(
    "text",
    [
        "other[0]",
        "terms[2]",
        "terms",
        "terms[0] ** 9",
        "terms[0] / 2",
        "__import__('os').system('true')",
        "max(1, 2, 3)",
        "1.5",
        "",
        "terms[",
        "cdiv(1, 0)",
        "1\0",
        "(" * 199,
        "-1" * 10**6,
        "9" * 5000,
    ],
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UdxError, match="is not a size of the inputs terms, cleared"):
        size_of(text, SHAPES)


def test_a_launch_follows_the_shapes():
    assert LAUNCH.grid_for(SHAPES) == (3, 1, 3)
    assert LAUNCH.scalars_for(SHAPES) == (2,)
    assert LAUNCH.outputs_for(SHAPES) == ((500, 4),)


@pytest.mark.parametrize("shape", [(65536, 1), (0, 5)])
def test_an_impossible_grid_is_refused(shape):
    with pytest.raises(UdxError, match="cannot be launched on a grid"):
        LAUNCH.grid_for(SHAPES | {"terms": shape})


def test_a_constant_is_a_number_or_a_word():
    with pytest.raises(ValueError, match="BLOCK of sum_kernel"):
        replace(LAUNCH, constants={"BLOCK": [256]})


def test_a_library_comes_back_as_it_was_written(tmp_path, library):
    assert read_library(tmp_path) == library
    kernel = library.find(LAUNCH, 80)
    assert read_image(tmp_path, kernel.ptx) == PTX
    assert read_image(tmp_path, kernel.cubin) == CUBIN


def test_a_kernel_that_was_not_compiled_is_named(library):
    with pytest.raises(UdxError, match="no sum_kernel of these types and sizes for sm_90"):
        library.find(LAUNCH, 90)
    with pytest.raises(UdxError, match="no sum_kernel"):
        library.find(replace(LAUNCH, constants={"BLOCK": 128}), 80)


def test_a_damaged_kernel_is_refused(tmp_path, library):
    (tmp_path / "sm_80" / "sum.cubin").write_bytes(CUBIN + b"!")
    with pytest.raises(UdxError, match=r"sum\.cubin is damaged"):
        read_image(tmp_path, library.kernels[0].cubin)


def test_a_kernel_outside_the_folder_is_refused(tmp_path, library):
    (tmp_path / "secret").write_bytes(PTX)
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(UdxError, match="outside the folder"):
        read_image(inner, replace(library.kernels[0].ptx, name="../secret"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "udx-kernels/9"}, "not an index of format"),
        ({"kernels": [{"entry": "x"}]}, "does not hold a valid KernelLibrary"),
        ({"surprise": 1}, "does not hold a valid KernelLibrary"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, library, change, said):
    index = tmp_path / "kernels.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | change))
    with pytest.raises(UdxError, match=said):
        read_library(tmp_path)
