"""What distillation costs in training: step time and peak memory without a teacher, with one, and with one remembered.

    python benchmarks/distill_cost.py [--recipe nano] [--teacher fusion] [--student cam] [--rounds 3]

Every training runs in a process of its own, whose peak memory is its own, in turns: alone, online, cached, alone, …
A step's time is the whole of it, loading included, from one step's end to the next one's, in this very process. The
cache is filled beforehand, by a training that is not measured; the weights of the detectors do not matter here.
"""

import dataclasses
import resource
import shutil
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import click

from udx.console import bar, table
from udx.data.dataset import open_or_make
from udx.data.nuscenes import load_keyframes
from udx.data.spec import Modality
from udx.entry import run_command
from udx.files import write_json
from udx.runtime.environment import environment
from udx.train.job import Request, resolve_config
from udx.train.loop import Job, Progress, train
from udx.train.recipes import RunConfig
from udx.train.run import Run
from udx.workers import end_with_parent

RESULTS: Final = Path(__file__).parent / "results" / "distill_cost.json"
MODES: Final = ("alone", "online", "cached")
KEYFRAMES: Final = 32
EPOCHS: Final = 2
WARM_UP_STEPS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Median seconds of a step, and peak memory in MiB: of the device on CUDA, else of the process."""

    step_s: float
    memory_mib: float


def one_training(config: RunConfig, folder: Path, teacher: Path | None, cache: Path | None) -> Cost:
    """Train once in this process and say what it cost."""
    import torch

    ends: list[float] = []

    def watch(progress: Progress) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends.append(time.perf_counter())

    shutil.rmtree(folder, ignore_errors=True)
    keyframes = load_keyframes(open_or_make(None, None, lambda done, total: None), "train", max_sweeps=1)[:KEYFRAMES]
    job = Job(
        config=config,
        keyframes=keyframes,
        data={"keyframes": "cost"},
        run=Run(folder),
        teacher=Run(teacher) if teacher else None,
        teacher_cache=cache,
        watch=watch,
    )
    train(job)
    steps = [after - before for before, after in zip(ends[WARM_UP_STEPS:], ends[WARM_UP_STEPS + 1 :], strict=False)]
    on_cuda = torch.cuda.is_available()
    memory = torch.cuda.max_memory_allocated() / 2**20 if on_cuda else 0.0
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return Cost(step_s=statistics.median(steps), memory_mib=memory or resident)


def apart(config: RunConfig, folder: Path, teacher: Path | None = None, cache: Path | None = None) -> Cost:
    """``one_training`` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        return pool.submit(one_training, config, folder, teacher, cache).result()


def summary(costs: Mapping[str, list[Cost]]) -> dict[str, Any]:
    """Median over the rounds of each mode, and its ratio to learning alone, round by round."""
    alone = costs["alone"]
    return {
        mode: {
            "step_s": statistics.median(cost.step_s for cost in its),
            "memory_mib": statistics.median(cost.memory_mib for cost in its),
            "step_ratio": statistics.median(c.step_s / a.step_s for c, a in zip(its, alone, strict=True)),
            "memory_ratio": statistics.median(c.memory_mib / a.memory_mib for c, a in zip(its, alone, strict=True)),
            "rounds": [dataclasses.asdict(cost) for cost in its],
        }
        for mode, its in costs.items()
    }


@click.command()
@click.option("--recipe", default="nano", show_default=True)
@click.option("--teacher", type=click.Choice(["fusion", "lidar", "cam"]), default="fusion", show_default=True)
@click.option("--student", type=click.Choice(["fusion", "lidar", "cam"]), default="cam", show_default=True)
@click.option("--rounds", type=int, default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/distill-cost"), show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(recipe: str, teacher: Modality, student: Modality, rounds: int, out: Path, json_file: Path) -> None:
    """Measure and print the three ways to train side by side."""
    overrides = ("train.workers=0", "train.gradient_norms_every=0", f"train.epochs={EPOCHS}")
    config = resolve_config(Request(recipe=recipe, student=student, overrides=overrides))
    teaching = resolve_config(Request(recipe=recipe, student=teacher, overrides=(*overrides, "train.epochs=1")))
    with bar("teacher and cache") as tick:
        apart(teaching, out / "teacher")
        tick(1, 2, "")
        shutil.rmtree(out / "cache", ignore_errors=True)
        apart(config, out / "filling", out / "teacher", out / "cache")
        tick(2, 2, "")
    given = {"alone": (None, None), "online": (out / "teacher", None), "cached": (out / "teacher", out / "cache")}
    costs: dict[str, list[Cost]] = {mode: [] for mode in MODES}
    with bar("measuring") as tick:
        for turn in range(rounds):
            for mode in MODES:
                costs[mode].append(apart(config, out / mode, *given[mode]))
                tick(turn * len(MODES) + len(costs[mode]), rounds * len(MODES), mode)
    found = summary(costs)
    record = {
        "recipe": recipe,
        "path": f"{teacher}->{student}",
        "batch_size": config.train.batch_size,
        "precision": config.train.precision,
        "modes": found,
        "command": f"python benchmarks/distill_cost.py --recipe {recipe} --teacher {teacher} --student {student}",
        "machine": dataclasses.asdict(environment()),
    }
    write_json(json_file, record)
    rows = [
        [
            mode,
            *(f"{found[mode][name]:.3f}" for name in ("step_s", "step_ratio")),
            f"{found[mode]['memory_mib']:.0f}",
            f"{found[mode]['memory_ratio']:.3f}",
        ]
        for mode in MODES
    ]
    table(f"{teacher} teaches {student}, recipe {recipe}", ["", "step, s", "ratio", "memory, MiB", "ratio"], rows)


if __name__ == "__main__":
    run_command(main)
