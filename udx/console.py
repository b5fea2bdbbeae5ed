"""The terminal: results on standard output, progress and warnings on standard error.

A bar is drawn where standard error is a terminal. Elsewhere (a pipe, a log, CI) lines tell the progress now and then.
"""

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from udx.errors import escaped

if TYPE_CHECKING:
    from udx.data.detections import Detections

PIPE_WIDTH: Final = 10_000
"""Columns of what is no terminal: nothing is wrapped there."""

GAP: Final = 2
"""Columns between two columns of a table."""

NARROWEST_TEXT: Final = 8
"""Columns that a text column keeps when a table is made narrower."""

NO_TERMS: Final = frozenset({"loss", "detection", "lr", "gradient_norm", "seconds", "memory_mb", "dropped_points"})
"""Figures of a step that are no terms of its loss, beside their sums."""

FIRST_LINE_S: Final = 2.0
LINE_EVERY_S: Final = (5.0, 60.0)
"""Seconds between two lines of progress without a terminal: at the beginning, and after some minutes."""


class Terminal(Console):
    """A console that outlives its reader, and prints no control characters but its own.

    When a pipe breaks, what is said is lost, and the program goes on. Names in files of strangers may hold what moves
    the cursor, colours or renames the terminal: that is shown as escapes.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render as rich does, with the text of every segment made harmless."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escaped(segment.text, keep="\n"))

    def on_broken_pipe(self) -> None:
        """Say nothing more, and let the last flush of the interpreter succeed."""
        self.quiet = True
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), self.file.fileno())


console: Final = Terminal()
"""Where results go."""

messages: Final = Terminal(stderr=True)
"""Where progress and warnings go."""

Tick = Callable[[int, int], None]
"""Told how many are done and how many there are."""

Update = Callable[[int, int, str], None]
"""Told how many are done, how many there are, and what to say beside."""

_json_on_stdout = False


def reserve_stdout(for_json: bool) -> None:
    """Send results to standard error, because standard output holds JSON; or back to standard output."""
    global _json_on_stdout
    _json_on_stdout = for_json


@contextmanager
def bar(title: str) -> Iterator[Update]:
    """Show progress; yield a function of how many are done, how many there are, and what to say beside."""
    if not messages.is_interactive:
        lines = Lines(title, tell)
        yield lines.update
        lines.close()
        return
    with _bars() as progress:
        task = progress.add_task(title, total=None, said="")

        def update(done: int, total: int, said: str) -> None:
            progress.update(task, completed=done, total=total, said=said)

        try:
            yield update
        finally:
            _forget_unknown(progress)


@contextmanager
def ticking(title: str) -> Iterator[Tick]:
    """Show progress without words beside it."""
    with bar(title) as update:
        yield lambda done, total: update(done, total, "")


class Lines:
    """Progress as lines: the first after two seconds, then less and less often, the last at the end.

    Args:
        title: what is under way.
        write: takes a line.
        clock: seconds.
    """

    def __init__(self, title: str, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._title, self._write, self._clock = title, write, clock
        self._began = clock()
        self._due = self._began + FIRST_LINE_S
        self._now: tuple[int, int, str] | None = None
        self._said: tuple[int, int, str] | None = None

    def update(self, done: int, total: int, said: str) -> None:
        """Take note of the state, and write a line if one is due."""
        self._now = done, total, said
        now = self._clock()
        if now >= self._due:
            shortest, longest = LINE_EVERY_S
            self._due = now + min(max(shortest, (now - self._began) / 10), longest)
            self._say(now)

    def close(self) -> None:
        """Write the last state, unless all of it took less time than the first line waits for."""
        now = self._clock()
        if self._now not in (None, self._said) and now >= self._began + FIRST_LINE_S:
            self._say(now)

    def _say(self, now: float) -> None:
        assert self._now is not None
        self._said = self._now
        done, total, said = self._now
        passed = now - self._began
        parts = [f"{self._title}: {done}/{total}", f"{duration(passed)} passed"]
        if 0 < done < total:
            parts.append(f"about {duration(passed / done * (total - done))} left")
        self._write(", ".join(parts) + (f"; {said}" if said else ""))


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


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
        """Take a phase's bar away; the titled one stays and is full."""
        bar_of_phase = self._bars.pop(phase)
        if bar_of_phase == self._whole:
            total = next(task.total for task in self._progress.tasks if task.id == self._whole)
            self._progress.update(self._whole, completed=total)
        else:
            self._progress.remove_task(bar_of_phase)


class PhaseLines:
    """Phases as lines: the outermost is counted, the innermost is named."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._outermost = ""
        self._done, self._total = 0, 1
        self._inner: list[str] = []

    def start(self, phase: str, depth: int, steps: int) -> None:
        """A phase begins."""
        if depth == 0:
            self._outermost, self._done, self._total = phase, 0, steps
        else:
            self._inner.append(phase)
        self._show()

    def advance(self, phase: str, done: int) -> None:
        """So many steps of a phase are done."""
        if phase == self._outermost:
            self._done = done
        self._show()

    def finish(self, phase: str) -> None:
        """A phase has ended."""
        if phase in self._inner:
            self._inner.remove(phase)
        elif phase == self._outermost:
            self._done = self._total
        self._show()

    def _show(self) -> None:
        self._lines.update(self._done, self._total, self._inner[-1] if self._inner else "")


@contextmanager
def phases(title: str) -> Iterator[Phases | PhaseLines]:
    """Show the phases of a long step; when it ends, only its titled bar remains."""
    if not messages.is_interactive:
        lines = Lines(title, tell)
        yield PhaseLines(lines)
        lines.close()
        return
    with _bars() as progress:
        try:
            yield Phases(progress, title)
        finally:
            _forget_unknown(progress)


class _Bars(Progress):
    """Bars, each with its words on lines of their own below, so that they take no width from the figures."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if said := task.fields.get("said"):
                yield Padding(Text(said, style="dim"), (0, 0, 0, 2))


class _Steps(MofNCompleteColumn):
    """Done and all; nothing as long as nobody knows how many there are."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task)


class _Left(TimeRemainingColumn):
    """The time that is left, by its name: the time that has passed stands beside it."""

    def render(self, task: Task) -> Text:
        return Text() if task.total is None else super().render(task) + Text(" left", style="progress.remaining")


def _bars() -> _Bars:
    title = TextColumn("{task.description}", table_column=Column(no_wrap=False))
    columns = (title, BarColumn(bar_width=16), _Steps(), TimeElapsedColumn(), _Left())
    # Standard output may be a file: what is printed there meanwhile must not come here.
    return _Bars(*columns, console=messages, refresh_per_second=4, redirect_stdout=False)


def _forget_unknown(progress: Progress) -> None:
    """Take away the bars that never moved: nothing was to be done, or an error came first."""
    for task in progress.tasks:
        if task.total is None:
            progress.remove_task(task.id)


def say(text: str) -> None:
    """Print a line of results as it is: nothing is coloured, wrapped, or read as markup, as ``[nan, 1]`` would be."""
    _results().print(text, highlight=False, soft_wrap=True, markup=False)


def tell(text: str) -> None:
    """Print a line on standard error: progress, a warning, what to do next."""
    messages.print(text, highlight=False, soft_wrap=True, markup=False)


def present(renderable: RenderableType) -> None:
    """Print a result that fits itself to the terminal; in a pipe it is as wide as it likes."""
    out = _results()
    if out.is_terminal:
        out.print(renderable, crop=False)
        return
    with (wide := Terminal(width=PIPE_WIDTH)).capture() as captured:
        wide.print(renderable, crop=False)
    for line in captured.get().rstrip().splitlines():
        say(line.rstrip())


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Collection[str] = ()) -> None:
    """Print a table: the first column and those that ``texts`` names are text, the others are figures."""
    cells = tuple(tuple(escaped(cell) for cell in row) for row in rows)  # so that columns are as wide as what is shown
    present(Grid(title, tuple(header), cells, frozenset((header[0], *texts))))


@dataclass(frozen=True, slots=True)
class Grid:
    """A table that keeps its figures whatever the width: headers wrap first, then text columns become narrower.

    Where even that does not fit, it is wider than the terminal: a figure that is cut would be another figure.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: frozenset[str]

    def widths(self, available: int) -> tuple[int, ...]:
        """Columns of each column of the table in a terminal of ``available`` columns."""
        cells = [max([0, *(cell_len(row[at]) for row in self.rows)]) for at in range(len(self.header))]
        widths = [max(width, cell_len(name)) for width, name in zip(cells, self.header, strict=True)]
        spare = available - GAP * (len(widths) - 1)
        if sum(widths) <= spare:
            return tuple(widths)
        words = [max(map(cell_len, name.split() or [""])) for name in self.header]
        widths = [max(pair) for pair in zip(cells, words, strict=True)]
        texts = [at for at, name in enumerate(self.header) if name in self.texts]
        longest = {at: max([0, *(cell_len(word) for row in self.rows for word in row[at].split())]) for at in texts}
        for least in (longest, dict.fromkeys(texts, NARROWEST_TEXT)):  # between words first, then within
            while sum(widths) > spare and (wide := [at for at in texts if widths[at] > max(least[at], words[at])]):
                widths[max(wide, key=lambda at: widths[at])] -= 1
        return tuple(widths)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = self.widths(options.max_width)
        grid = Table(
            title=self.title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD,
            show_edge=False, padding=(0, GAP - 1, 0, 0), pad_edge=False,
        )  # fmt: skip
        for name, width in zip(self.header, widths, strict=True):
            is_text = name in self.texts
            grid.add_column(Text(name), justify="left" if is_text else "right", width=width, overflow="fold")
        for row in self.rows:
            grid.add_row(*map(Text, row))
        whole = sum(widths) + GAP * (len(widths) - 1)
        yield from console.render(grid, options.update(width=whole, max_width=whole))
        yield Text("")


def boxes(title: str, detections: "Detections", most: int) -> None:
    """Print a table of at most so many boxes, the best first; nothing where there is none."""
    from udx.geometry import CLASSES

    best = detections.scores_K.argsort(kind="stable")[::-1][:most]
    rows = [
        [
            CLASSES[detections.labels_K[at]],
            f"{detections.scores_K[at]:.3f}",
            *(f"{value:.1f}" for value in detections.boxes_K9[at, :6]),
            f"{detections.boxes_K9[at, 6]:.2f}",
        ]
        for at in best
    ]
    if rows:
        table(title, ["class", "score", "x", "y", "z", "l", "w", "h", "yaw"], rows)


def losses_line(losses: Mapping[str, float]) -> str:
    """Loss terms in a row, the sum first; raw values and what is no loss are in the log only."""
    shown = {name: value for name, value in losses.items() if name not in NO_TERMS and "_raw" not in name}
    return " ".join([f"loss {losses['loss']:.3f}", *(f"{name} {value:.3f}" for name, value in shown.items())])


def _results() -> Console:
    return messages if _json_on_stdout else console
