"""``python -m udx``."""

from udx.cli import run

run()
