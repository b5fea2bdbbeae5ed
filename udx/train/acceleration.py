"""Accelerate: the device, the precision, and the processes that train together."""

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState


def join_processes() -> None:
    """Meet the other processes, if ``torchrun`` or ``accelerate launch`` has started several."""
    PartialState(cpu=_on_cpu())


def make_accelerator(precision: str) -> Accelerator:
    """Accelerator of a training in ``precision``, whatever trainings this process has had before.

    Without a GPU it has to be told that the CPU is meant: else several processes would train each on its own.
    """
    # Accelerate keeps the precision of a process's first Accelerator; a teacher may have had another.
    AcceleratorState._reset_state()
    # Stages of a backbone that nothing reads, and all but the encoder while it learns alone, have no gradients.
    sharing = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=_on_cpu(), mixed_precision=precision, kwargs_handlers=[sharing])


def _on_cpu() -> bool:
    return not torch.cuda.is_available()
