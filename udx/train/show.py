"""What training shows on the terminal beside its progress."""

import json

from udx.config import to_plain
from udx.console import say, table
from udx.train.rehearsal import Rehearsal


def show_rehearsal(rehearsal: Rehearsal) -> None:
    """Print the configuration as JSON, then sizes, memory and the timed step."""
    say(json.dumps(to_plain(rehearsal.config), indent=2))
    counts = [*rehearsal.parameters.items()]
    trained = sum(count for name, count in counts if name != "teacher")
    table("parameters", ["module", "number"], [[name, f"{count:,}"] for name, count in (*counts, ("trained", trained))])
    memory = [*rehearsal.memory_mib.items(), ("together", rehearsal.total_mib)]
    table("memory of a process, estimated", ["what", "MiB"], [[name, f"{size:,.1f}"] for name, size in memory])
    for line in rehearsal.lines():
        say(line)
