"""Where the operators run in these tests: the torch reference, Triton's interpreter, and a GPU.

Triton decides at import whether it interprets, so the interpreter has a process of its own, which lives as long as
the tests. What runs there must be a function of an importable module; operators are therefore given by name.
"""

import importlib
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch

import udx.ops
from udx.workers import end_with_parent


@dataclass(frozen=True)
class Home:
    """``run(function, *args)`` calls a function on this home's device and brings the result back to the CPU."""

    name: str
    pool: ProcessPoolExecutor | None = None

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.pool is not None:
            return pickle.loads(self.pool.submit(_unpacked, pickle.dumps((function, args))).result())
        if self.name == "cuda":
            return moved(function(*moved(args, "cuda")), "cpu")
        return function(*args)

    def __call__(self, operator: str, *args: Any) -> Any:
        return self.run(call, operator, *args)


def interpreter() -> Home:
    pool = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"), initializer=_be_a_worker)
    hidden = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    before = {name: os.environ.get(name) for name in hidden}
    os.environ.update(hidden)
    try:
        pool.submit(os.getpid).result()  # starts the process, which inherits the environment
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return Home("interpreter", pool)


def _be_a_worker() -> None:
    end_with_parent()
    _take_indices_by_item()


def _take_indices_by_item() -> None:
    """Mend Triton 3.6's interpreter: it takes ``int`` of an array of one element, which NumPy 2.4 refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


def _unpacked(packed: bytes) -> bytes:
    function, args = pickle.loads(packed)
    return pickle.dumps(function(*args))


def moved(value: Any, device: str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(moved(item, device) for item in value)
    return value


def call(operator: str, *args: Any) -> Any:
    return getattr(udx.ops, operator)(*args)


def launch(module: str, function: str, *args: Any) -> Any:
    """Launch kernels without the operator's checks before them."""
    return getattr(importlib.import_module(f"udx.ops.kernels.{module}"), function)(*args)


def gradients(operator: str, grad: torch.Tensor, wanted: int, *args: Any) -> tuple[torch.Tensor, ...]:
    """Gradients of the first ``wanted`` arguments."""
    leaves = [arg.detach().clone().requires_grad_() for arg in args[:wanted]]
    call(operator, *leaves, *args[wanted:]).backward(grad)
    return tuple(leaf.grad for leaf in leaves)


def passes_gradcheck(operator: str, wanted: int, *args: Any) -> bool:
    """Whether the gradients of the first ``wanted`` arguments are those of finite differences."""
    leaves = [arg.detach().clone().requires_grad_() for arg in args[:wanted]]
    return torch.autograd.gradcheck(lambda *given: call(operator, *given, *args[wanted:]), leaves)


def opcheck(operator: str, wanted: int, *args: Any) -> set[str]:
    """Verdicts of ``torch.library.opcheck``, with gradients for the first ``wanted`` arguments."""
    leaves = [arg.detach().clone().requires_grad_() for arg in args[:wanted]]
    return set(torch.library.opcheck(getattr(udx.ops, operator), (*leaves, *args[wanted:])).values())


def compiled(operator: str, *args: Any) -> Any:
    """The operator within a compiled function, which must not break at it."""
    torch._dynamo.reset()
    return torch.compile(lambda *given: call(operator, *given), backend="aot_eager", fullgraph=True)(*args)
