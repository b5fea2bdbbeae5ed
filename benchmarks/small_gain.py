"""Train recipe ``small`` on a GPU for a few hundred steps, alone and distilled, and report what distillation gains.

    python benchmarks/small_gain.py [--steps 300] [--teacher-steps 600] [--out runs/small-gain]

A fusion teacher first; then two camera students of the same seed, on the same samples in the same order. All are
evaluated on the validation split of a synthetic world, which is rendered once into OUT. A run that broke off goes on.
The program fails if the distilled student is not the better one.
"""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import checkout
import click

from udx.config import to_plain
from udx.console import bar, say, table
from udx.data.nuscenes import load_keyframes, open_dataroot
from udx.data.spec import Modality
from udx.data.synth import WorldSpec, write_world
from udx.entry import run_command
from udx.errors import UdxError
from udx.files import write_json
from udx.runtime.environment import environment
from udx.train.job import Dataset, Lineup, Request, fit, resolve_config
from udx.train.recipes import RunConfig
from udx.train.run import Run

RESULTS = Path(__file__).parent / "results" / "small_gain_cuda.json"
WORLD = WorldSpec(scenes=60, samples=8, sweeps=4, image_width_px=704)


def of_steps(config: RunConfig, steps: int, samples: int) -> RunConfig:
    """The recipe with as many whole epochs as come next to ``steps``, evaluated at its end alone."""
    epochs = max(1, round(steps * config.train.batch_size / samples))
    return dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=epochs, validate_every=0))


def open_world(root: Path, device: str) -> Dataset:
    """The synthetic world, rendered on first use."""
    if not root.exists():
        with bar("rendering") as tick:
            write_world(root, WORLD, device=device, progress=lambda done, total: tick(done, total, ""))
    nusc = open_dataroot(root)
    splits = {name: load_keyframes(nusc, name, max_sweeps=WORLD.sweeps + 1) for name in ("train", "val")}
    return Dataset(nusc=nusc, train_split="train", val_split="val", train=splits["train"], val=splits["val"])


@click.command()
@click.option("--steps", default=300, show_default=True, help="Steps of each student.")
@click.option("--teacher-steps", default=600, show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Change one field of the recipe; repeatable.")
@click.option(
    "--device", default="cuda", show_default=True, help="Where to render; training takes a GPU if it is there."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/small-gain"), show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(steps: int, teacher_steps: int, overrides: tuple[str, ...], device: str, out: Path, json_file: Path) -> None:
    """Train the three, print their metrics and save them."""
    if importlib.util.find_spec("nuscenes") is None:
        raise UdxError(
            "detectors are evaluated by nuscenes-devkit, which is not installed: pip install nuscenes-devkit"
        )
    out, json_file = checkout.require_writable(out), checkout.require_writable(json_file.parent) / json_file.name
    data = open_world(out / "world", device)

    def trained(name: str, student: Modality, budget: int, teacher: Run | None = None) -> tuple[Run, dict[str, Any]]:
        run = Run(out / name)
        metrics = run.read_metrics()
        if metrics is None:
            config = resolve_config(Request(recipe="small", student=student, overrides=overrides))
            lineup = Lineup(
                of_steps(config, budget, len(data.train)), run, teacher=teacher, resume=run.config.is_file()
            )
            metrics = fit(lineup, data, bar)[1].to_json()
        return run, metrics

    teacher, taught = trained("teacher", "fusion", teacher_steps)
    _, alone = trained("alone", "cam", steps)
    _, distilled = trained("distilled", "cam", steps, teacher)
    figures = {"teacher": taught, "alone": alone, "distilled": distilled}
    errors = ("mAOE", "mAVE")
    rows = {
        name: {key: metrics[key] for key in ("mAP", "NDS")} | {key: metrics["tp_errors"][key] for key in errors}
        for name, metrics in figures.items()
    }
    gain = {key: distilled[key] - alone[key] for key in ("mAP", "NDS")}
    environment_of_run = to_plain(environment())
    write_json(
        json_file,
        {"steps": steps, "teacher_steps": teacher_steps, "environment": environment_of_run, **rows, "gain": gain},
    )
    cells = [
        [
            name,
            *(f"{100 * its[key]:.2f}" for key in ("mAP", "NDS")),
            *(f"{its[key]:.2f}" if key in its else "" for key in errors),
        ]
        for name, its in [*rows.items(), ("gain", gain)]
    ]
    table("recipe small: mAP and NDS in %, mAOE in rad, mAVE in m/s", ["detector", "mAP", "NDS", *errors], cells)
    if gain["mAP"] <= 0 or gain["NDS"] <= 0:
        raise UdxError(f"distillation gained nothing: mAP {gain['mAP']:+.4f}, NDS {gain['NDS']:+.4f}; see {out}")
    say(f"distillation gains {100 * gain['mAP']:+.2f} mAP and {100 * gain['NDS']:+.2f} NDS")


if __name__ == "__main__":
    run_command(main)
