"""The terminal: progress of long steps, tables, and how a run of ``udx`` ends."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from udx.data.detections import Detections

console = Console()

Tick = Callable[[int, int], None]
"""Told how many are done and how many there are."""


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show a progress bar; yield a function of how many are done, how many there are, and what to say beside."""
    with _progress(TimeRemainingColumn(), TextColumn("{task.fields[said]}", style="dim")) as progress:
        task = progress.add_task(title, total=None, said="")

        def update(done: int, total: int, said: str) -> None:
            progress.update(task, completed=done, total=total, said=said)

        yield update


@contextmanager
def ticking(title: str) -> Iterator[Tick]:
    """Show a progress bar without words beside it."""
    with bar(title) as update:
        yield lambda done, total: update(done, total, "")


class Phases:
    """Bars for steps within steps: a titled one for the outermost phase, and one for each that is under way in it."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._whole = progress.add_task(title, total=None)
        self._bars: dict[str, TaskID] = {}

    def start(self, phase: str, depth: int, steps: int) -> None:
        """Show a phase, indented by its depth; the outermost moves the titled bar."""
        if depth == 0:
            self._progress.update(self._whole, total=steps, completed=0)
            self._bars[phase] = self._whole
        else:
            self._bars[phase] = self._progress.add_task("  " * depth + phase, total=steps)

    def advance(self, phase: str, done: int) -> None:
        """Move a phase's bar."""
        self._progress.update(self._bars[phase], completed=done)

    def finish(self, phase: str) -> None:
        """Take a phase's bar away; the titled one stays."""
        bar_of_phase = self._bars.pop(phase)
        if bar_of_phase != self._whole:
            self._progress.remove_task(bar_of_phase)


@contextmanager
def phases(title: str) -> Iterator[Phases]:
    """Show the phases of a long step; when it ends, only its titled bar remains."""
    with _progress() as progress:
        yield Phases(progress, title)


def _progress(*more: ProgressColumn) -> Progress:
    bars = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*bars, *more, console=console, refresh_per_second=4)


def say(text: str) -> None:
    """Print a line as it is: nothing is coloured, wrapped, or read as markup, as ``[nan, 1]`` would be."""
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column is text, the others are figures."""
    grid = Table(title=title, title_justify="left")
    for position, name in enumerate(header):
        grid.add_column(name, justify="left" if position == 0 else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    console.print(grid)


def boxes(title: str, detections: "Detections") -> None:
    """Print a table of boxes."""
    from udx.geometry import CLASSES

    rows = [
        [CLASSES[label], f"{score:.2f}", *(f"{value:.1f}" for value in box[:7])]
        for box, score, label in zip(detections.boxes_K9, detections.scores_K, detections.labels_K, strict=True)
    ]
    table(title, ["class", "score", "x", "y", "z", "l", "w", "h", "yaw"], rows)


def losses_line(losses: Mapping[str, float]) -> str:
    """Loss terms in a row, the sum first; raw values are in the log only."""
    shown = {name: value for name, value in losses.items() if name not in ("loss", "detection") and "_raw" not in name}
    return " ".join([f"loss {losses['loss']:.3f}", *(f"{name} {value:.3f}" for name, value in shown.items())])
