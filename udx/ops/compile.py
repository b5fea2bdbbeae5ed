"""Compile the operators' kernels ahead of time (``udx.ops.aot``) and write them with their launch metadata.

    python -m udx.ops.compile --arch 80,86,87,89,90,100,120 --out DIR [detector.onnx]

For every kernel and architecture DIR gets PTX and cubin, and ``kernels.json`` tells how they are launched
(``udx.launch``). With a file the kernels are those of its nodes; without one, those of a recipe's fusion detector.
"""

from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import Any

import click

from udx.console import say, table, ticking
from udx.data.spec import POINT_FEATURES
from udx.entry import run_command
from udx.errors import UdxError
from udx.launch import CompiledKernel, KernelLibrary, Launch, write_library
from udx.operators import (
    FLOATS,
    BevPool,
    PillarClear,
    PillarFeatures,
    PillarMax,
    TensorType,
    VoxelCells,
    VoxelSums,
    launches_of_graph,
)
from udx.ops.aot import PTX_VERSIONS, compiled
from udx.runtime.onnx_file import read_onnx


@click.command()
@click.argument("model", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option("--arch", "arches", default="80", show_default=True, metavar="N,N", help="Compute capabilities, × 10.")
@click.option("--out", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder.")
@click.option("--recipe", default="base", show_default=True, help="Without MODEL: the detector whose sizes count.")
@click.option("--dtype", "dtypes", default="float32,float16", show_default=True, help="Without MODEL: feature types.")
def main(model: Path | None, arches: str, folder: Path, recipe: str, dtypes: str) -> None:
    """Write PTX, cubin and launch metadata of the kernels that MODEL, an export of udx, needs."""
    targets = [int(arch) for arch in _listed(arches, [str(known) for known in PTX_VERSIONS], "arch")]
    if model is None:
        launches = launches_of_recipe(recipe, _listed(dtypes, FLOATS, "dtype"))
    else:
        launches = launches_of_graph(read_onnx(model).model)
    library = compile_all(launches, targets, folder)
    table(
        f"{len(library.kernels)} kernels for {', '.join(f'sm_{arch}' for arch in targets)} in {folder}",
        ["kernel", "features", "registers", "spilled", "shared"],
        [_row(launch, [kernel for kernel in library.kernels if kernel.launch == launch]) for launch in launches],
    )
    say(f"compiled with Triton {library.triton}; registers and bytes are the most that a target needs")


def _row(launch: Launch, kernels: Sequence[CompiledKernel]) -> list[str]:
    return [
        launch.kernel,
        launch.inputs[0].dtype,
        str(max(kernel.registers for kernel in kernels)),
        str(max(kernel.spill_bytes for kernel in kernels)),
        str(max(kernel.shared_bytes for kernel in kernels)),
    ]


def compile_all(launches: Sequence[Launch], arches: Iterable[int], folder: Path) -> KernelLibrary:
    """Compile every launch for every architecture into ``folder``."""
    jobs = list(product(launches, arches))
    images = []
    with ticking("compiling") as tick:
        for image in compiled(jobs):
            images.append(image)
            tick(len(images), len(jobs))
    files: dict[str, bytes] = {}
    for image in images:
        files |= {image.kernel.ptx.name: image.ptx, image.kernel.cubin.name: image.cubin}
    library = KernelLibrary(triton=metadata.version("triton"), kernels=tuple(image.kernel for image in images))
    write_library(folder, library, files)
    return library


def launches_of_recipe(recipe: str, dtypes: Sequence[str]) -> list[Launch]:
    """Launches of a recipe's fusion detector for one frame at a time, features in each of ``dtypes``.

    Raises:
        UdxError: there is no such recipe.
    """
    from udx.train.recipes import RECIPES

    if recipe not in RECIPES:
        raise UdxError(f"there is no recipe {recipe!r}; choose from {', '.join(RECIPES)}")
    detector = RECIPES[recipe]("fusion").detector
    return [*_pooling(detector, dtypes), *_voxelization(detector, dtypes)]


def _pooling(detector: Any, dtypes: Sequence[str]) -> Iterator[Launch]:
    camera, frustum = detector.spec.camera, detector.spec.camera.frustum
    rig, height_width, channels = (1, len(camera.names)), frustum.feature_shape, detector.camera.context_channels
    slots, cells = len(camera.names) * frustum.num_points, detector.spec.grid.num_cells
    for dtype in dtypes:
        yield BevPool().launch(
            [
                TensorType(dtype, (*rig, frustum.depth_bins, *height_width)),
                TensorType(dtype, (*rig, *height_width, channels)),
                TensorType("int32", (1, slots)),
                TensorType("int32", (1, cells + 1)),
            ]
        )


def _voxelization(detector: Any, dtypes: Sequence[str]) -> Iterator[Launch]:
    grid, per_cell = detector.spec.grid, detector.lidar.pillars_per_cell
    rows, columns = (side * per_cell for side in grid.shape)
    z_min, z_max = detector.spec.z_range_m
    place = (grid.x_min, grid.y_min, grid.cell / per_cell)
    capacity = detector.spec.lidar.max_points
    points = TensorType("float32", (1, capacity, len(POINT_FEATURES)))
    number, cell = TensorType("int32", (1, 1)), TensorType("int32", (capacity,))
    sums = TensorType("int32", (rows * columns + 1, 4))
    yield VoxelCells(*place, rows, columns, z_min, z_max).launch([points, number])
    yield VoxelSums(*place, (z_min + z_max) / 2).launch([points, number, cell, sums])
    yield PillarFeatures(*place, (z_min + z_max) / 2).launch([points, cell, sums])
    for dtype in dtypes:
        features = TensorType(dtype, (capacity, detector.lidar.pillar_channels))
        cleared = TensorType("float32", (rows * columns, detector.lidar.pillar_channels))
        yield PillarClear(num_cells=rows * columns).launch([features])
        yield PillarMax().launch([features, cell, cleared])


def _listed(text: str, known: Sequence[str], option: str) -> list[str]:
    items = [item.strip() for item in text.split(",") if item.strip()]
    unknown = [item for item in items if item not in known]
    if unknown or not items:
        raise UdxError(f"--{option} {text}: choose one or more of {','.join(known)}, separated by commas")
    return list(dict.fromkeys(items))


if __name__ == "__main__":
    run_command(main)
