"""``python -m udx``."""

import sys
from pathlib import Path

# Python puts the current folder first: what lies there runs only where it is udx itself.
if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from udx.cli import run

run()
