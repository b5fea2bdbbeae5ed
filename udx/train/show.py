"""What training shows on the terminal beside its progress."""

import json
from collections.abc import Sequence

from udx.config import to_plain
from udx.console import say, table
from udx.train.listing import RunRow
from udx.train.rehearsal import Rehearsal


def show_rehearsal(rehearsal: Rehearsal) -> None:
    """Print the configuration as JSON, then sizes, memory and the timed step."""
    say(json.dumps(to_plain(rehearsal.config), indent=2))
    counts = [*rehearsal.parameters.items()]
    trained = sum(count for name, count in counts if name != "teacher")
    table("parameters", ["module", "number"], [[name, f"{count:,}"] for name, count in (*counts, ("trained", trained))])
    memory = [*rehearsal.memory_mib.items(), ("together", rehearsal.total_mib)]
    table("memory of a process, estimated", ["what", "MiB"], [[name, f"{size:,.1f}"] for name, size in memory])
    for line in rehearsal.lines():
        say(line)


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
