"""What the GPU kernels ask of the memory, counted in the PTX interpreter: the text that goes into plans, without a GPU.

    python benchmarks/ops_counts.py [--before COMMIT] [--case NAME] [--scale N]

Each kernel is launched on the operators' benchmark inputs (``ops_inputs``). Counted are the bytes that its loads fetch
from the L2 if the L1 keeps everything until a program ends (distinct sectors of 32 bytes a program, summed), the lanes
at work where the context is gathered, and the values that a sector of atomics raises. The kernels of ``--before`` are
compiled from that commit and launched on the same inputs. Results are kept for each version of Triton.
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from ops_inputs import BEV_POOL_V3, GRIDS, PoolShape, cells_of, point_case, pool_case  # noqa: E402

from tests.ptx.counts import Counter, LaunchCounts  # noqa: E402
from tests.ptx.plan import run_kernel  # noqa: E402
from udx.config import from_plain, to_plain  # noqa: E402
from udx.console import say, table  # noqa: E402
from udx.entry import run_command  # noqa: E402
from udx.errors import UdxError  # noqa: E402
from udx.files import read_json, write_json  # noqa: E402
from udx.launch import CompiledKernel, Launch, read_image, read_library  # noqa: E402
from udx.operators import BevPool, Operator, PillarClear, PillarMax, TensorType  # noqa: E402
from udx.ops.aot import CompiledImage  # noqa: E402
from udx.runtime.environment import environment  # noqa: E402

RESULTS: Final = Path(__file__).parent / "results" / "ops_counts.json"
ARCH: Final = 80
"""The portable kernels, which TensorRT's plans hold."""
Array = NDArray[Any]

COMPILE: Final = """
import sys
from pathlib import Path
from udx.config import from_plain
from udx.files import read_json
from udx.operators import BevPool, PillarClear, PillarMax, TensorType
from udx.ops.compile import compile_all
if __name__ == "__main__":
    request = read_json(Path(sys.argv[1]))
    kinds = {kind.__name__: kind for kind in (BevPool, PillarClear, PillarMax)}
    types = [TensorType(dtype, tuple(shape)) for dtype, shape in request["inputs"]]
    operator = kinds[request["operator"]](**request["attributes"])
    compile_all([operator.launch(types)], [request["arch"]], Path(sys.argv[2]))
"""
"""Compile one operator with the udx of the working folder."""


@dataclass(frozen=True, eq=False, slots=True)
class Case:
    """An operator on inputs; ``minimum_bytes`` is what any implementation must move."""

    name: str
    operator: Operator
    inputs: dict[str, Array]
    minimum_bytes: int

    @property
    def types(self) -> list[TensorType]:
        """Types and shapes of the inputs."""
        return [TensorType(array.dtype.name, array.shape) for array in self.inputs.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """One launch.

    Args:
        programs: CTAs of the launch.
        threads: threads of a CTA.
        instructions: executed, once for each warp.
        lanes_at_work: part of the lanes whose predicate is true, over all instructions.
        load_bytes: distinct sectors of each program that loads touch, summed, in bytes: what comes from the L2.
        load_bytes_by_tensor: the same by input.
        load_bytes_to_minimum: ``load_bytes`` divided by what any implementation must move.
        requested_bytes: sectors of each request of a warp, summed, in bytes: what the L1 is asked for.
        gather_lanes_at_work: part of the lanes at work where the context is loaded.
        atomic_values: values that atomics raise.
        values_per_atomic_sector: these in each sector of a request.
        bytes_per_store: bytes that a lane stores at a time, on average.
    """

    programs: int
    threads: int
    instructions: int
    lanes_at_work: float
    load_bytes: int
    load_bytes_by_tensor: dict[str, int]
    load_bytes_to_minimum: float
    requested_bytes: int
    gather_lanes_at_work: float | None
    atomic_values: int
    values_per_atomic_sector: float | None
    bytes_per_store: float | None


def pooling(name: str, shape: PoolShape, dtype: torch.dtype) -> Case:
    """BEV pooling at one size."""
    case = pool_case(shape.grid, bins=shape.bins, channels=shape.channels, batch=1, dtype=dtype, device="cpu")
    inputs = {
        "depth": case.depth_BNDhw.numpy(),
        "context": case.context_BNhwC.numpy(),
        "point_index": case.point_index_BP.numpy(),
        "cell_offsets": case.cell_offsets.numpy(),
    }
    return Case(f"bev_pool, {name}, {str(dtype).removeprefix('torch.')}", BevPool(), inputs, case.minimum_bytes)


def pillars(points: int, dtype: torch.dtype) -> Iterator[Case]:
    """Clearing the map, and raising it to the points' features."""
    grid = GRIDS["180×180"]
    case = point_case(grid, points=points, channels=64, device="cpu")
    features, cell = case.features_MC.to(dtype).numpy(), cells_of(case).int().numpy()
    cleared = np.zeros((grid.num_cells, 64), np.float32)
    kind = str(dtype).removeprefix("torch.")
    yield Case(f"pillar_clear, {kind}", PillarClear(grid.num_cells), {"features": features[:1]}, cleared.nbytes)
    given = {"features": features, "cell": cell, "cleared": cleared}
    moved = features.nbytes + cell.nbytes + cleared.nbytes
    yield Case(f"pillar_max, {points} points, {kind}", PillarMax(), given, moved)


def cases(scale: int) -> dict[str, Callable[[], list[Case]]]:
    """The cases by a short name; ``scale`` divides the grids' sides, the bins and the points."""
    single, half = torch.float32, torch.float16
    bench = PoolShape(GRIDS["180×180"], bins=118, channels=80).smaller(scale)
    wide = PoolShape(GRIDS["180×180"], bins=118, channels=256).smaller(scale)
    version3 = BEV_POOL_V3.smaller(scale)
    return {
        "bench": lambda: [pooling("180×180, 80 channels", bench, dtype) for dtype in (single, half)],
        "v3": lambda: [pooling("BEVPoolV3's shape", version3, dtype) for dtype in (single, half)],
        "wide": lambda: [pooling("180×180, 256 channels", wide, single)],
        "pillars": lambda: [case for dtype in (single, half) for case in pillars(300_000 // scale, dtype)],
    }


@click.command()
@click.option("--before", metavar="COMMIT", help="Also count the kernels of this commit.")
@click.option("--case", "names", multiple=True, help="Which cases: bench, v3, wide, pillars.  [default: all]")
@click.option("--scale", default=1, show_default=True, help="Divides the sizes, to look at something quickly.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=RESULTS, help="[default: results/]")
def main(before: str | None, names: Sequence[str], scale: int, json_file: Path) -> None:
    """Count what the kernels that go into plans ask of the memory, print a table, save it."""
    if scale < 1:
        raise UdxError(f"--scale divides sizes and must be at least 1, not {scale}")
    try:
        known = cases(scale)
    except ValueError as error:  # a grid is no whole number of cells of that size
        raise UdxError(f"--scale {scale} does not divide the grids: {error}") from error
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UdxError(f"there is no case {unknown[0]!r}; choose from {', '.join(known)}")
    with _tree_of(before) as old:
        for name in names or known:
            for case in known[name]():
                entry: dict[str, Any] = {
                    "name": case.name,
                    "shapes": {its: list(array.shape) for its, array in case.inputs.items()},
                    "minimum_bytes": case.minimum_bytes,
                }
                if before is not None:
                    entry["before"] = {"commit": _full_name(before), **asdict(count(case, old))}
                entry["after"] = asdict(count(case, ROOT))
                _show(entry)
                _keep(json_file, entry)
    say(f"saved to {json_file}")


def count(case: Case, tree: Path) -> Counts:
    """Compile a case's kernel with the udx in ``tree`` and launch it in the interpreter."""
    image = compiled_by(tree, case)
    counts = run_kernel(image, case.inputs, counter=Counter()).counts
    assert counts is not None
    return _figures(case, image.kernel, counts)


def _figures(case: Case, kernel: CompiledKernel, counts: LaunchCounts) -> Counts:
    gather, atomics, stores = counts.total("load", "context"), counts.total("atomic"), counts.total("store")
    return Counts(
        programs=counts.ctas,
        threads=kernel.block[0],
        instructions=counts.issues,
        lanes_at_work=counts.lanes_at_work,
        load_bytes=counts.l2_bytes(),
        load_bytes_by_tensor={name: counts.l2_bytes(name) for name in case.inputs},
        load_bytes_to_minimum=counts.l2_bytes() / case.minimum_bytes,
        requested_bytes=counts.total("load").sector_bytes,
        gather_lanes_at_work=gather.lanes_at_work if gather.lanes else None,
        atomic_values=atomics.lanes,
        values_per_atomic_sector=atomics.lanes_per_sector if atomics.lanes else None,
        bytes_per_store=stores.bytes / stores.lanes if stores.lanes else None,
    )


def compiled_by(tree: Path, case: Case) -> CompiledImage:
    """The kernel of a case as the udx in ``tree`` compiles it."""
    request = {
        "operator": type(case.operator).__name__,
        "attributes": to_plain(case.operator),
        "inputs": [(tensor.dtype, list(tensor.shape)) for tensor in case.types],
        "arch": ARCH,
    }
    with tempfile.TemporaryDirectory(prefix="udx-counts-") as folder:
        program, asked, out = (Path(folder) / name for name in ("compile_one.py", "request.json", "out"))
        program.write_text(COMPILE, encoding="utf-8")
        write_json(asked, request)
        subprocess.run(
            [sys.executable, str(program), str(asked), str(out)],
            env=os.environ | {"PYTHONPATH": str(tree)},
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (kernel,) = read_library(out).kernels
        assert from_plain(Launch, to_plain(kernel.launch), "launch") == kernel.launch
        return CompiledImage(kernel, read_image(out, kernel.ptx), read_image(out, kernel.cubin))


@contextmanager
def _tree_of(commit: str | None) -> Iterator[Path]:
    """The files of a commit in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix="udx-before-") as folder:
        if commit is not None:
            packed = subprocess.run(
                ["git", "-C", str(ROOT), "archive", _full_name(commit), "udx"], check=True, capture_output=True
            ).stdout
            with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
                archive.extractall(folder, filter="data")
        yield Path(folder)


def _full_name(commit: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", f"{commit}^{{commit}}"], capture_output=True, text=True)
    if done.returncode:
        raise UdxError(f"--before {commit} names no commit of {ROOT}; give one that git log shows")
    return done.stdout.strip()


def _keep(path: Path, entry: dict[str, Any]) -> None:
    """Put an entry into the run of this version of Triton; what was counted before under it is replaced."""
    here = asdict(environment())
    version = _triton_version()
    report = read_json(path) if path.exists() else {"arch": ARCH, "runs": []}
    run = next((run for run in report["runs"] if run["triton"] == version), None)
    if run is None:
        run = {"triton": version, "cases": []}
        report["runs"].append(run)
    run["environment"] = here
    old = next((one for one in run["cases"] if one["name"] == entry["name"]), None)
    if old is not None and "before" in old and "before" not in entry:
        entry = entry | {"before": old["before"]}
    run["cases"] = [one for one in run["cases"] if one["name"] != entry["name"]] + [entry]
    write_json(path, report)


def _triton_version() -> str:
    from importlib import metadata

    return metadata.version("triton")


def _show(entry: dict[str, Any]) -> None:
    rows = [
        [
            when,
            str(one["programs"]),
            f"{one['instructions'] / 1e6:.1f}",
            f"{one['load_bytes'] / 1e6:.1f}",
            f"{one['load_bytes_to_minimum']:.2f}",
            f"{one['requested_bytes'] / 1e6:.1f}",
            _part(one["gather_lanes_at_work"]),
            "–" if one["values_per_atomic_sector"] is None else f"{one['values_per_atomic_sector']:.2f}",
            "–" if one["bytes_per_store"] is None else f"{one['bytes_per_store']:.1f}",
        ]
        for when in ("before", "after")
        if (one := entry.get(when))
    ]
    headings = [
        "",
        "programs",
        "10⁶ instr.",
        "MB from L2",
        "× minimum",
        "MB asked of L1",
        "gather lanes",
        "per atomic sector",
    ]
    table(entry["name"], [*headings, "bytes a store"], rows)


def _part(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


if __name__ == "__main__":
    run_command(main)
