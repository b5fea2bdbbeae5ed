"""How fast udx's operators are beside what people use in their place, on input of nuScenes' size.

    python benchmarks/ops.py [--device cpu|cuda] [--repetitions N]

All contestants of a table do the same work on the same tensors in the same run, in turns, and agree with udx before
they are timed; one that does not is left out, and the table says why. The report is written after every table. spconv
is an optional contestant (pip install spconv). On a GPU the device's time is measured, and udx's rows tell which share
of a plain copy's bandwidth they reach on the bytes that any implementation must move.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import ops_rivals as rivals
import torch
from ops_inputs import BEV_POOL_V3, GRIDS, PointCase, PoolCase, cells_of, point_case, pool_case
from ops_timing import Clock, CudaClock, ProcessorClock, take_turns
from torch import Tensor

from udx.console import bar, say, table
from udx.entry import run_command
from udx.errors import UdxError
from udx.files import write_json
from udx.geometry import BevGrid
from udx.ops import bev_pool
from udx.runtime.environment import environment

RESULTS = Path(__file__).parent / "results"
SUM_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2}
"""Largest difference of sums, relative to the largest sum: cumulative sums in FP32, and sums in FP16, need it."""
SPCONV = "spconv PointToVoxel"
MEAN_TOLERANCE_M = 2e-3
"""Positions in udx's sums are whole 1/1024 m, rounded down; the rivals round sums of metres in FP32."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """``run`` does the work once; ``deviation`` from udx was measured before; ``note`` says what differs."""

    name: str
    run: Callable[[], object]
    deviation: float = 0.0
    note: str = ""


@dataclass(frozen=True, slots=True)
class Absent:
    """A contestant that cannot take part, and why."""

    name: str
    note: str


@dataclass(frozen=True, slots=True)
class Contest:
    """Contestants for one operator and size, udx first; ``minimum_bytes`` is what any of them must move."""

    title: str
    entries: Sequence[Contestant | Absent]
    minimum_bytes: int | None = None

    @property
    def contestants(self) -> list[Contestant]:
        """Those who take part."""
        return [entry for entry in self.entries if isinstance(entry, Contestant)]


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--repetitions", default=15, show_default=True, help="Turns of every contestant.")
@click.option("--points", default=300_000, show_default=True, help="LiDAR points.")
@click.option("--bins", default=118, show_default=True, help="Depth bins of the frustum.")
@click.option("--channels", default=80, show_default=True, help="Channels of the context.")
@click.option("--batch", default=1, show_default=True, help="Samples that are pooled at once.")
@click.option(
    "--published/--no-published", default=True, show_default=True, help="Also pool at the size that NVIDIA publishes."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="[default: results/ops_DEVICE.json]")
def main(
    device: str,
    repetitions: int,
    points: int,
    bins: int,
    channels: int,
    batch: int,
    published: bool,
    json_file: Path | None,
) -> None:
    """Measure udx's operators against their rivals, print tables, save them."""
    _check(device, repetitions)
    clock: Clock = CudaClock() if device == "cuda" else ProcessorClock()
    dtypes = (torch.float32, torch.float16) if device == "cuda" else (torch.float32,)
    here = environment()
    report: dict[str, Any] = {
        "spec": {
            "device": device,
            "repetitions": repetitions,
            "points": points,
            "frustum": [batch, 6, bins, 16, 44],
            "channels": channels,
        },
        "environment": asdict(here) | {"versions": here.versions | _versions(), "threads": torch.get_num_threads()},
        "contests": [],
    }
    bandwidth = clock.copy_bytes_per_s(repetitions) if isinstance(clock, CudaClock) else None
    if bandwidth:
        report["copy_gb_per_s"] = bandwidth / 1e9
    out = json_file or RESULTS / f"ops_{device}.json"

    def hold(contest: Contest) -> None:
        report["contests"].append(_hold(contest, clock, repetitions, bandwidth))
        write_json(out, report)  # whoever interrupts the program keeps the tables that are finished

    for name, grid in GRIDS.items():
        for dtype in dtypes:
            pool = pool_case(grid, bins=bins, channels=channels, batch=batch, dtype=dtype, device=device)
            for contest in _pool_contests(name, pool):
                hold(contest)
        for contest in _point_contests(name, grid, points, device):
            hold(contest)
    for dtype in dtypes if published else ():
        shape = BEV_POOL_V3
        pool = pool_case(shape.grid, bins=shape.bins, channels=shape.channels, batch=1, dtype=dtype, device=device)
        for contest in _pool_contests("BEVPoolV3's 200×200", pool):
            hold(contest)
    say(f"saved to {out}")


def _check(device: str, repetitions: int) -> None:
    if repetitions < 2:
        raise UdxError(f"a median needs at least 2 repetitions, not {repetitions}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UdxError("torch sees no CUDA device on this machine; leave out --device cuda")


def _versions() -> dict[str, str]:
    """Versions of what competes, as far as it is installed."""
    found = {}
    for name in ("torch", "triton", "spconv"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


# -- the contests ------------------------------------------------------------------------------------------------------


def _pool_contests(grid_name: str, case: PoolCase) -> Iterator[Contest]:
    prepared = rivals.PreparedPool(case)
    pools: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "udx": lambda depth, context: bev_pool(depth, context, case.point_index_BP, case.cell_offsets),
        "lift, cumulative sum": partial(rivals.pool_by_cumulative_sum, prepared),
        "lift, index_add_": partial(rivals.pool_by_index_add, prepared),
        "bev_pool_v2 in torch": partial(rivals.pool_by_intervals, prepared),
    }
    forward_only = dict(pools)
    if case.depth_BNDhw.is_cuda:
        from ops_triton_rivals import IntervalPool

        forward_only["bev_pool_v2 in Triton"] = IntervalPool(prepared)
    inputs = case.depth_BNDhw, case.context_BNhwC
    what = f"bev_pool, {grid_name} cells, {str(case.depth_BNDhw.dtype).removeprefix('torch.')}"
    tolerance = SUM_TOLERANCE[case.depth_BNDhw.dtype]
    yield Contest(f"{what}, forward", _agreeing(forward_only, inputs, tolerance), case.minimum_bytes)
    yield Contest(f"{what}, forward and backward", _agreeing(_with_backward(pools), inputs, tolerance))


def _point_contests(grid_name: str, grid: BevGrid, points: int, device: str) -> Iterator[Contest]:
    case = point_case(grid, points=points, channels=64, device=device)
    cell_M = cells_of(case).int()
    scatters = {
        "udx": rivals.scatter_by_udx,
        "unique, scatter_reduce": rivals.scatter_by_unique,
        "sort, segment_reduce": rivals.scatter_by_sorting,
    }
    bound = {name: partial(scatter, cell_M=cell_M, cells=grid.num_cells) for name, scatter in scatters.items()}
    inputs = (case.features_MC,)
    map_bytes = grid.num_cells * case.features_MC.shape[1] * case.features_MC.element_size()
    scattered = case.features_MC.nbytes + cell_M.nbytes + map_bytes
    voxelized = case.points_MF.nbytes + cell_M.nbytes + 4 * 4 * grid.num_cells
    scatter = f"pillar_scatter, {grid_name} cells, forward"
    yield Contest(f"voxelize, {grid_name} cells", _voxelizers(case), voxelized)
    yield Contest(scatter, _agreeing(bound, inputs, 0.0), scattered)
    yield Contest(f"{scatter} and backward", _agreeing(_with_backward(bound), inputs, 1e-6))
    yield Contest(f"voxelize and pillar_scatter, {grid_name} cells", _pipelines(case))


def _voxelizers(case: PointCase) -> list[Contestant | Absent]:
    """Points to counts, means and cells; the counts must be equal, the means nearly."""
    contestants = {
        "udx": rivals.voxelize_by_udx,
        "unique, index_add_": rivals.voxelize_by_unique,
        "sort, segment_reduce": rivals.voxelize_by_sorting,
    }
    count, mean, cell_M = rivals.voxelize_by_udx(case)
    entries: list[Contestant | Absent] = []
    for name, voxelize in contestants.items():
        other_count, other_mean, other_cell_M = voxelize(case)
        assert cell_M is not None and other_cell_M is not None
        deviation = float((mean - other_mean).abs().max())
        faults = {
            f"puts {int((cell_M.long() != other_cell_M.long()).sum())} points into other cells": torch.equal(
                cell_M.long(), other_cell_M.long()
            ),
            "counts other points": torch.equal(count.long(), other_count.long()),
            f"has means {deviation:.2g} m away": deviation <= MEAN_TOLERANCE_M,
        }
        entries.append(_judged(name, partial(voxelize, case), deviation, faults))
    spconv = _spconv(case, features=case.points_MF.shape[1])
    if isinstance(spconv, Absent):
        return [*entries, spconv]
    run = partial(rivals.voxelize_by_spconv, case, spconv)
    kept_count, kept_mean, _ = run()
    kept = count.clamp(max=rivals.SPCONV_POINTS)
    whole = count <= rivals.SPCONV_POINTS
    deviation = float((mean[whole] - kept_mean[whole]).abs().max())
    faults = {
        "counts other points": torch.equal(kept.long(), kept_count.long()),
        f"has means {deviation:.2g} m away": deviation <= MEAN_TOLERANCE_M,
    }
    return [*entries, _judged(SPCONV, run, deviation, faults, _share(kept, count))]


def _pipelines(case: PointCase) -> list[Contestant | Absent]:
    """Points and their features to the map of maxima."""
    runs = {
        "udx": partial(_pillars, rivals.voxelize_by_udx, rivals.scatter_by_udx, case),
        "unique, scatter_reduce": partial(_pillars, rivals.voxelize_by_unique, rivals.scatter_by_unique, case),
        "sort, segment_reduce": partial(_pillars, rivals.voxelize_by_sorting, rivals.scatter_by_sorting, case),
    }
    entries = _agreeing(runs, (), 0.0)
    spconv = _spconv(case, features=case.points_MF.shape[1] + case.features_MC.shape[1])
    if isinstance(spconv, Absent):
        return [*entries, spconv]
    run = partial(rivals.pillars_by_spconv, case, spconv)
    count = rivals.voxelize_by_udx(case)[0]
    whole = count <= rivals.SPCONV_POINTS
    faults = {"has other maxima": torch.equal(run()[whole], runs["udx"]()[whole])}
    return [*entries, _judged(SPCONV, run, 0.0, faults, _share(count.clamp(max=rivals.SPCONV_POINTS), count))]


def _pillars(
    voxelize: Callable[[PointCase], rivals.Voxels], scatter: Callable[[Tensor, Tensor, int], Tensor], case: PointCase
) -> Tensor:
    cell_M = voxelize(case)[2]
    assert cell_M is not None
    return scatter(case.features_MC, cell_M, case.grid.num_cells)


def _spconv(case: PointCase, features: int) -> rivals.SpconvVoxels | Absent:
    if case.points_MF.is_cuda:
        return Absent(SPCONV, "takes part on the CPU")
    try:
        return rivals.SpconvVoxels(case, features)
    except ImportError:
        return Absent(SPCONV, "not installed")


def _share(kept: Tensor, count: Tensor) -> str:
    return f"{int(kept.sum()) / int(count.sum()):.0%} of the points"


# -- agreement ---------------------------------------------------------------------------------------------------------


def _agreeing(
    functions: Mapping[str, Callable[..., Any]], inputs: Sequence[Tensor], tolerance: float
) -> list[Contestant | Absent]:
    """Bind the functions to the inputs; leave out any whose result is not udx's, and say so."""
    runs = {name: partial(function, *inputs) for name, function in functions.items()}
    expected = _results(runs["udx"]())
    entries: list[Contestant | Absent] = []
    for name, run in runs.items():
        deviation = max(
            float((result - right).abs().max() / right.abs().max().clamp(min=1e-12))
            for result, right in zip(_results(run()), expected, strict=True)
        )
        fault = f"differs by {deviation:.2g}, more than {tolerance:.2g},"
        entries.append(_judged(name, run, deviation, {fault: deviation <= tolerance}))
    return entries


def _results(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    tensors = output if isinstance(output, tuple) else (output,)
    return tuple(tensor.detach().double() for tensor in tensors)


def _with_backward(functions: Mapping[str, Callable[..., Tensor]]) -> dict[str, Callable[..., tuple[Tensor, ...]]]:
    """Each function followed by the gradient of its inputs, for one fixed gradient of the output."""

    def backward(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        output = function(*leaves)
        grad = torch.linspace(-1, 1, output.shape[-1], dtype=output.dtype, device=output.device).expand_as(output)
        return torch.autograd.grad(output, leaves, grad)

    return {name: partial(backward, function) for name, function in functions.items()}


def _judged(
    name: str, run: Callable[[], object], deviation: float, checks: Mapping[str, bool], note: str = ""
) -> Contestant | Absent:
    """Admit a contestant that passes all ``checks``, named by the fault they look for; only the same work is timed."""
    faults = [fault for fault, passed in checks.items() if not passed]
    if faults:
        return Absent(name, f"not timed: it {faults[0]} from udx's result")
    return Contestant(name, run, deviation, note)


# -- measuring and telling ---------------------------------------------------------------------------------------------


def _hold(contest: Contest, clock: Clock, repetitions: int, bandwidth: float | None) -> dict[str, Any]:
    """Time the contestants, print the table, and return the report's entry."""
    with bar(contest.title) as update:
        turns = iter(range(1, repetitions + 1))
        timings = take_turns(
            clock,
            [contestant.run for contestant in contest.contestants],
            repetitions,
            lambda: update(next(turns), repetitions, ""),
        )
    results = iter(timings)
    rows = [
        {"name": item.name, "note": item.note}
        if isinstance(item, Absent)
        else {"name": item.name, **asdict(next(results)), "deviation": item.deviation, "note": item.note}
        for item in contest.entries
    ]
    entry: dict[str, Any] = {"title": contest.title, "contestants": rows}
    if contest.minimum_bytes is not None:
        entry["minimum_bytes"] = contest.minimum_bytes
        if bandwidth is not None:
            entry["share_of_copy"] = contest.minimum_bytes / (timings[0].median_ms / 1e3) / bandwidth
    _show(entry)
    return entry


def _show(entry: dict[str, Any]) -> None:
    share = entry.get("share_of_copy")
    told = f"; udx moves its minimum of bytes at {share:.0%} of a copy's rate" if share else ""
    rows = [
        [
            row["name"],
            f"{row['median_ms']:.2f}",
            "–".join(f"{value:.2f}" for value in row["quartiles_ms"]),
            f"{row['ratio']:.2f}",
            row["note"],
        ]
        if "median_ms" in row
        else [row["name"], "–", "–", "–", row["note"]]
        for row in entry["contestants"]
    ]
    table(entry["title"] + told, ["", "median ms", "quartiles", "× udx", ""], rows)


if __name__ == "__main__":
    run_command(main)
