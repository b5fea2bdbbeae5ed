"""How much the fuzzers of these tests try: ``UDX_FUZZ_TIMES=100 UDX_FUZZ_SEED=7 pytest …`` tries more, and others."""

import os
from typing import Final

SEED: Final = int(os.environ.get("UDX_FUZZ_SEED", "0"))


def cases(count: int) -> int:
    """How many cases a fuzzer tries that tries ``count`` in the gate."""
    return max(1, round(count * float(os.environ.get("UDX_FUZZ_TIMES", "1"))))
