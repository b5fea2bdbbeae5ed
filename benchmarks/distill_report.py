"""Statistics, table and picture of ``distill_gain``."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

T_975: Final = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Quantiles of Student's t by degrees of freedom."""

ARMS: Final = ("feature", "relation", "response", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """mAP and NDS in %, seconds of all steps, mAOE in rad and mAVE in m/s where they were kept: one value a seed."""

    mAP: tuple[float, ...]
    NDS: tuple[float, ...]
    seconds: tuple[float, ...]
    mAOE: tuple[float, ...] = ()
    mAVE: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PathResult:
    """One path: the teacher; the student alone, taught by the best recipe, and taught in other ways.

    ``equal_time`` and ``all_epochs`` are students alone for as long as the best recipe took, and for the teacher's
    epochs and the student's together. They and ``arms`` may have fewer seeds, the first ones.
    ``gain`` is the mean over seeds of best minus alone, mAP points, with its 95 % interval (paired, Student's t).
    """

    teacher: Figures
    alone: Figures
    best: Figures
    equal_time: Figures
    all_epochs: Figures
    arms: Mapping[str, Figures]

    @property
    def gains(self) -> list[float]:
        """Points of mAP gained, one a seed."""
        return paired(self.best.mAP, self.alone.mAP)

    @property
    def gain(self) -> float:
        """Their mean."""
        return statistics.fmean(self.gains)

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval."""
        return interval(self.gains)

    @property
    def gap_closed(self) -> float | None:
        """Share of the distance from student to teacher that was covered; ``None`` where the teacher is not ahead."""
        gap = self.teacher.mAP[0] - statistics.fmean(self.alone.mAP)
        return self.gain / gap if gap > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Figures in %, gains in points."""
        nds = paired(self.best.NDS, self.alone.NDS)
        return {
            "teacher_mAP": self.teacher.mAP[0],
            "teacher_NDS": self.teacher.NDS[0],
            "student_mAP": list(self.alone.mAP),
            "student_NDS": list(self.alone.NDS),
            "distilled_mAP": list(self.best.mAP),
            "distilled_NDS": list(self.best.NDS),
            **{
                f"{who}_{error}": list(getattr(figures, error))
                for who, figures in (("teacher", self.teacher), ("student", self.alone), ("distilled", self.best))
                for error in ("mAOE", "mAVE")
            },
            "equal_time_mAP": list(self.equal_time.mAP),
            "all_epochs_mAP": list(self.all_epochs.mAP),
            "each_loss": {arm: list(self.arms[arm].mAP) for arm in ARMS},
            "gain": self.gain,
            "gain_ci95": list(self.interval),
            "gain_NDS": statistics.fmean(nds),
            "gain_NDS_ci95": list(interval(nds)),
            "gain_over_equal_time": statistics.fmean(paired(self.best.mAP, self.equal_time.mAP)),
            "gain_over_all_epochs": statistics.fmean(paired(self.best.mAP, self.all_epochs.mAP)),
            "gap_closed": self.gap_closed,
            "time_ratio": sum(self.best.seconds) / sum(self.alone.seconds),
        }


def paired(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Differences seed by seed, of the seeds that both have."""
    return [a - b for a, b in zip(one, other, strict=False)]


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of at least two paired differences."""
    mean = statistics.fmean(differences)
    half = T_975[len(differences) - 1] * statistics.stdev(differences) / math.sqrt(len(differences))
    return mean - half, mean + half


def to_markdown(found: Mapping[str, PathResult]) -> str:
    """A table, one row a path; mAOE and mAVE are those of ``best``."""
    header = [
        "path",
        "teacher",
        "alone",
        "equal time",
        "all epochs",
        *ARMS,
        "best",
        "gain [95 %]",
        "gap closed",
        "mAOE",
        "mAVE",
    ]
    lines = [" | ".join(header), " | ".join("---" if at == 0 else "---:" for at in range(len(header)))]
    for path, result in found.items():
        low, high = result.interval
        closed = result.gap_closed
        cells = [
            path.replace("->", " → "),
            f"{result.teacher.mAP[0]:.1f}",
            *(mean_of(figures) for figures in (result.alone, result.equal_time, result.all_epochs)),
            *(mean_of(result.arms[arm]) for arm in ARMS),
            mean_of(result.best),
            f"{result.gain:+.1f} [{low:+.1f}, {high:+.1f}]",
            "–" if closed is None else f"{100 * closed:.0f} %",
            *(f"{statistics.fmean(its):.2f}" if its else "–" for its in (result.best.mAOE, result.best.mAVE)),
        ]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def mean_of(figures: Figures) -> str:
    """Mean mAP."""
    return f"{statistics.fmean(figures.mAP):.1f}"


def draw(found: Mapping[str, PathResult], png: Path) -> None:
    """Every seed's mAP of every arm, path by path, with the teacher as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(3.2 * len(found), 3.6), constrained_layout=True)
    for axis, (path, result) in zip(axes, found.items(), strict=True):
        columns = {
            "alone": result.alone,
            "equal time": result.equal_time,
            "all epochs": result.all_epochs,
            **{arm: result.arms[arm] for arm in ARMS},
            "best": result.best,
        }
        for at, (name, figures) in enumerate(columns.items()):
            colour = "#1b7837" if name == "best" else "#444444"
            axis.scatter([at] * len(figures.mAP), figures.mAP, s=22, color=colour, alpha=0.8, linewidths=0)
            axis.hlines(statistics.fmean(figures.mAP), at - 0.3, at + 0.3, color=colour, linewidth=2)
        axis.axhline(result.teacher.mAP[0], color="#b2182b", linestyle="--", linewidth=1)
        axis.annotate("teacher", (0, result.teacher.mAP[0]), xytext=(0, 3), textcoords="offset points", fontsize=8)
        axis.set_xticks(range(len(columns)), list(columns), rotation=55, ha="right", fontsize=8)
        low, high = result.interval
        axis.set_title(f"{path.replace('->', ' → ')}\n{result.gain:+.1f} mAP [{low:+.1f}, {high:+.1f}]", fontsize=10)
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("mAP on the test split, %")
    png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png, dpi=130)
    pyplot.close(figure)
