"""The runs below a folder, with their figures."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from udx.errors import UdxError
from udx.files import read_json
from udx.train.run import BEST, RUNS, Run

MAX_FIGURE: Final = 1e15
"""What is larger, or no number, is no figure of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run: what it trains, how far it is, and its metrics on the validation split as far as there are any.

    ``step`` is that of the log, ``best_NDS`` that of the best epoch; ``broken``: a step of it gave no finite loss.
    """

    folder: str
    recipe: str
    student: str
    teacher: str | None
    epochs: int
    epoch: int
    step: int
    loss: float | None
    mAP: float | None
    NDS: float | None
    best_NDS: float | None
    broken: bool
    finished: bool

    @property
    def state(self) -> str:
        """``finished``, ``broken``, or the epoch that it is in."""
        if self.finished:
            return "finished"
        return "broken" if self.broken else f"epoch {self.epoch + 1} of {self.epochs}"

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def list_runs(runs: Path = RUNS) -> tuple[list[RunRow], list[str]]:
    """Runs below a folder, the newest first, and what is wrong with those that cannot be read."""
    found = [path for path in runs.glob("**/config.json") if path.parent.name != BEST]
    rows, problems = [], []
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            rows.append(row_of(Run(path.parent), runs))
        except UdxError as error:
            problems.append(str(error))
    return rows, problems


def row_of(run: Run, runs: Path) -> RunRow:
    """Read one run's small files; neither weights nor state are touched.

    Raises:
        UdxError: a file is damaged, or its configuration is not that of a run.
    """
    record = read_json(run.config)
    try:
        config, teacher = record["config"], record.get("teacher")
        sensors = config["detector"]["spec"]
        student = "fusion" if sensors["camera"] and sensors["lidar"] else "cam" if sensors["camera"] else "lidar"
        recipe, epochs = str(config["recipe"]), int(config["train"]["epochs"])
        taught_by = str(teacher["modality"]) if teacher else None
    except (TypeError, KeyError, ValueError, ArithmeticError) as error:
        raise UdxError(f"{run.config} is not the configuration of a run ({error!r}); remove its folder") from error
    last = _last_line(run.log)
    metrics = run.read_metrics()
    newest = metrics or _newest_metrics(run)
    best = run.best.read_metrics() or metrics or {}
    return RunRow(
        folder=str(run.folder.relative_to(runs)),
        recipe=recipe,
        student=student,
        teacher=taught_by,
        epochs=epochs,
        epoch=int(_number(last.get("epoch")) or 0),
        step=int(_number(last.get("step")) or 0),
        loss=_number(last.get("loss")),
        mAP=_number(newest.get("mAP")),
        NDS=_number(newest.get("NDS")),
        best_NDS=_number(best.get("NDS")),
        broken=any(run.broken.glob("*.pt")),
        finished=metrics is not None,
    )


def _newest_metrics(run: Run) -> dict[str, Any]:
    files = sorted(run.metrics_of(1).parent.glob("*.json"))
    metrics = read_json(files[-1]) if files else {}
    return metrics if isinstance(metrics, dict) else {}


def _last_line(log: Path) -> dict[str, Any]:
    """The last whole line of a log, whatever its length: only its end is read."""
    if not log.is_file():
        return {}
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 2**16))
        lines = file.read().decode("utf-8", "replace").splitlines()
    whole = [line for line in lines if line.startswith("{") and line.endswith("}")]
    try:
        line = json.loads(whole[-1]) if whole else {}
    except (ValueError, RecursionError):
        return {}
    return line if isinstance(line, dict) else {}


def _number(value: Any) -> float | None:
    """A figure of a file, or ``None`` where it is missing, no number or not finite."""
    return value if type(value) in (int, float) and abs(value) < MAX_FIGURE else None
