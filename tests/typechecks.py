"""Checks the annotations of arrays while tests run: their shapes and dtypes by jaxtyping, the rest by beartype.

The conftest at the top installs the checks before anything imports ``udx``. Programs that a test starts run without
them, as users do. JAXTYPING_DISABLE=1 switches them off.
"""

import ast
from pathlib import Path
from typing import Final

from jaxtyping import install_import_hook

PACKAGE: Final = Path(__file__).resolve().parents[1] / "udx"
CHECKER: Final = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
"""An int is a float, as PEP 484 has it."""


def checked_modules() -> list[str]:
    """Return the modules of ``udx`` that import jaxtyping: all of their functions are checked.

    The whole package cannot be: Triton compiles a kernel with the globals of the function that it decorates, and those
    of a checked function are jaxtyping's.
    """
    return [module_of(path) for path in sorted(PACKAGE.rglob("*.py")) if _imports_jaxtyping(path)]


def module_of(path: Path) -> str:
    """Return the name under which a file is imported."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def _imports_jaxtyping(path: Path) -> bool:
    source = path.read_text(encoding="utf-8")
    return "jaxtyping" in source and any(
        isinstance(node, ast.ImportFrom) and node.module == "jaxtyping" for node in ast.walk(ast.parse(source))
    )


def install() -> None:
    """Check all that is imported of ``checked_modules`` from now on."""
    install_import_hook(checked_modules(), CHECKER)
