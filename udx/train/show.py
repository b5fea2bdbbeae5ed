"""What training shows on the terminal beside its progress."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from udx.config import describe_fields, to_plain
from udx.console import say, table, tell
from udx.train.listing import RunRow
from udx.train.run import Run

if TYPE_CHECKING:
    from udx.train.recipes import RunConfig
    from udx.train.rehearsal import Rehearsal


def show_rehearsal(rehearsal: "Rehearsal") -> None:
    """Print the configuration as JSON, then sizes, memory and the timed step."""
    say(json.dumps(to_plain(rehearsal.config), indent=2))
    counts = [*rehearsal.parameters.items()]
    trained = sum(count for name, count in counts if name != "teacher")
    table("parameters", ["module", "number"], [[name, f"{count:,}"] for name, count in (*counts, ("trained", trained))])
    memory = [*rehearsal.memory_mib.items(), ("together", rehearsal.total_mib)]
    table("memory of a process, estimated", ["what", "MiB"], [[name, f"{size:,.1f}"] for name, size in memory])
    for line in rehearsal.lines():
        say(line)


def show_recipes() -> None:
    """Print the recipes, each with the first sentence of what is said of it."""
    from udx.train.recipes import RECIPES

    _list({name: recipe.__doc__ for name, recipe in RECIPES.items()}, "recipes")


def show_methods() -> None:
    """Print the methods of distillation, each with the first sentence of what is said of it."""
    from udx.train.methods import METHODS

    _list({name: method.__doc__ for name, method in METHODS.items()}, "methods of distillation")


def _list(documented: Mapping[str, str | None], title: str) -> None:
    rows = [[name, (text or "").strip().split("\n")[0]] for name, text in documented.items()]
    table(title, ["name", "what it is"], rows, texts=("what it is",))


def show_fields(config: "RunConfig") -> None:
    """Print every field of a configuration that ``--set`` changes, its type and its value."""
    rows = [[field.path, field.type, field.value] for field in describe_fields(config)]
    title = f"recipe {config.recipe}, {config.detector.spec.modality}: change a field with --set FIELD=VALUE"
    table(title, ["field", "type", "value"], rows, texts=("type", "value"))


def tell_next(run: Run) -> None:
    """Say what a finished run is good for."""
    tell(f"next: udx export --run {run.folder}; udx bench --run {run.folder} compares every format that runs here")


def show_runs(rows: Sequence[RunRow]) -> None:
    """Print a table of runs, metrics in %."""
    header = ["run", "trains", "state", "step", "loss", "mAP", "NDS", "best NDS"]
    table("runs, mAP and NDS in %", header, [_cells(row) for row in rows], texts=("trains", "state"))


def _cells(row: RunRow) -> list[str]:
    figures = [_percent(value) for value in (row.mAP, row.NDS, row.best_NDS)]
    loss = "–" if row.loss is None else f"{row.loss:.3f}"
    taught = f" from {row.teacher}" if row.teacher else ""
    return [row.folder, f"{row.recipe} {row.student}{taught}", row.state, str(row.step), loss, *figures]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
