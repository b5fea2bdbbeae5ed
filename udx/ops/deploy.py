"""Moved to ``udx.operators``, which imports no torch; this name goes away."""

from udx.operators import *  # noqa: F403
