"""The state of every random generator that training draws from, as plain values and tensors."""

import random
from typing import Any

import torch


def rng_state() -> dict[str, Any]:
    """State of Python's and torch's generators, that of this process's GPU included; udx draws from no other."""
    version, words, gauss = random.getstate()
    return {
        "python": (version, list(words), gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Take up what ``rng_state`` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
