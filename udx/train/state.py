"""Everything that resuming a training needs, in one file beside the checkpoint."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from udx.errors import UdxError
from udx.files import write_with
from udx.ranges import require_range
from udx.train.checkpoint import CheckpointRecord

STATE_FORMAT: Final = "udx-state/2"
FREE: Final = (
    *("batch_size", "accumulate", "workers", "compile", "recompute"),
    *("checkpoint_every_s", "gradient_norms_every", "keep_epochs", "pictures"),
)
"""Settings of ``TrainConfig`` that may be others when a training is resumed. The size of a process's batch is one of
them, because the samples of a step over all processes are held to be the same."""


def identity_of(record: CheckpointRecord, samples_per_step: int) -> dict[str, Any]:
    """What must not change until a training is resumed: whatever decides on its steps."""
    identity: dict[str, Any] = json.loads(record.to_json())
    for name in ("git_commit", "step", "udx_version"):
        del identity[name]
    for name in FREE:
        identity["config"]["train"].pop(name, None)
    return identity | {"samples_per_step": samples_per_step}


def write_state(path: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a training's state whole; ``identity`` is what must not change until it is resumed."""
    stamped = {"format": STATE_FORMAT, "identity": json.dumps(identity), **state}
    write_with(path, lambda partial: save_tensors(stamped, partial))


def read_state(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Read what ``write_state`` wrote; nothing in it is unpickled but tensors.

    Raises:
        UdxError: the file is damaged, or of a training of another identity.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != STATE_FORMAT:
            raise ValueError(STATE_FORMAT)
        saved = json.loads(state["identity"])
    except Exception as error:  # torch.load has no narrower promise
        raise UdxError(f"{path} cannot be read ({type(error).__name__}); start again with another --out") from error
    changed = sorted(_changed(saved, identity))
    if changed:
        was, now = (json.dumps(_at(of, changed[0]))[:60] for of in (saved, identity))
        raise UdxError(
            f"{path.parent} was begun with another {changed[0]} ({was}, now {now}); resume it as it was begun, or "
            f"choose another --out; --init {path.parent} --out NEW trains its weights further"
        )
    return state


def require_state(
    state: Mapping[str, Any],
    fresh: Mapping[str, Any],
    parameters: Sequence[Tensor],
    *,
    steps: int,
    epochs: int,
    path: Path,
) -> None:
    """Make sure that a state that was read can be taken up, before anything of it is.

    Args:
        state: what ``read_state`` returned.
        fresh: the state of the same training before its first step.
        parameters: what the optimiser trains, in its order.
        steps: of the whole training.
        epochs: of the whole training.
        path: where the state was read.

    Raises:
        UdxError: an entry is missing, or of another kind or shape, or out of its range.
    """
    try:
        of_optimiser = state["optimiser"]
        for name, value in fresh.items():
            if name == "optimiser":
                _require_groups(of_optimiser["param_groups"], value["param_groups"], state["schedule"])
                _require_moments(of_optimiser["state"], parameters)
                # Weights that no gradient reaches have no moments; how many have is told beside them.
                if len(of_optimiser["state"]) != state.get("moments", len(of_optimiser["state"])):
                    raise ValueError("optimiser.state lacks entries")
            elif name == "moments":
                pass
            elif name == "rng":
                _require_like(state["rng"][:1], value, "rng")
                for generators in state["rng"]:
                    _require_like(generators, value[0], "rng")
            else:
                _require_like(state[name], value, name)
        require_range(at_least=0, at_most=steps, step=state["step"])
        require_range(at_least=0, at_most=epochs, validated=state["validated"])
        require_range(at_least=-1, at_most=1, best_nds=state["best_nds"])
        require_range(at_least=0, log_bytes=state["log_bytes"])
        ours = {"last_epoch": state["step"], "base_lrs": fresh["schedule"]["base_lrs"]}
        if {name: state["schedule"][name] for name in ours} != ours:
            raise ValueError("the schedule is that of another training")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"lacks {error}" if isinstance(error, KeyError) else f"cannot be taken up ({error})"
        raise UdxError(f"{path} {said}; restore the file, or start again with another --out") from error


def _require_like(value: Any, fresh: Any, name: str) -> None:
    """Raise unless ``value`` has the structure of ``fresh``: names, lengths, types, shapes; numbers must be finite."""
    if isinstance(fresh, Mapping):
        if not isinstance(value, Mapping) or value.keys() != fresh.keys():
            raise ValueError(f"{name} has other entries than it should")
        for key in fresh:
            _require_like(value[key], fresh[key], f"{name}.{key}")
    elif isinstance(fresh, list | tuple):
        if not isinstance(value, list | tuple) or len(value) != len(fresh):
            raise ValueError(f"{name} is of another length")
        for item, like in zip(value, fresh, strict=True):
            _require_like(item, like, name)
    elif isinstance(fresh, Tensor):
        if not isinstance(value, Tensor) or value.shape != fresh.shape or value.dtype != fresh.dtype:
            raise ValueError(f"{name} is of another shape or type")
    elif isinstance(fresh, int | float) and not isinstance(fresh, bool):
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{name} is no number")
        if isinstance(fresh, int) and type(value) is not int:
            raise ValueError(f"{name} is no whole number")
    elif fresh is not None and type(value) is not type(fresh):
        raise ValueError(f"{name} is of another type")


def _require_groups(groups: Any, fresh: Sequence[Mapping[str, Any]], schedule: Mapping[str, Any]) -> None:
    """Raise unless AdamW's settings are those of the configuration, and its rates those of the schedule."""
    _require_like(groups, fresh, "optimiser.param_groups")
    for group, like, rate in zip(groups, fresh, schedule["_last_lr"], strict=True):
        settings = [json.dumps({name: value for name, value in its.items() if name != "lr"}) for its in (group, like)]
        if settings[0] != settings[1] or group["lr"] != rate or not rate >= 0:
            raise ValueError("optimiser.param_groups are those of another training")


def _require_moments(moments: Any, parameters: Sequence[Tensor]) -> None:
    """Raise unless AdamW's state holds nothing but a count and two moments of the parameters that were trained."""
    for number, of_one in moments.items():
        like = parameters[number] if type(number) is int and 0 <= number < len(parameters) else None
        if like is None or of_one.keys() != {"step", "exp_avg", "exp_avg_sq"}:
            raise ValueError("optimiser.state is not that of AdamW for these weights")
        _require_like(of_one["step"], torch.zeros(()), "optimiser.state.step")
        for name in ("exp_avg", "exp_avg_sq"):
            if not isinstance(of_one[name], Tensor) or of_one[name].shape != like.shape:
                raise ValueError(f"optimiser.state.{name} is of another shape")
            if not of_one[name].is_floating_point():
                raise ValueError(f"optimiser.state.{name} is of another type")


def save_tensors(value: Any, path: Path) -> None:
    """``torch.save`` with an ``OSError`` where the disk is full, for which torch has no name of its own."""
    try:
        torch.save(value, path)
    except RuntimeError as error:
        raise OSError("not all of it could be written, as when the disk is full") from error


def _at(identity: Any, path: str) -> Any:
    """A field by its dotted name; ``None`` where it is not there."""
    for name in path.split("."):
        identity = identity.get(name) if isinstance(identity, dict) else None
    return identity


def _changed(saved: Any, now: Any, path: str = "") -> Iterator[str]:
    """Dotted names of the fields in which two configurations differ."""
    if isinstance(saved, dict) and isinstance(now, dict):
        for name in saved.keys() | now.keys():
            yield from _changed(saved.get(name), now.get(name), f"{path}.{name}" if path else name)
    elif saved != now:
        yield path
