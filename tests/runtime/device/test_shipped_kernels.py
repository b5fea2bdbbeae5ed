"""Every PTX and cubin that goes into plans, loaded and launched as plans do, against NumPy's kernels.

With a GPU and cuda-bindings (or pycuda); no TensorRT, no dataset, and udx need not be installed:

    python -m pytest -m gpu tests/runtime/device/test_shipped_kernels.py
    compute-sanitizer --tool memcheck python -m pytest -m gpu tests/runtime/device/test_shipped_kernels.py

Without one, the same files go through the real cuda-bindings to a fake driver, as far as the launch.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.ptx.cases import Case, maxima, require_equal, voxelization
from tests.ptx.shipped import CASES, GARBAGE
from tests.runtime.device.fake_cuda import run_on_fake
from tests.runtime.device.launched import context_of, launch_case
from tests.runtime.device.shipped_images import Images, compile_images
from udx.operators import BevPool
from udx.ops.aot import PTX_VERSIONS
from udx.runtime.cuda_driver import cuda_driver, first_device
from udx.runtime.device.driver import Driver, open_driver
from udx.runtime.partitioned import PORTABLE


def whole_pooling(dtype: str, channels: int) -> Case:
    """Six cameras of 118 bins × 16 × 44, on 180 × 180 cells; every point is in a cell, and most cells are empty."""
    rng = np.random.default_rng(channels)
    rig, cells = (1, 6, 118, 16, 44), 180 * 180
    points = int(np.prod(rig))
    cell = np.sort((rng.beta(0.5, 3, points) * cells).astype(np.int64))
    offsets = np.searchsorted(cell, np.arange(cells + 1)).astype(np.int32)
    inputs = {
        "depth": rng.random(rig, np.float32).astype(dtype),
        "context": rng.normal(size=(1, 6, 16, 44, channels)).astype(dtype),
        "point_index": rng.permutation(points).astype(np.int32)[None],
        "cell_offsets": offsets[None],
    }
    return Case(f"whole-bev_pool-{dtype}-{channels}", BevPool(), inputs, {"depth": dtype, "context": dtype})


WHOLE: Mapping[str, Callable[[], Case]] = {
    "bev_pool-float32": lambda: whole_pooling("float32", 80),
    "bev_pool-float16": lambda: whole_pooling("float16", 256),
    "voxel_cells": lambda: voxelization(batch=1, capacity=300_000)["cells"],
    "voxel_sums": lambda: voxelization(batch=1, capacity=300_000)["sums"],
    "pillar_features": lambda: voxelization(batch=1, capacity=300_000)["features"],
    "pillar_max-float32": lambda: maxima("float32", points=300_000, channels=64, cells=180 * 180),
    "pillar_max-float16": lambda: maxima("float16", points=300_000, channels=64, cells=180 * 180),
}
"""Cases of a detector's size; made when they are run."""


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    """The GPU's driver, its context current in all tests."""
    pytest.importorskip("cuda.bindings", reason="pip install cuda-bindings")
    found = open_driver()
    with context_of(found):
        yield found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    return compile_images((*CASES, *GARBAGE), arches_here(), tmp_path_factory.mktemp("kernels"))


def arches_here() -> list[int]:
    """Those of portable plans that may run on this GPU, and its own."""
    arch = first_device(cuda_driver()).arch
    return sorted({one for one in PORTABLE if one <= arch} | ({arch} & set(PTX_VERSIONS)))


def run(driver: Driver, images: Images, case: Case, *, captured: bool) -> Iterator[dict[str, np.ndarray]]:
    """Outputs of each launch of each file."""
    files = images.running_on(case.launch, first_device(cuda_driver()).arch)
    assert {file.name.rpartition(".")[2] for _, file, _ in files} == {"ptx", "cubin"}, (
        "plans are not built for this GPU"
    )
    for kernel, file, image in files:
        yield from launch_case(driver, kernel, file, image, case, captured=captured).outputs


@pytest.mark.gpu
@pytest.mark.parametrize("captured", [False, True], ids=["stream", "graph"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_file_does_what_numpy_does(driver, images, case, captured):
    for outputs in run(driver, images, case, captured=captured):
        require_equal(case, outputs)


@pytest.mark.gpu
@pytest.mark.parametrize("name", WHOLE)
def test_every_file_does_what_numpy_does_with_a_whole_frame(driver, tmp_path, name):
    case = WHOLE[name]()
    images = compile_images((case,), arches_here(), tmp_path)
    for outputs in run(driver, images, case, captured=True):
        require_equal(case, outputs)


@pytest.mark.gpu
@pytest.mark.parametrize("case", GARBAGE, ids=lambda case: case.name)
def test_garbage_in_every_integer_stops_no_kernel(driver, images, case):
    """An illegal access would end the context, and the next call with it; compute-sanitizer says which it was."""
    for outputs in run(driver, images, case, captured=False):
        assert outputs
    with_sense = next(one for one in CASES if one.operator.name == case.operator.name)
    for outputs in run(driver, images, with_sense, captured=False):
        require_equal(with_sense, outputs)


def one_of_each() -> list[Case]:
    """The first case of every kernel in every combination of types."""
    found = {(case.launch.kernel, *(tensor.dtype for tensor in case.launch.inputs)): case for case in reversed(CASES)}
    return list(found.values())


@pytest.fixture(scope="module")
def compiled_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For a GPU of the portable plans' and for one that has only a cubin of its own, and others' PTX."""
    folder = tmp_path_factory.mktemp("kernels")
    compile_images(one_of_each(), (80, 89, 90), folder)
    return folder


@pytest.mark.parametrize("arch", [89, 90])
def test_without_a_gpu_every_file_comes_to_its_launch(compiled_here: Path, arch: int):
    pytest.importorskip("cuda.bindings", reason="pip install cuda-bindings")
    program = str(Path(__file__).with_name("shipped_on_fake.py"))
    options = ("-m", "pytest", "-p", "no:cacheprovider", "-rfE")
    done = run_on_fake(*options, program, UDX_IMAGES=str(compiled_here), UDX_FAKE_CAPABILITY=str(arch))
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None and int(passed[1]) >= 2 * len(one_of_each()), "no case is left out"
