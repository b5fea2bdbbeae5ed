"""Progress and tables, on a terminal of 80 columns and where there is none."""

import io
import json
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from udx import console
from udx.console import Grid, Lines, PhaseLines, Phases, Terminal, bar, duration, phases, say, table

STEPS_OF_A_TRAINING = """
from udx.console import bar
losses = "epoch 1 of 4, loss 6.076 heatmap 4.956 offset 0.159 height 0.413 size 0.822 rotation 0.911 velocity 0.388 depth 2.1"
with bar("training cam from fusion") as update:
    update(1, 640, losses)
    update(120, 640, losses)
"""  # noqa: E501


def on_a_terminal(code: str, columns: int) -> str:
    """What a program shows on a terminal of so many columns, without colours and movements."""
    parent, child = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm-256color"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=child, stderr=child, env=environment)
    os.close(child)
    shown = b""
    while True:
        try:
            data = os.read(parent, 2**16)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        shown += data
    assert process.wait() == 0
    os.close(parent)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_a_bar_shows_step_and_time_left_at_80_columns_and_the_losses_below():
    shown = on_a_terminal(STEPS_OF_A_TRAINING, 80)
    frames = [line for line in re.split(r"[\r\n]+", shown) if "120/640" in line]
    assert frames and "training cam from fusion" in frames[-1] and "━" in frames[-1] and "left" in frames[-1]
    assert "loss 6.076" not in frames[-1] and "epoch 1 of 4, loss 6.076" in shown and "depth 2.1" in shown
    assert all(len(line) <= 80 for line in re.split(r"[\r\n]+", shown))


@pytest.mark.parametrize("opened", ["bar", "ticking", "phases"])
def test_a_bar_that_never_moved_leaves_nothing(opened):
    shown = on_a_terminal(f"from udx.console import {opened}\nwith {opened}('opening the data'): pass\n", 80)
    assert "opening the data" in shown and "?" not in shown


def test_lines_are_said_less_and_less_often():
    now, said = 0.0, []
    lines = Lines("training", said.append, lambda: now)
    for step in range(1, 3601):
        now = float(step)
        lines.update(step, 7200, "loss 1.000")
    now += 1
    lines.update(3601, 7200, "loss 1.000")
    lines.close()
    assert said[0] == "training: 2/7200, 0:00:02 passed, about 1:59:58 left; loss 1.000"
    assert 60 < len(said) < 120
    assert said[-1] == "training: 3601/7200, 1:00:01 passed, about 0:59:59 left; loss 1.000"


def test_the_last_state_is_said_once():
    now, said = 0.0, []
    lines = Lines("rendering", said.append, lambda: now)
    for step in (1, 2):
        now = 20.0 * step
        lines.update(step, 2, "")
    now = 41.0
    lines.close()
    assert [line.split(",")[0] for line in said] == ["rendering: 1/2", "rendering: 2/2"]


def test_losses_are_shown_and_nothing_else():
    figures = {"heatmap": 2.0, "loss": 3.0, "detection": 3.0, "feature_raw": 9.0, "lr": 0.1, "seconds": 4.0}
    assert console.losses_line(figures) == "loss 3.000 heatmap 2.000"


def test_what_is_quick_needs_no_lines():
    now, said = 0.0, []
    lines = Lines("detecting", said.append, lambda: now)
    for step in range(3):
        now = step / 2
        lines.update(step, 3, "")
    lines.close()
    assert said == []


def test_without_a_terminal_progress_is_on_standard_error(capsys, monkeypatch):
    monkeypatch.setattr(console, "FIRST_LINE_S", 0.0)
    with bar("training cam") as update:
        update(1, 4, "loss 2.000")
    with phases("building") as shown:
        shown.start("engine", 0, 6)
        shown.start("tactics", 1, 30)
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("training cam: 1/4, 0:00:00 passed") and "loss 2.000\n" in error
    assert "building: 0/6, 0:00:00 passed; tactics" in error


def test_the_lines_of_phases_count_the_outermost_and_name_the_innermost():
    now, said = 0.0, []
    shown = PhaseLines(Lines("building", said.append, lambda: now))
    shown.start("engine", 0, 6)
    now = 10.0
    shown.advance("engine", 2)
    now = 20.0
    shown.start("tactics", 1, 30)
    now = 30.0
    shown.finish("tactics")
    now = 40.0
    shown.finish("engine")
    assert [line.split(",")[0] for line in said] == ["building: 2/6", "building: 2/6", "building: 2/6", "building: 6/6"]
    assert said[1].endswith("; tactics")


@pytest.mark.parametrize(("seconds", "said"), [(0, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03")])
def test_durations(seconds, said):
    assert duration(seconds) == said


RUNS = Grid(
    "runs",
    ("run", "trains", "state", "step", "loss", "best NDS"),
    (
        ("nano-cam-from-fusion-2", "nano cam from fusion", "epoch 3 of 12", "12800", "6.123", "22.3"),
        ("a-name-of-a-folder-that-is-longer-than-any-terminal-is-wide-and-then-some", "nano", "broken", "1", "–", "–"),
    ),
    frozenset({"run", "trains", "state"}),
)


@pytest.mark.parametrize("columns", [50, 80, 133])
def test_a_table_keeps_every_figure_and_every_letter(columns):
    out = io.StringIO()
    Console(width=columns, file=out).print(RUNS, crop=False)
    lines = out.getvalue().splitlines()
    assert all(len(line) <= columns for line in lines)
    first = next(line for line in lines if line.startswith("nano-"))
    assert re.search(r"12800 +6\.123 +22\.3$", first.rstrip())
    width = RUNS.widths(columns)[0]
    assert RUNS.rows[1][0] in "".join(line[:width].strip() for line in lines if not line.startswith("─"))


def test_a_table_that_cannot_fit_is_wider_than_the_terminal_and_whole():
    figures = Grid("t", ("", "a", "b"), (("x", "123456789", "987654321"),), frozenset({""}))
    out = io.StringIO()
    Console(width=12, file=out).print(figures, crop=False)
    assert "123456789  987654321" in out.getvalue()


def test_in_a_pipe_a_table_is_as_wide_as_it_likes(capsys):
    reason = "no NVIDIA driver is installed " * 8
    table("formats", ["format", "median, ms", "note"], [["ONNX [FP32]", "12.34", reason]], texts=("note",))
    shown = capsys.readouterr().out
    (row,) = (line for line in shown.splitlines() if "ONNX [FP32]" in line)
    assert "12.34" in row and reason.strip() in row


HOSTILE = "a \x1b]0;owned\x07 \x1b[2J \x9b31m \u202e b"
SHOWN = "a \\x1b]0;owned \\x1b[2J \\x9b31m \\u202e b"  # rich itself leaves the bell out


@pytest.fixture
def sent(monkeypatch):
    """What a terminal that can do everything is sent."""
    file = io.StringIO()
    terminal = Terminal(file=file, force_terminal=True, color_system="truecolor", width=200)
    monkeypatch.setattr(console, "console", terminal)
    monkeypatch.setattr(console, "messages", terminal)
    return file


@pytest.mark.parametrize(
    "show", [say, lambda text: table("title", ["name"], [[text]]), lambda text: table(text, [text], [])]
)
def test_what_terminals_obey_is_shown_and_not_sent(sent, show):
    show(HOSTILE)
    assert "\x1b]" not in sent.getvalue() and "\x1b[2J" not in sent.getvalue()
    assert not {"\x07", "\x9b", "\u202e"} & set(sent.getvalue())
    assert "x1b]0;owned" in sent.getvalue()


def test_a_line_is_shown_whole(sent):
    say(HOSTILE)
    say("12 000 µs, größer")
    assert sent.getvalue() == f"{SHOWN}\n12 000 µs, größer\n"


def test_what_is_said_beside_a_bar_is_no_command(sent):
    with bar(HOSTILE) as update:
        update(1, 2, HOSTILE)
    assert not {"\x07", "\x9b", "\u202e"} & set(sent.getvalue())


def test_colours_of_udx_itself_are_sent(sent):
    console.console.print(Text("red", style="red"))
    assert sent.getvalue() == "\x1b[31mred\x1b[0m\n"


def test_phases_come_and_go_and_the_titled_bar_stays():
    progress = Progress()
    shown = Phases(progress, "building")
    shown.start("engine", 0, 6)
    shown.start("tactics", 1, 30)
    shown.start("timing", 2, 4)
    shown.advance("engine", 2)
    shown.advance("timing", 1)
    assert [(bar.description, bar.completed, bar.total) for bar in progress.tasks] == [
        ("building", 2, 6),
        ("  tactics", 0, 30),
        ("    timing", 1, 4),
    ]
    shown.finish("timing")
    shown.finish("tactics")
    shown.advance("engine", 5)
    shown.finish("engine")
    assert [(bar.description, bar.completed, bar.finished) for bar in progress.tasks] == [("building", 6, True)]


def test_phases_of_one_name_may_follow_each_other():
    progress = Progress()
    shown = Phases(progress, "building")
    for steps in (3, 5):
        shown.start("reformats", 1, steps)
        assert [bar.total for bar in progress.tasks] == [None, steps]
        shown.finish("reformats")


def test_the_bars_end_with_the_block():
    with phases("building") as shown:
        shown.start("engine", 0, 1)
    shown.advance("engine", 1)


def test_a_reader_that_has_gone_stops_nothing():
    code = (
        "import sys, time\nfrom udx.console import say, tell\n"
        "sys.stdin.readline()\nsay('lost')\nsay('lost, too')\ntell('still here')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        error = process.stderr.read()
        assert process.wait() == 0, error
    assert error == "still here\n"


def test_json_on_standard_output_sends_results_to_standard_error(capsys):
    console.reserve_stdout(True)
    try:
        console.say("mAP 1 %")
        print(json.dumps({"mAP": 0.01}))
    finally:
        console.reserve_stdout(False)
    out, error = capsys.readouterr()
    assert json.loads(out) == {"mAP": 0.01} and error == "mAP 1 %\n"
