"""Accelerate: the device, the precision, and the processes that train together."""

import os
from datetime import timedelta
from typing import Any, Final

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public, but not re-exported

PATIENCE: Final = timedelta(hours=2)
"""How long processes wait for each other: the first one scores a whole validation split while the others do."""


def join_processes() -> None:
    """Meet the other processes, if ``torchrun`` or ``accelerate launch`` has started several."""
    PartialState(cpu=_on_cpu(), timeout=PATIENCE, **_place_to_meet())


def make_accelerator(precision: str) -> Accelerator:
    """Accelerator of a training in ``precision``, whatever trainings this process has had before.

    Without a GPU it has to be told that the CPU is meant: else several processes would train each on its own.
    """
    # Accelerate keeps the precision of a process's first Accelerator; a teacher may have had another.
    AcceleratorState._reset_state()
    # Stages of a backbone that nothing reads, and all but the encoder while it learns alone, have no gradients.
    sharing = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=_on_cpu(), mixed_precision=precision, kwargs_handlers=[sharing])


def _place_to_meet() -> dict[str, Any]:
    """Where the processes leave their addresses: in ``torchrun``'s own store, apart for every restart.

    That store outlives a restart with what the processes before it wrote; who reads their addresses before the new ones
    stand there calls a process that is dead, and the connection is refused.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    return {"store": PrefixStore(f"restart-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)}


def _on_cpu() -> bool:
    return not torch.cuda.is_available()
