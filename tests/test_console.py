"""Bars for steps within steps."""

from rich.progress import Progress

from udx.console import Phases, phases


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
    shown.advance("engine", 6)
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
