"""What nvidia-smi tells, asked in one place: it is absent on many machines, and names of fields differ by driver."""

import csv
import subprocess
from typing import Final

REASONS: Final = "clocks_event_reasons.active"
"""Why clocks are lower than they could be, as today's drivers call it."""

_REASONS_BEFORE: Final = "clocks_throttle_reasons.active"


def query_gpus(fields: tuple[str, ...]) -> list[dict[str, str]]:
    """Ask for fields of every GPU, and why its clocks are low under ``REASONS``, whatever the driver calls that.

    Returns:
        Values by field, a GPU after the other; empty where nvidia-smi is absent or fails.
    """
    for reasons in (REASONS, _REASONS_BEFORE):
        rows = _query("gpu", (*fields, reasons))
        if rows:
            return [dict(zip((*fields, REASONS), row, strict=True)) for row in rows]
    return []


def query_processes() -> list[list[str]]:
    """Ask for the programs that compute on the GPUs: process number, name, memory."""
    return _query("compute-apps", ("pid", "process_name", "used_memory"))


def _query(what: str, fields: tuple[str, ...]) -> list[list[str]]:
    command = ["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = csv.reader(done.stdout.strip().splitlines(), skipinitialspace=True)
    return [row for row in rows if len(row) == len(fields)]
